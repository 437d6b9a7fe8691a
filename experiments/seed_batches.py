"""Runs of a comparison that differ only in their seeds, trained as one learner (docs/stacks.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from semigradient.errors import UserError
from semigradient.experiments.cells import Cell, Commands, Run, make_room
from semigradient.experiments.engines import CommandJob

FRESH, ALONE = "", "alone"
"""How a run has begun, where it is in no folder of several."""


@dataclass(frozen=True)
class SeedBatch:
    """Runs of one setting with consecutive seeds, two or more."""

    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """Name of its folder and of its job."""
        first, last = (self.runs[index].cell for index in (0, -1))
        return f"{first.base}.seeds-{first.seed}-{last.seed}"

    @property
    def folder(self) -> Path:
        """The folder of its run folders."""
        return self.runs[0].out / "runs" / self.name

    def job(self, commands: Commands) -> CommandJob:
        """Its job for an engine."""
        log = self.runs[0].out / "logs" / f"{self.name}.log"
        return CommandJob(self.name, partial(self.remaining, commands), log)

    def remaining(self, commands: Commands) -> Iterator[Sequence[str]]:
        """The remaining commands, each determined just before it starts."""
        if not all(run.finished for run in self.runs):
            if all((run.folder / "config.toml").exists() for run in self.runs):
                yield [*commands.train, "--resume", str(self.folder), *self.runs[0].trust()]
            else:
                first, count = self.runs[0], ["--seeds", str(len(self.runs))]
                make_room(self.folder, first.out, self.name)
                place = ["--run-dir", str(self.folder), "--wandb", "disabled"]
                yield [*commands.train, *first.cell.flags, *count, *place, *first.flags]
        for run in self.runs:
            yield from run.remaining(commands)


def grouped(
    runs: Iterable[Run], accepts: Callable[[Cell], bool], at_a_time: int
) -> list[Run | SeedBatch]:
    """Runs as units of work: seeds of a setting together, those that have begun as they began.

    Args:
        runs: not done.
        accepts: whether the seeds of a cell can learn as one.
        at_a_time: units that run at once; settings are split where there are fewer.
    """
    units: list[Run | SeedBatch] = []
    by_setting: dict[tuple[str, str], list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.cell.base, run.cell.seed)):
        by_setting.setdefault((run.cell.base, _begun(run)), []).append(run)
    pieces = max(1, at_a_time // max(1, len(by_setting)))
    for (_, begun), group in by_setting.items():
        if begun == ALONE or not accepts(group[0].cell):
            units += group
        elif begun == FRESH:
            for chain in _chains(group):
                units += _split(chain, pieces)
        else:
            units += [SeedBatch(tuple(group))] if len(group) > 1 else group
    return units


def _begun(run: Run) -> str:
    """How a run has begun: not at all, by itself, or in which folder of several."""
    if run.is_in_batch and run.summary.get("status") not in ("finished", "failed"):
        return run.folder.parent.name
    return ALONE if run.folder.exists() else FRESH


def _chains(group: Sequence[Run]) -> Iterator[list[Run]]:
    """Runs whose seeds follow each other."""
    numbered = enumerate(group)
    for _, chain in groupby(numbered, key=lambda pair: pair[1].cell.seed - pair[0]):
        yield [run for _, run in chain]


def _split(chain: Sequence[Run], pieces: int) -> Iterator[Run | SeedBatch]:
    """The runs in at most so many batches of two or more."""
    count = max(1, min(pieces, len(chain) // 2))
    bounds = [len(chain) * piece // count for piece in range(count + 1)]
    for first, last in pairwise(bounds):
        part = tuple(chain[first:last])
        yield SeedBatch(part) if len(part) > 1 else part[0]


def can_learn_as_one(cell: Cell, flags: Sequence[str]) -> bool:
    """Whether seeds of a cell have a stacked form; builds two of them."""
    from semigradient.stacks.stack import Stack
    from semigradient.training import cli
    from semigradient.training.build import build

    command = cli.parse([*cell.flags, *flags]).command
    if command.run.diagnose or command.run.compile:
        return False
    agents: list[Any] = []
    try:
        for seed in (0, 1):
            local = replace(command, run=replace(command.run, device="cpu", seed=seed))
            agents.append(build(local, learning=False))
        Stack(agents)
    except UserError:
        return False
    finally:
        for agent in agents:
            agent.setup.envs.close()
    return True
