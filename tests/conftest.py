"""What all tests share: quiet surroundings and the training command in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import gymnasium
import pytest
import torch

from semigradient import registry
from semigradient.commands import train
from support.commands import QUIET, ROOT, train_command
from support.plugin import write_package
from support.processes import Forked

# Read when W&B is imported, here and in every process that a test starts.
os.environ["WANDB_MODE"] = "disabled"
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is slow to read is kept for all tests and workers, and not in the user's folder."""
    root = tmp_path_factory.getbasetemp()
    shared = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    os.environ["SEMIGRADIENT_CACHE"] = str(shared / "cache")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Runs started in this process may choose more threads; the next test starts with one."""
    yield
    torch.set_num_threads(1)


@pytest.fixture
def run_train() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run_train(*arguments)`: train.py in a new process, from the repository's root."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = train_command(arguments)
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)

    return run


@pytest.fixture
def start_train() -> Iterator[Callable[..., Forked]]:
    """`start_train(*arguments)`: the same, forked and without waiting; it ends with the test."""
    started: list[Forked] = []

    def start(*arguments: object) -> Forked:
        started.append(Forked(train, *arguments, *QUIET))
        return started[-1]

    yield start
    for process in started:
        process.end()


@pytest.fixture
def float64() -> Iterator[None]:
    """Tensors are made in double precision, from seed 0."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of `support.plugin`, on the path of this process and of those that it starts."""
    folder = write_package(tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *_python_path()]))
    monkeypatch.syspath_prepend(folder)
    registry.installed.cache_clear()
    yield folder
    registry.installed.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "crafted"]:
        del sys.modules[name]
    gymnasium.registry.pop("Corridor-v0", None)


def _python_path() -> list[str]:
    return [os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else []
