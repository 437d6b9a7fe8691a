"""A comparison: agents × optimizers × environments × seeds, each cell one run folder.

A comparison is a folder:

    comparison.json   the cells, the flags that all runs share, the commands that created them
    runs/NAME/        the run folders of `train.py`, with `evaluation.json` of `evaluate.py`
    logs/NAME.log     output of the commands of a run
    results.csv, tuning.csv, curves.csv, curves.png, profile.png, report.md

The files of the last line can be rebuilt from the others at any time. An optimizer that is named
with several values (`experiments/settings.py`) is one method: its best setting is chosen by runs
on tuning seeds (`experiments/tuning.py`) and then runs on the seeds of the comparison.
"""

from __future__ import annotations

import csv
import inspect
import json
import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from semigradient import agents as agent_registry
from semigradient import envs as environments
from semigradient import optim as optimizers
from semigradient.errors import UserError, require, unknown
from semigradient.experiments.cells import Cell, Run, read_json
from semigradient.experiments.cells import Commands as Commands
from semigradient.experiments.settings import DEFAULT_OPTIMIZER, labels, read_grid
from semigradient.experiments.settings import read_optimizer as read_optimizer
from semigradient.experiments.tuning import Choice, Trial
from semigradient.validate import Seed, conform

CELL_COLUMNS = ("agent", "optim", "env", "seed")
OWN_FLAGS = (*CELL_COLUMNS, "steps", "threads", "run-dir", "resume", "wandb")
SCHEMA = 1
MOST_RUNS = 100_000

Key: TypeAlias = tuple[str, str, str]
"""Agent, optimizer as it was asked for, environment."""


def check_flags(flags: Sequence[str]) -> None:
    """Raise `UserError` for a flag of `train.py` that the comparison sets itself."""
    for flag in flags:
        name = flag.partition("=")[0]
        ours = name.removeprefix("--").replace("_", "-") in OWN_FLAGS and name.startswith("--")
        require(not ours, f"{name} after --: compare.py sets it itself")


def check_names(agents: Sequence[str], optims: Sequence[str], envs: Sequence[str]) -> None:
    """Raise `UserError` for a name that the registries do not have."""
    for agent in agents:
        agent_registry.entry(agent)
        if ":" in agent:  # existence is only known after the import
            agent_registry.config_class(agent)
    for optim in optims:
        grid = read_grid(optim)
        name, options = grid.name, grid.values
        if name == DEFAULT_OPTIMIZER:
            require(not options, f"--optim {optim!r}: {name!r} takes no options")
            continue
        if name not in optimizers.OPTIMIZERS and ":" not in name:
            unknown("optimizer", name, [DEFAULT_OPTIMIZER, *optimizers.names()])
        for agent in agents:
            agent_registry.check_optimizer(agent, name)
        accepted = list(inspect.signature(optimizers.config_class(name)).parameters)
        for key in options:
            if key.replace("-", "_") not in accepted:
                unknown(f"option of {name}", key, accepted)
    for env in envs:
        environments.check_id(env)


def check_seeds(seeds: Sequence[int], tuning: Sequence[int]) -> None:
    """Raise `UserError` for evaluation seeds that no run takes, or that settings are chosen on."""
    for seed in seeds:
        conform("seed", seed, Seed)
        require(seed not in tuning, f"seed {seed}: settings of grids are chosen on this seed")


def grid(
    agents: Sequence[str], optims: Sequence[str], envs: Sequence[str], seeds: Sequence[int]
) -> list[Cell]:
    """All cells, seed by seed, so that a comparison stopped early is still balanced."""
    count = len(agents) * len(optims) * len(envs) * len(seeds)
    require(count <= MOST_RUNS, f"{count} runs: accepted are at most {MOST_RUNS}")
    cells = (
        Cell(agent, optim, env, seed)
        for seed in seeds
        for env in envs
        for agent in agents
        for optim in optims
    )
    return list(dict.fromkeys(cells))


