"""An interrupted run of learners on exact games, resumed, is the uninterrupted one."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from semigradient import agents
from semigradient.commands import train
from support.commands import QUIET
from support.runs import assert_same_run, final
from support.smallest import agent_words


@pytest.mark.parametrize("name", ["naive", "m-maml", "cola"])
def test_a_resumed_run_stops_where_the_uninterrupted_one_does(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {
        "naive": "--env semigradient/IPD-v0 --pairs 3 --steps 20",
        "m-maml": "--env semigradient/IPD-v0 --batch-size 2 --updates 3 --models 2 --steps 40",
        "cola": "--env semigradient/LogisticGame-v0 --batch-size 3 --width 4 --steps 20",
    }[name]
    if name == "m-maml":
        flags += " --evaluation-updates 2"
    often = "--log-every 7 --eval-every 0 --eval-episodes 2 --checkpoint-every 5 --threads 1"
    words = [*agent_words((name, flags), tmp_path), *often.split(), *QUIET]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train([*words, "--run-dir", str(whole)]) == 0

    kind: Any = agents.agent_class(name)
    iterate, calls = kind.iterate, []

    def interrupted(agent: Any) -> Any:
        calls.append(agent)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return iterate(agent)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "iterate", interrupted)
        assert train([*words, "--run-dir", str(parts)]) == 128 + signal.SIGINT
    assert final(parts).step < final(whole).step
    assert train(["--resume", str(parts), *QUIET]) == 0
    assert_same_run(whole, parts)
