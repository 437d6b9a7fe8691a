"""Threads and memory of a process."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from semigradient.training.process import keep_memory, prepare

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
