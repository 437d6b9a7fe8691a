"""Runs that go on: which run a command continues, and what happens to its schedules.

Schedules (exploration, learning rate, clipping) span the steps that a run was made for. A run that
is made longer keeps them as they were, so that what it has done and what it does are one run; they
span another number of steps only if `--schedule-steps` says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from semigradient.errors import UserError
from semigradient.training import seed_folders
from semigradient.training.command import Command
from semigradient.training.config_files import read_config
from semigradient.training.run_files import require_plain

_NAMES = ("agent", "env", "optim")
_OF_THE_RUN = ("seed", "num_envs", "env_options", "eval_env_options")


def kept_schedule(command: Command, saved: Command, words: Sequence[str]) -> Command:
    """The command with schedules that span what they did, unless words say something else."""
    flags = {word.partition("=")[0].replace("_", "-") for word in words}
    if "--schedule-steps" in flags or command.run.span == saved.run.span:
        return command
    run = dataclasses.replace(command.run, schedule_steps=saved.run.span)
    return dataclasses.replace(command, run=run)


def remarks(command: Command, saved: Command) -> list[str]:
    """What the user should know about a run whose length or schedules change."""
    before, now = saved.run, command.run
    if before.span != now.span:
        return [f"schedules span {now.span} steps from here on; they spanned {before.span}"]
    if now.steps <= now.span or now.steps == before.steps:
        return []
    lines = [f"schedules span {now.span} steps, as before (--schedule-steps changes that)"]
    fields = {
        field.name: getattr(command.agent, field.name)
        for field in dataclasses.fields(command.agent)
    }
    ended = [name for name, value in fields.items() if "schedule" in name and value == "linear"]
    if ended:
        names = ", ".join(f"{name}=linear" for name in ended)
        lines.append(f"warning: {names}: has fallen to 0 at step {now.span} and stays there")
    return lines


def newest_match(command: Command, seeds: int = 0) -> Path | None:
    """The folder of the newest run of a command, in `run_dir` or runs/; None: there is none.

    Runs that differ in length, or in what they log, save and show, are of the same command.

    Args:
        command: of a run.
        seeds: of so many runs that learn as one, the command being the first one's; 0: of one.
    """
    named = command.run.run_dir
    folders = [Path(named)] if named else list(Path("runs").glob("*"))
    first = command.run.seed
    if seeds:
        wanted = list(range(first, first + seeds))
        folders = [folder for folder in folders if seed_folders.seeds_of(folder) == wanted]
    of_run = {folder: seed_folders.place(folder, first) if seeds else folder for folder in folders}
    matching = [folder for folder, run in of_run.items() if _is_of(run, command)]
    return max(matching, key=lambda folder: _last_written(of_run[folder]), default=None)


def _is_of(folder: Path, command: Command) -> bool:
    if not (folder / "config.toml").is_file():
        return False
    try:
        require_plain(folder)
        tables = read_config(folder / "config.toml")
    except UserError:
        return False
    ours = command.tables()
    run = tables.get("run", {})
    return (
        all(tables.get(name) == ours[name] for name in _NAMES)
        and all(run.get(name, ours["run"][name]) == ours["run"][name] for name in _OF_THE_RUN)
        and _agrees(tables.get("agent_config", {}), ours["agent_config"])
        and _agrees(tables.get("optimizer", {}), ours["optimizer"])
    )


def _agrees(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    """Whether all values agree; what an older run does not have is left to the checkpoint."""
    return all(name in ours and ours[name] == value for name, value in theirs.items())


def _last_written(folder: Path) -> float:
    files = [folder / "config.toml", folder / "metrics.jsonl"]
    return max(file.stat().st_mtime for file in files if file.exists())
