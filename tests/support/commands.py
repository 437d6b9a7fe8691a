"""The training command in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
QUIET = ("--wandb", "disabled", "--no-tensorboard", "--no-progress")


def train_command(arguments: tuple[object, ...]) -> list[str]:
    """The command line of a quiet training run."""
    return [sys.executable, "train.py", *map(str, arguments), *QUIET]
