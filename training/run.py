"""The run folder: everything needed to evaluate, resume, compare and replot a run."""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from semigradient.errors import UserError
from semigradient.training.command import Command
from semigradient.training.config_files import dump_toml
from semigradient.training.lock import RunLock
from semigradient.training.run_files import (
    read_json,
    require_name,
    unwritable,
    write_json,
    write_text,
)

CONFIG, PROVENANCE, SEEDS = "config.toml", "provenance.json", "seeds.json"
_PACKAGES = ("torch", "numpy", "gymnasium", "ale-py", "stable-baselines3", "safetensors")


def create(command: Command, protocol: dict[str, Any]) -> RunLock:
    """Make the run folder, lock it, and write `config.toml` and `provenance.json`.

    Raises:
        UserError: the folder cannot be made, already holds a run, or another process trains it.
    """
    named = command.run.run_dir
    if named:
        require_name(named)
        require_new(Path(named))
    config = dump_toml(command.tables())
    folder = make_folder(command, str(command.run.seed))
    lock = RunLock(folder)
    try:
        require_new(folder)  # again: two may have come this far
        write_json(folder / PROVENANCE, {**provenance(), "protocol": protocol})
        write_text(folder / CONFIG, config)
    except BaseException as problem:
        lock.release()
        if isinstance(problem, OSError):
            raise unwritable(folder, problem) from None
        raise
    return lock


def extend(command: Command, folder: Path, attempt: Mapping[str, Any], step: int) -> None:
    """Write down how a run goes on: its options as they are now, and what it goes on with.

    Args:
        command: the options of this attempt; those of the last one stand in `config.toml`.
        folder: the run folder, locked.
        attempt: `provenance()` of this process.
        step: where it goes on.

    Raises:
        UserError: the folder cannot be written.
    """
    written = read_json(folder / PROVENANCE)
    earlier = written.get("resumed", [])
    attempts = [*(earlier if isinstance(earlier, list) else []), {"step": step, **attempt}]
    try:
        write_text(folder / CONFIG, dump_toml(command.tables()))
        write_json(folder / PROVENANCE, {**written, "resumed": attempts})
    except OSError as problem:
        raise unwritable(folder, problem) from None


def last_provenance(folder: Path) -> dict[str, Any]:
    """Provenance of the last attempt of a run; empty if unknown."""
    written = read_json(folder / PROVENANCE)
    attempts = written.get("resumed", [])
    last = attempts[-1] if isinstance(attempts, list) and attempts else written
    return last if isinstance(last, dict) else {}


def require_new(folder: Path) -> None:
    """`UserError` if a folder holds a run, or several."""
    for file, held in ((CONFIG, "a run; continue it"), (SEEDS, "runs; continue them")):
        try:
            is_taken = (folder / file).exists()
        except (OSError, ValueError) as problem:
            raise unwritable(folder, problem) from None
        if is_taken:
            raise UserError(f"run_dir={str(folder)!r}: already holds {held} with --resume {folder}")


def provenance() -> dict[str, Any]:
    """Provenance of a run: command, commit, versions and hardware."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "commit": _commit(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": versions,
        "hardware": {
            "cpu": _cpu_name(),
            "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def make_folder(command: Command, seeds: str) -> Path:
    """Make the folder that a command names, or a new one named after it and its seeds.

    Raises:
        UserError: it cannot be made.
    """
    named = command.run.run_dir
    try:
        return _make(Path(named)) if named else _new_folder(command, seeds)
    except (OSError, ValueError) as problem:
        raise unwritable(Path(named or "runs"), problem) from None


def _new_folder(command: Command, seeds: str) -> Path:
    """Make a folder that nobody else has, even if many start in one second."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    run = command.run
    names = "-".join(re.sub(r"[^\w.=+-]", "-", name) for name in (run.agent, run.env, run.optim))
    base = Path("runs") / f"{names[:150]}-s{seeds}-{stamp}"
    base.parent.mkdir(exist_ok=True)
    for count in itertools.count(1):
        folder = base if count == 1 else base.with_name(f"{base.name}-{count}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            break
    return folder


def _make(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _commit() -> str | None:
    """Commit of the checkout, with a mark when files differ from it."""
    root = Path(__file__).parent.parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=root,
            capture_output=True,
            encoding="utf-8",
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def _cpu_name() -> str:
    try:
        for line in (
            Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        ):
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
