"""A comparison: agents × optimizers × environments × seeds, each cell one run folder.

A comparison is a folder:

    comparison.json   the cells, the flags that all runs share, the commands that created them
    runs/NAME/        the run folders of `train.py`, with `evaluation.json` of `evaluate.py`
    logs/NAME.log     output of the commands of a run
    results.csv, curves.csv, curves.png, profile.png, report.md

The files of the last line can be rebuilt from the others at any time.
"""

from __future__ import annotations

import csv
import inspect
import itertools
import json
import os
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from semigradient import agents as agent_registry
from semigradient import envs as environments
from semigradient import optim as optimizers
from semigradient.errors import UserError, require, unknown
from semigradient.experiments.engines import CommandJob, last_words
from semigradient.training import trust
from semigradient.training.config_files import read_config

DEFAULT_OPTIMIZER = "default"
CELL_COLUMNS = ("agent", "optim", "env", "seed")
OWN_FLAGS = (*CELL_COLUMNS, "steps", "threads", "run-dir", "resume", "wandb")
SCHEMA = 1


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    agent: str
    optim: str
    env: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its folder."""
        names = (re.sub(r"[:,=/]", "-", text) for text in (self.agent, self.optim, self.env))
        return f"{'.'.join(names)}.{self.seed}"

    @property
    def flags(self) -> list[str]:
        """Flags of `train.py` for this run."""
        name, options = read_optimizer(self.optim)
        optim = [] if name == DEFAULT_OPTIMIZER else ["--optim", name]
        optim += [word for key, value in options.items() for word in (f"--optim.{key}", value)]
        return ["--agent", self.agent, "--env", self.env, *optim, "--seed", str(self.seed)]


def read_optimizer(text: str) -> tuple[str, dict[str, str]]:
    """Name and options of NAME or NAME:KEY=VALUE,KEY=VALUE, where NAME may be module:Config."""
    name, _, options = text.partition(":")
    ours = name in optimizers.OPTIMIZERS or name == DEFAULT_OPTIMIZER
    if name and not ours and options.partition(":")[0].isidentifier():
        attribute, _, options = options.partition(":")
        name = f"{name}:{attribute}"
    pairs = [option.partition("=") for option in options.split(",") if option]
    for key, equals, value in pairs:
        require(
            bool(key and equals and value),
            f"--optim {text!r}: accepted is NAME or NAME:KEY=VALUE,KEY=VALUE",
        )
    return name, {key: value for key, _, value in pairs}


@dataclass(frozen=True)
class Commands:
    """Command lines of the two programs of a run; tests substitute others."""

    train: tuple[str, ...]
    evaluate: tuple[str, ...]

    @classmethod
    def of(cls, train: Path, evaluate: Path) -> Commands:
        """Two scripts, started with this Python."""
        return cls((sys.executable, str(train)), (sys.executable, str(evaluate)))


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
        name, options = read_optimizer(optim)
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


def grid(
    agents: Sequence[str], optims: Sequence[str], envs: Sequence[str], seeds: Sequence[int]
) -> list[Cell]:
    """All cells, seed by seed, so that a comparison stopped early is still balanced."""
    cells = (
        Cell(agent, optim, env, seed)
        for seed in seeds
        for env in envs
        for agent in agents
        for optim in optims
    )
    return list(dict.fromkeys(cells))


@dataclass(frozen=True)
class Run:
    """A cell on disk: its completed and its remaining commands."""

    cell: Cell
    out: Path
    flags: tuple[str, ...]
    episodes: int

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return self.out / "runs" / self.cell.name

    @property
    def log(self) -> Path:
        """Log of its commands."""
        return self.out / "logs" / f"{self.cell.name}.log"

    @property
    def finished(self) -> bool:
        """Whether training has finished."""
        return read_json(self.folder / "summary.json").get("status") == "finished"

    @property
    def evaluation(self) -> dict[str, Any]:
        """The scores of the trained run; empty unless evaluated over `episodes` episodes."""
        scores = read_json(self.folder / "evaluation.json")
        return scores if scores.get("episodes") == self.episodes else {}

    @property
    def done(self) -> bool:
        """Whether it is trained and evaluated."""
        return self.finished and bool(self.evaluation)

    def job(self, commands: Commands) -> CommandJob:
        """Its job for an engine."""
        return CommandJob(self.cell.name, partial(self.remaining, commands), self.log)

    def remaining(self, commands: Commands) -> Iterator[Sequence[str]]:
        """The remaining commands, each determined just before it starts."""
        if not self.finished:
            if any(self.folder.glob("checkpoints/*step-*/manifest.json")):
                yield [*commands.train, "--resume", str(self.folder), *self._trust()]
            else:
                self._make_room()
                place = ["--run-dir", str(self.folder), "--wandb", "disabled"]
                yield [*commands.train, *self.cell.flags, *place, *self.flags]
        if not self.evaluation:
            episodes = ["--episodes", str(self.episodes)]
            yield [*commands.evaluate, str(self.folder), *episodes, *self._trust()]

    def _trust(self) -> list[str]:
        """`--trust` for a folder whose files name code, if this comparison names it all too."""
        config = self.folder / "config.toml"
        asked = trust.named_code(read_config(config)) if config.exists() else {}
        words = [*self.cell.flags, *self.flags]
        named = "--trust" in words or trust.typed(words).issuperset(asked.values())
        return ["--trust"] if asked and named else []

    def _make_room(self) -> None:
        """Move away the remains of an attempt without a checkpoint."""
        if self.folder.exists():
            attic = self.out / "abandoned"
            attic.mkdir(exist_ok=True)
            free = (attic / f"{self.cell.name}-{number}" for number in itertools.count(1))
            self.folder.rename(next(path for path in free if not path.exists()))

    def check(self) -> None:
        """Raise `UserError` if its folder holds a different run."""
        path = self.folder / "config.toml"
        if not path.exists():
            return
        try:
            config = tomllib.loads(path.read_text())
        except tomllib.TOMLDecodeError as error:
            raise UserError(f"{path} is damaged: {error}") from error
        stored = {key: config.get(key) for key in ("agent", "env", "optim")}
        stored["seed"] = config.get("run", {}).get("seed")
        for key, value in stored.items():
            expected = getattr(self.cell, key)
            expected = read_optimizer(expected)[0] if key == "optim" else expected
            if value not in (None, expected) and expected != DEFAULT_OPTIMIZER:
                raise UserError(f"{self.folder} holds a run with {key} {value!r}, not {expected!r}")


@dataclass(frozen=True)
class Comparison:
    """All cells of a folder, including those of earlier commands."""

    out: Path
    cells: tuple[Cell, ...]
    flags: tuple[str, ...]
    episodes: int
    history: tuple[dict[str, Any], ...] = ()

    def runs(self) -> list[Run]:
        """One run per cell."""
        return [Run(cell, self.out, self.flags, self.episodes) for cell in self.cells]

    @cached_property
    def _shown(self) -> tuple[bool, bool]:
        agents = {cell.agent for cell in self.cells}
        optims = {cell.optim for cell in self.cells}
        return len(agents) > 1 or len(optims) == 1, len(optims) > 1

    def method(self, cell: Cell) -> str:
        """Name of the compared method: agent, optimizer or both, depending on which vary."""
        agent, optim = self._shown
        return " + ".join([cell.agent] * agent + [cell.optim] * optim)

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
            "cells": [asdict(cell) for cell in self.cells],
            "history": self.history,
        }
        self.out.mkdir(parents=True, exist_ok=True)
        unfinished = self.out / "comparison.json.new"
        unfinished.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(unfinished, self.out / "comparison.json")


def load(out: Path) -> Comparison:
    """The comparison in a folder."""
    path = out / "comparison.json"
    require(path.exists(), f"{out} holds no comparison: there is no comparison.json")
    content = read_json(path)
    require(bool(content), f"{path} is damaged")
    require(content.get("schema") == SCHEMA, f"{path}: made by another version of compare.py")
    cells = tuple(Cell(**cell) for cell in content["cells"])
    history = tuple(content["history"])
    return Comparison(out, cells, tuple(content["flags"]), content["episodes"], history)


def prepare(
    out: Path, cells: Sequence[Cell], flags: Sequence[str], episodes: int, command: str
) -> Comparison:
    """The comparison to run: new, or the one in `out` with these cells added.

    Runs in one folder share their flags; `UserError` if these differ from those of earlier runs.
    """
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    entry = {"date": date, "command": command, "machine": machine()}
    new = Comparison(out, tuple(cells), tuple(flags), episodes, (entry,))
    if (out / "comparison.json").exists():
        old = load(out)
        present = {run.cell for run in old.runs() if run.folder.exists()}
        if present and old.flags != new.flags:
            had, has = (shlex.join(flags) or "none" for flags in (old.flags, new.flags))
            raise UserError(f"{out} has runs with the flags {had}, not {has}: choose another --out")
        kept = [cell for cell in old.cells if cell in present or cell in new.cells]
        merged = tuple(dict.fromkeys([*kept, *new.cells]))
        new = replace(new, cells=merged, history=(*old.history, entry))
    for run in new.runs():
        run.check()
    return new


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
RESULT_COLUMNS = (*CELL_COLUMNS, "steps", *SCORE_COLUMNS, "seconds", "run")


def outcome(comparison: Comparison, run: Run) -> RunOutcome:
    """Read the outcome of a run from its folder."""
    from semigradient.experiments.statistics import normalised

    method = comparison.method(run.cell)
    summary = read_json(run.folder / "summary.json")
    if not run.done:
        status = summary.get("status") or ("stopped" if run.log.exists() else "not run")
        if status == "finished":
            status = "not evaluated"
        # The summary of an interrupted run may be that of an earlier attempt.
        message = summary.get("message") if status == "failed" else last_words(run.log)
        return RunOutcome(run.cell, method, status, str(message or ""), {})
    scores = run.evaluation
    value, kind = normalised(run.cell.env, float(scores["mean"]))
    row = asdict(run.cell) | {key: scores.get(key) for key in ("mean", "median", "iqm")}
    row |= {"steps": summary.get("steps"), "seconds": summary.get("seconds")}
    row |= {"normalised": value, "normalised_kind": kind}
    row["run"] = str(run.folder.relative_to(comparison.out))
    return RunOutcome(run.cell, method, "done", "", row)


def outcomes(comparison: Comparison) -> list[RunOutcome]:
    """The outcome of every run."""
    return [outcome(comparison, run) for run in comparison.runs()]


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Write a tidy table."""
    with path.open("w", newline="") as file:
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


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty if the file is missing or truncated."""
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return content if isinstance(content, dict) else {}