@dataclass(frozen=True)
class Comparison:
    """All cells of a folder, including those of earlier commands.

    Attributes:
        cells: what was asked for; `optim` of a cell may be a grid.
        tune_seeds: seeds that settings of grids are chosen on.
    """

    out: Path
    cells: tuple[Cell, ...]
    flags: tuple[str, ...]
    episodes: int
    history: tuple[dict[str, Any], ...] = ()
    tune_seeds: tuple[int, ...] = ()

    def run(self, cell: Cell) -> Run:
        """The run of a cell with one setting."""
        return Run(cell, self.out, self.flags, self.episodes)

    def choices(self, cells: Iterable[Cell] | None = None) -> dict[Key, Choice]:
        """The choices among settings, as far as runs are done; all by default."""
        result: dict[Key, Choice] = {}
        for cell in self.cells if cells is None else cells:
            key = (cell.agent, cell.optim, cell.env)
            if key not in result and read_grid(cell.optim).swept:
                trials = [self._trial(cell, text) for text in read_grid(cell.optim).settings]
                result[key] = Choice(*key, trials)
        return result

    def _trial(self, cell: Cell, setting: str) -> Trial:
        cells = [replace(cell, optim=setting, seed=seed) for seed in self.tune_seeds]
        return Trial(setting, [self.run(one) for one in cells])

    def scored(self, cells: Iterable[Cell] | None = None) -> list[tuple[Cell, Run | None]]:
        """The cells, all by default, each with its run; without one while no setting is chosen."""
        cells = self.cells if cells is None else list(cells)
        choices = self.choices(cells)
        pairs: list[tuple[Cell, Run | None]] = []
        for cell in cells:
            choice = choices.get((cell.agent, cell.optim, cell.env))
            setting = cell.optim if choice is None else choice.setting
            run = None if setting is None else self.run(replace(cell, optim=setting))
            pairs.append((cell, run))
        return pairs

    @cached_property
    def _labels(self) -> dict[str, str]:
        return labels(dict.fromkeys(cell.optim for cell in self.cells))

    @cached_property
    def _shown(self) -> tuple[bool, bool]:
        agents = {cell.agent for cell in self.cells}
        optims = {cell.optim for cell in self.cells}
        return len(agents) > 1 or len(optims) == 1, len(optims) > 1

    def method(self, cell: Cell) -> str:
        """Name of the compared method: agent, optimizer or both, depending on which vary."""
        agent, optim = self._shown
        return " + ".join([cell.agent] * agent + [self._labels[cell.optim]] * optim)

    def methods(self) -> list[str]:
        """All methods, in the order of the command line."""
        return list(dict.fromkeys(self.method(cell) for cell in self.cells))

    def envs(self) -> list[str]:
        """All environments, in the order of the command line."""
        return list(dict.fromkeys(cell.env for cell in self.cells))

    def save(self) -> None:
        """Write `comparison.json`."""
        content = {
            "schema": SCHEMA,
            "flags": self.flags,
            "episodes": self.episodes,
            "tune_seeds": self.tune_seeds,
            "cells": [asdict(cell) for cell in self.cells],
            "history": self.history,
        }
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            unfinished = self.out / "comparison.json.new"
            unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            os.replace(unfinished, self.out / "comparison.json")
        except OSError as error:
            raise UserError(f"--out {str(self.out)!r}: {error.strerror}") from error


def load(out: Path) -> Comparison:
    """The comparison in a folder."""
    path = out / "comparison.json"
    require(is_there(path), f"{str(out)!r} holds no comparison: there is no comparison.json")
    content = read_json(path)
    require(bool(content), f"{path} is damaged")
    require(content.get("schema") == SCHEMA, f"{path}: made by another version of compare.py")
    try:
        cells = tuple(Cell(**cell) for cell in content["cells"])
        fields = (tuple(content["flags"]), content["episodes"], tuple(content["history"]))
        return Comparison(out, cells, *fields, tuple(content.get("tune_seeds", ())))
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: {error}") from error


def prepare(
    out: Path,
    cells: Sequence[Cell],
    flags: Sequence[str],
    episodes: int,
    command: str,
    tune_seeds: Sequence[int] = (),
) -> Comparison:
    """The comparison to run: new, or the one in `out` with these cells added.

    Runs in one folder share their flags and tuning seeds; `UserError` if these differ from those
    of earlier runs.
    """
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    entry = {"date": date, "command": command, "machine": machine()}
    new = Comparison(out, tuple(cells), tuple(flags), episodes, (entry,), tuple(tune_seeds))
    if is_there(out / "comparison.json"):
        new = _joined(load(out), new)
    check_seeds([cell.seed for cell in new.cells], new.tune_seeds)
    for run in _every_run(new):
        run.check()
    return new


