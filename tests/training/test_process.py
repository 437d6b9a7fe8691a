"""Threads and memory of a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from semigradient.errors import UserError
from semigradient.optim.memory import _container_memory
from semigradient.training.process import keep_memory, prepare
from semigradient.training.ring import check_memory

FAULTS = """
import resource, torch
from semigradient.training.process import prepare
prepare(1)
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
kept = [torch.ones(2_000_000) for _ in range(12)]
start = faults()
for _ in range(10):
    kept = None
    kept = [torch.ones(2_000_000) for _ in range(12)]
print(faults() - start)
"""


def test_threads_are_set() -> None:
    before = torch.get_num_threads()
    try:
        prepare(2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_user_who_has_tuned_memory_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert not keep_memory()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is on Linux")
def test_freed_memory_is_used_again() -> None:
    if not keep_memory():
        pytest.skip("not glibc, or tuned by the user")
    faults = int(subprocess.check_output([sys.executable, "-c", FAULTS]))
    # Handed back to the system, 96 MB would be 23 000 pages in each of 10 rounds.
    assert faults < 23_000


def _group(folder: Path, **numbers: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in numbers.items():
        (folder / f"memory.{name}").write_text(f"{value}\n")


def test_memory_is_bounded_by_every_control_group_above(tmp_path: Path) -> None:
    root, own = tmp_path / "cgroup", tmp_path / "own"
    own.write_text("12:cpu:/elsewhere\n0::/user/job\n")
    _group(root, max="max", current=5)
    assert _container_memory(root, own) is None
    _group(root / "user", max=1000, current=300, stat="anon 200\ninactive_file 50")
    assert _container_memory(root, own) == 750
    _group(root / "user" / "job", max=400, current=100)
    assert _container_memory(root, own) == 300
    own.write_text("5:memory:/job\n")
    _group(root / "memory" / "job", limit_in_bytes=90, usage_in_bytes=40)
    assert _container_memory(root, own) == 50


def test_a_replay_memory_takes_the_bound_of_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semigradient.optim.memory._container_memory", lambda: 1000)
    check_memory(10, 900, torch.device("cpu"))
    with pytest.raises(UserError, match=r"buffer_size=10: needs .* accepted up to 9"):
        check_memory(10, 901, torch.device("cpu"))
