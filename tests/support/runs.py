"""Run folders: killed, finished, and compared to the last bit."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from semigradient.commands import train
from semigradient.training import checkpoint
from semigradient.training.logging import MetricsFile
from support.commands import QUIET
from support.processes import Forked
from support.states import differences


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
    process = Forked(_victim, *arguments, *QUIET)
    try:
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors
    finally:
        process.end()


def _victim(words: list[str]) -> int:
    """Train, and kill this process once it has a checkpoint and has written one more line.

    That is the same instant on every machine, however busy, and comes without warning.
    """
    save, write = checkpoint.save, MetricsFile.write
    saved = set()

    def saving(folder: Path, *rest: Any, **options: Any) -> Path:
        path = save(folder, *rest, **options)
        saved.add(folder.name)
        return path

    def writing(file: MetricsFile, step: int, values: Any) -> None:
        write(file, step, values)
        if "checkpoints" in saved:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.save, MetricsFile.write = saving, writing
    return train(words)


def finish(process: Forked) -> None:
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
