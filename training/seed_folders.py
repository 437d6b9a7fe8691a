"""The folder of K runs that learn as one: a run folder of each, and which seeds they are.

runs/ppo-CartPole-v1-adam-s0-7-20300102-030405/
    seeds.json      {"seeds": [0, …, 7]}
    seed-0/         a run folder like any other: resumed, evaluated and compared by itself
    …
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from semigradient.errors import UserError
from semigradient.training import run
from semigradient.training.command import Command
from semigradient.training.run_files import read_json, require_name, unwritable, write_json


def create(command: Command, count: int) -> list[Command]:
    """Make the folder of `count` seeds from the command's on; the command of each.

    Raises:
        UserError: it cannot be made, or already holds runs.
    """
    first = command.run.seed
    named = command.run.run_dir
    if named:
        require_name(named)
        run.require_new(Path(named))
    folder = run.make_folder(command, f"{first}-{first + count - 1}")
    seeds = list(range(first, first + count))
    try:
        write_json(folder / run.SEEDS, {"seeds": seeds})
    except OSError as problem:
        raise unwritable(folder, problem) from None
    return [member(command, folder, seed) for seed in seeds]


def member(command: Command, folder: Path, seed: int) -> Command:
    """The command of one seed, whose run folder lies in `folder`."""
    own = dataclasses.replace(command.run, seed=seed, run_dir=str(place(folder, seed)))
    return dataclasses.replace(command, run=own)


def place(folder: Path, seed: int) -> Path:
    """The run folder of one seed."""
    return folder / f"seed-{seed}"


def seeds_of(folder: Path) -> list[int]:
    """The seeds of the runs in a folder; none: it is not of runs that learn as one.

    Raises:
        UserError: `seeds.json` holds something else.
    """
    if not os.path.isfile(folder / run.SEEDS):  # of a name that no folder can have as well
        return []
    seeds: Any = read_json(folder / run.SEEDS).get("seeds")
    is_valid = isinstance(seeds, list) and len(seeds) > 1
    is_valid = is_valid and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not is_valid or len(set(seeds)) < len(seeds):
        raise UserError(f"{folder / run.SEEDS}: must hold the seeds of two or more runs")
    return list(seeds)
