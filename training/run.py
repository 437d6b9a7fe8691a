"""The run folder: everything needed to evaluate, resume, compare and replot a run."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from semigradient.errors import UserError
from semigradient.training.command import Command
from semigradient.training.config_files import dump_toml

_PACKAGES = ("torch", "numpy", "gymnasium", "ale-py", "stable-baselines3", "safetensors")


def create(command: Command, protocol: dict[str, Any], exist_ok: bool = False) -> Path:
    """Make the run folder and write `config.toml` and `provenance.json`.

    Raises:
        UserError: the folder cannot be made, or already holds a run.
    """
    folder = Path(command.run.run_dir) if command.run.run_dir else _new_folder(command)
    if (folder / "config.toml").exists() and not exist_ok:
        raise UserError(
            f"run_dir={str(folder)!r}: already holds a run; continue it with --resume {folder}"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.toml").write_text(dump_toml(command.tables()))
        write_json(folder / "provenance.json", {**provenance(), "protocol": protocol})
    except OSError as problem:
        raise UserError(
            f"run_dir={str(folder)!r}: cannot be written ({problem.strerror}); "
            "accepted is any folder that can"
        ) from None
    return folder


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a small JSON file atomically."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=2, default=str) + "\n")
    os.replace(temporary, path)


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


def _new_folder(command: Command) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    run = command.run
    names = "-".join(re.sub(r"[:/]", "-", name) for name in (run.agent, run.env, run.optim))
    base = Path("runs") / f"{names}-s{run.seed}-{stamp}"
    folder, count = base, 1
    while folder.exists():
        count += 1
        folder = base.with_name(f"{base.name}-{count}")
    return folder


def _commit() -> str | None:
    """Commit of the checkout, with a mark when files differ from it."""
    root = Path(__file__).parent.parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
