"""One run of a comparison: its place in the grid, its folder, and its remaining commands."""

from __future__ import annotations

import glob
import itertools
import json
import re
import sys
import tomllib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from semigradient import optim as optimizers
from semigradient.errors import UserError
from semigradient.experiments.engines import KILLED, CommandJob, reason
from semigradient.experiments.settings import DEFAULT_OPTIMIZER, read_optimizer
from semigradient.training import trust
from semigradient.training.config_files import read_config

LONGEST_NAME = 200


@dataclass(frozen=True)
class Cell:
    """One run of the grid; in what was asked for, `optim` may be a grid of settings."""

    agent: str
    optim: str
    env: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its folder."""
        names = (re.sub(r"[:,=/]", "-", text) for text in (self.agent, self.optim, self.env))
        name = f"{'.'.join(names)}.{self.seed}"
        if len(name) <= LONGEST_NAME:
            return name
        return f"{name[:LONGEST_NAME]}.{zlib.crc32(name.encode()):08x}.{self.seed}"

    @property
    def base(self) -> str:
        """What the names of all seeds have in common."""
        return replace(self, seed=0).name.removesuffix(".0")

    @property
    def flags(self) -> list[str]:
        """Flags of `train.py` for this run."""
        name, options = read_optimizer(self.optim)
        optim = [] if name == DEFAULT_OPTIMIZER else ["--optim", name]
        optim += optimizers.flags(options)
        return ["--agent", self.agent, "--env", self.env, *optim, "--seed", str(self.seed)]


@dataclass(frozen=True)
class Commands:
    """Command lines of the two programs of a run; tests substitute others.

    Attributes:
        ours: whether they are this package's own, so that a run can be built here beforehand.
    """

    train: tuple[str, ...]
    evaluate: tuple[str, ...]
    ours: bool = False

    @classmethod
    def of(cls, train: Path, evaluate: Path, ours: bool = False) -> Commands:
        """Two scripts, started with this Python."""
        return cls((sys.executable, str(train)), (sys.executable, str(evaluate)), ours)


@dataclass(frozen=True)
class Run:
    """A cell on disk: its completed and its remaining commands."""

    cell: Cell
    out: Path
    flags: tuple[str, ...]
    episodes: int

    @property
    def folder(self) -> Path:
        """Its run folder, by itself or among those of several seeds."""
        alone = self.out / "runs" / self.cell.name
        pattern = f"{glob.escape(self.cell.base)}.seeds-*/seed-{self.cell.seed}"
        return alone if alone.exists() else next((self.out / "runs").glob(pattern), alone)

    @property
    def name(self) -> str:
        """Name of its job."""
        return self.cell.name

    @property
    def is_in_batch(self) -> bool:
        """Whether its folder is among those of several seeds."""
        return self.folder.parent.name != "runs"

    @property
    def log(self) -> Path:
        """Log of its commands."""
        name = self.folder.parent.name if self.is_in_batch else self.cell.name
        return self.out / "logs" / f"{name}.log"

    @property
    def summary(self) -> dict[str, Any]:
        """What training wrote at its end; empty before."""
        return read_json(self.folder / "summary.json")

    @property
    def finished(self) -> bool:
        """Whether training has finished."""
        return self.summary.get("status") == "finished"

    @property
    def evaluation(self) -> dict[str, Any]:
        """The scores of the trained run; empty unless evaluated over `episodes` episodes."""
        scores = read_json(self.folder / "evaluation.json")
        return scores if scores.get("episodes") == self.episodes else {}

    @property
    def done(self) -> bool:
        """Whether it is trained and evaluated."""
        return self.finished and bool(self.evaluation)

    @property
    def diverged(self) -> bool:
        """Whether training itself gave up on numbers that were not finite."""
        status, message = self.standing()
        return status == "failed" and "finite" in message

    def standing(self) -> tuple[str, str]:
        """Its status, and why it is not done.

        The status is done, not run, stopped (nobody wrote why), not evaluated, killed, or what
        training said: failed or interrupted.
        """
        if self.done:
            return "done", ""
        status, words = self.summary.get("status"), reason(self.log)
        if status == "finished":
            return "not evaluated", words
        if words.startswith(KILLED):  # the summary is of an earlier attempt
            return "killed", words
        if status == "failed":
            return status, str(self.summary.get("message") or words)
        return status or ("stopped" if self.log.exists() else "not run"), words

    def job(self, commands: Commands) -> CommandJob:
        """Its job for an engine."""
        return CommandJob(self.cell.name, partial(self.remaining, commands), self.log)

    def remaining(self, commands: Commands) -> Iterator[Sequence[str]]:
        """The remaining commands, each determined just before it starts."""
        if not self.finished:
            if any(self.folder.glob("checkpoints/*step-*/manifest.json")):
                yield [*commands.train, "--resume", str(self.folder), *self.trust()]
            else:
                make_room(self.folder, self.out, self.cell.name)
                place = ["--run-dir", str(self.folder), "--wandb", "disabled"]
                yield [*commands.train, *self.cell.flags, *place, *self.flags]
        if not self.evaluation:
            episodes = ["--episodes", str(self.episodes)]
            yield [*commands.evaluate, str(self.folder), *episodes, *self.trust()]

    def trust(self) -> list[str]:
        """`--trust` for a folder whose files name code, if this comparison names it all too."""
        config = self.folder / "config.toml"
        asked = trust.named_code(read_config(config)) if config.exists() else {}
        words = [*self.cell.flags, *self.flags]
        named = "--trust" in words or trust.typed(words).issuperset(asked.values())
        return ["--trust"] if asked and named else []

    def config(self) -> dict[str, Any]:
        """All options of the run as they were resolved; empty before it has started.

        Raises:
            UserError: the file is damaged.
        """
        path = self.folder / "config.toml"
        try:
            return tomllib.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is damaged: {error}") from error

    def check(self) -> None:
        """Raise `UserError` if its folder holds a different run."""
        config = self.config()
        if not config:
            return
        stored = {key: config.get(key) for key in ("agent", "env", "optim")}
        stored["seed"] = config.get("run", {}).get("seed")
        for key, value in stored.items():
            expected = getattr(self.cell, key)
            expected = read_optimizer(expected)[0] if key == "optim" else expected
            if value not in (None, expected) and expected != DEFAULT_OPTIMIZER:
                raise UserError(f"{self.folder} holds a run with {key} {value!r}, not {expected!r}")


def make_room(folder: Path, out: Path, name: str) -> None:
    """Move away the remains of an attempt without a checkpoint."""
    if folder.exists():
        attic = out / "abandoned"
        attic.mkdir(exist_ok=True)
        free = (attic / f"{name}-{number}" for number in itertools.count(1))
        folder.rename(next(path for path in free if not path.exists()))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty if the file is missing or truncated."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return content if isinstance(content, dict) else {}