def is_there(path: Path) -> bool:
    """Whether a file is there.

    Raises:
        UserError: no file can have such a name.
    """
    try:
        return path.exists()
    except (OSError, ValueError) as error:
        raise UserError(f"{str(path)[:80]!r}: {error}") from error


def _every_run(comparison: Comparison) -> list[Run]:
    """The runs of a comparison, of which some may not be there yet, those for tuning included."""
    tuning = [run for choice in comparison.choices().values() for run in choice.runs]
    return [*tuning, *(run for _, run in comparison.scored() if run is not None)]


def _joined(old: Comparison, new: Comparison) -> Comparison:
    """The comparison of a folder with the cells of another command added."""
    kept = _kept(old)
    if kept and old.flags != new.flags:
        had, has = (shlex.join(flags) or "none" for flags in (old.flags, new.flags))
        raise UserError(f"{old.out} has runs with the flags {had}, not {has}: choose another --out")
    others = set(old.choices(kept)) - set(new.choices())
    if others and new.tune_seeds and new.tune_seeds != old.tune_seeds:
        raise UserError(
            f"{old.out} has settings that were chosen on {len(old.tune_seeds)} tuning seeds, "
            f"not {len(new.tune_seeds)}: choose another --out, or name these grids again"
        )
    wanted = {*kept, *new.cells}
    merged = tuple(c for c in dict.fromkeys([*old.cells, *new.cells]) if c in wanted)
    seeds = new.tune_seeds or old.tune_seeds
    return replace(new, cells=merged, history=(*old.history, *new.history), tune_seeds=seeds)


def _kept(old: Comparison) -> list[Cell]:
    """The cells of earlier commands that have begun; those of the new one are kept anyway."""
    choices = old.choices()
    kept = []
    for cell, run in old.scored():
        choice = choices.get((cell.agent, cell.optim, cell.env))
        runs = [] if run is None else [run]
        if any(one.folder.exists() for one in (runs if choice is None else choice.runs)):
            kept.append(cell)
    return kept


@dataclass(frozen=True)
class RunOutcome:
    """The outcome of one run."""

    cell: Cell
    method: str
    status: str  # "done", or the status in which it stopped
    message: str
    row: dict[str, Any]  # of results.csv, when done

    @property
    def score(self) -> float:
        """Mean return over the evaluation episodes."""
        return float(self.row["mean"])


SCORE_COLUMNS = ("mean", "median", "iqm", "normalised", "normalised_kind")
RESULT_COLUMNS = (*CELL_COLUMNS, "method", "steps", *SCORE_COLUMNS, "seconds", "run")


def outcome(comparison: Comparison, cell: Cell, run: Run | None) -> RunOutcome:
    """The outcome of a cell, read from the folder of its run."""
    from semigradient.experiments.statistics import normalised

    method = comparison.method(cell)
    if run is None:
        choice = comparison.choices([cell])[cell.agent, cell.optim, cell.env]
        return RunOutcome(cell, method, "not tuned", choice.reason, {})
    if not run.done:
        return RunOutcome(run.cell, method, *run.standing(), {})
    scores, summary = run.evaluation, run.summary
    value, kind = normalised(run.cell.env, float(scores["mean"]))
    row = asdict(run.cell) | {"method": method}
    row |= {key: scores.get(key) for key in ("mean", "median", "iqm")}
    row |= {"steps": summary.get("steps"), "seconds": summary.get("seconds")}
    row |= {"normalised": value, "normalised_kind": kind}
    row["run"] = str(run.folder.relative_to(comparison.out))
    return RunOutcome(run.cell, method, "done", "", row)


def outcomes(comparison: Comparison) -> list[RunOutcome]:
    """The outcome of every cell."""
    return [outcome(comparison, cell, run) for cell, run in comparison.scored()]


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Write a tidy table."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def machine() -> dict[str, str]:
    """Commit, versions and hardware of this process, for the report."""
    from semigradient.training.run import provenance

    origin = provenance()
    hardware = origin["hardware"]
    words = {"commit": origin["commit"], **origin["versions"]}
    words |= {"CPU": f"{hardware['cpu']}, {hardware['cores']} cores", "GPU": hardware["gpu"]}
    return {key: str(value) for key, value in words.items() if value is not None}
