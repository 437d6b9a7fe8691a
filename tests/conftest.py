"""What all tests share: quiet surroundings and the training command in a process of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator

import pytest
import torch

from support.commands import ROOT, train_command

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
def start_train() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`start_train(*arguments)`: the same without waiting; nothing outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            train_command(arguments),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def float64() -> Iterator[None]:
    """Tensors are made in double precision, from seed 0."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)
