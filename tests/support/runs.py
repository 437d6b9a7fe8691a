"""Run folders: killed, finished, and compared to the last bit."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from semigradient.training import checkpoint
from support.states import differences


def kill_after_first_checkpoint(process: subprocess.Popen[str], folder: Path) -> None:
    """End a run as a power failure would, once it has left something to go on from."""
    deadline = time.monotonic() + 120
    while not list((folder / "checkpoints").glob("step-*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for a run that must succeed."""
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors


def final(folder: Path) -> checkpoint.Loaded:
    """The newest checkpoint of a run, none of them damaged."""
    loaded = checkpoint.load(folder / "checkpoints", None)
    assert loaded.skipped == []
    return loaded


def assert_same_run(one: Path, other: Path) -> None:
    """Same step, same state to the last bit, same policy and metrics (but for the clock)."""
    first, second = final(one), final(other)
    assert first.step == second.step
    assert {"agent", "torch_rng", "evaluation"} <= set(first.state)
    assert differences(first.state, second.state) == []
    policies = [checkpoint.load(folder / "policy", None) for folder in (one, other)]
    assert differences(policies[0].state, policies[1].state) == []
    assert untimed_metrics(one) == untimed_metrics(other)


def untimed_metrics(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert rows
    assert all(row.pop("time") >= 0 for row in rows)
    return rows
