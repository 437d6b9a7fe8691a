"""Run folders: killed, finished, and compared to the last bit."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from semigradient.commands import train
from semigradient.training import checkpoint
from support.commands import QUIET, ROOT
from support.states import differences

# Kills itself once it has a checkpoint and has written one more line: at that instant on every
# machine, however busy, and without warning.
_VICTIM = """
import os, signal, sys
from semigradient.commands import train
from semigradient.training import checkpoint
from semigradient.training.logging import MetricsFile
save, write = checkpoint.save, MetricsFile.write
saved = set()
def saving(folder, *rest, **options):
    path = save(folder, *rest, **options)
    saved.add(folder.name)
    return path
def writing(file, step, values):
    write(file, step, values)
    if "checkpoints" in saved:
        os.kill(os.getpid(), signal.SIGKILL)
checkpoint.save, MetricsFile.write = saving, writing
sys.exit(train(sys.argv[1:]))
"""


def tiny_run(folder: Path, steps: int) -> Path:
    """A finished run of a learner of a few numbers, with checkpoints every 32 steps."""
    flags = (
        f"--agent dqn --env CartPole-v1 --steps {steps} --eval-episodes 1 --checkpoint-every 32 "
        "--hidden 4 --learning-starts 8 --train-every 8 --gradient-steps 1 --batch-size 4 "
        "--buffer-size 64"
    )
    assert train([*flags.split(), *QUIET, "--run-dir", str(folder)]) == 0
    return folder


def kill_after_first_checkpoint(*arguments: object) -> None:
    """Train, and end as in a power failure, once there is something to go on from."""
    command = [sys.executable, "-c", _VICTIM, *map(str, arguments), *QUIET]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for a run that must succeed."""
    _, errors = process.communicate()
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
