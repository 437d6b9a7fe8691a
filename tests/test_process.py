"""Threads and memory of a process."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from training.process import keep_memory, prepare

FAULTS = """
import resource, torch
from training.process import prepare
torch.set_num_threads(1)
if {prepared}:
    prepare(1)
for _ in range(10):
    kept = [torch.ones(2_000_000) for _ in range(12)]
start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    kept = None
    kept = [torch.ones(2_000_000) for _ in range(12)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start)
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
    faults = [
        int(subprocess.check_output([sys.executable, "-c", FAULTS.format(prepared=prepared)]))
        for prepared in (False, True)
    ]
    # Otherwise 96 MB go back to the system in each of 10 rounds: 23 000 pages.
    assert faults[1] < faults[0] / 10
