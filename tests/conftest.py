"""What all tests share: quiet surroundings and the training command in a process of its own.

Read by the process that hands out the tests as well, which needs neither torch nor Gymnasium.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from semigradient import registry
from semigradient.commands import train
from support.commands import QUIET, ROOT, train_command
from support.plugin import write_package
from support.processes import Forked

# Read when W&B is imported, here and in every process that a test starts.
os.environ["WANDB_MODE"] = "disabled"


def pytest_collection_finish() -> None:
    """What is collected stays: the search for garbage need not look at it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is slow to read is kept for all tests and workers, and not in the user's folder."""
    root = tmp_path_factory.getbasetemp()
    shared = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    os.environ["SEMIGRADIENT_CACHE"] = str(shared / "cache")


@pytest.fixture(scope="session", autouse=True)
def _no_power_failure() -> Iterator[None]:
    """No test pulls the plug on this process: what it writes need not reach the disk at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Runs started in this process may choose more threads; the next test starts with one."""
    import torch

    torch.set_num_threads(1)
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
    import torch

    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def blank_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are saved without being drawn, which takes half a second each."""
    from matplotlib.figure import Figure

    def save(_figure: Figure, path: Path, **_options: object) -> None:
        Path(path).write_bytes(b"\x89PNG")

    monkeypatch.setattr(Figure, "savefig", save)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of `support.plugin`, on the path of this process and of those that it starts."""
    import gymnasium

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
