"""Small states to save, and what a folder then holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from semigradient.training.state import Shard

IDENTITY = {"agent": "dqn", "env": "CartPole-v1", "lr": 1e-3, "hidden": [64, 64], "seed": None}


def small(step: int) -> dict[str, Any]:
    return {"value": torch.full((1000,), step), "steps": step, "big": np.full(500, step)}


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def replay(revisions: list[int]) -> dict[str, Any]:
    return {"replay": [Shard(torch.full((1000,), float(r)), r) for r in revisions]}
