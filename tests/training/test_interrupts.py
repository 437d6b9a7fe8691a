"""Signals and evaluations without end: what was learned is saved first."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semigradient import evaluate
from semigradient.commands import train
from semigradient.training import checkpoint, signals
from semigradient.training.evaluation import UNDECLARED_LIMIT, step_limit
from semigradient.training.evaluation import evaluate as play
from support.commands import QUIET
from support.runs import assert_same_run
from support.scripted_env import SMALL, Scripted, scripted

SAVING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
EVALUATED = [*SMALL, "--eval-every", "32"]


@pytest.fixture(autouse=True)
def hearing() -> Iterator[None]:
    """SIGHUP as it usually is: whoever runs the tests behind nohup has it ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def send(name: str, sleeping: bool = False) -> None:
    """Send this process a signal, and let it be handled."""
    os.kill(os.getpid(), getattr(signal, name))
    if sleeping:
        signal.pause()  # a simulator that never answers: nothing but the handler ends this


@pytest.mark.parametrize("name", SAVING)
def test_every_signal_saves_after_the_iteration(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    before = signal.getsignal(getattr(signal, name))
    with scripted(lambda env: send(name) if env.steps == 20 else None):
        code = train([*SMALL, *QUIET, "--checkpoint-every", "0", "--run-dir", str(folder)])
    assert code == 128 + getattr(signal, name)
    assert signal.getsignal(getattr(signal, name)) == before
    left = summary(folder)
    assert left["status"] == "interrupted"
    assert 20 <= left["steps"] <= 24
    assert checkpoint.load(folder / "checkpoints", None).step == left["steps"]


@pytest.mark.parametrize("name", SAVING)
def test_a_signal_ends_an_evaluation_that_hangs_and_resuming_repeats_it(
    name: str, tmp_path: Path
) -> None:
    folder, whole = tmp_path / "run", tmp_path / "whole"

    def hang(env: Scripted) -> None:
        if env.is_evaluated and env.steps == 3:
            os.kill(os.getpid(), getattr(signal, name))
            while True:  # only an exception out of the handler ends this
                pass

    with scripted(hang):
        code = train([*EVALUATED, *QUIET, "--run-dir", str(folder)])
    assert code == 128 + getattr(signal, name)
    left = summary(folder)
    assert (left["status"], left["steps"]) == ("interrupted", 32)
    assert checkpoint.load(folder / "checkpoints", None).step == 32
    with scripted(lambda env: None):
        assert train(["--resume", str(folder), *QUIET]) == 0
    with scripted(lambda env: None):
        assert train([*EVALUATED, *QUIET, "--run-dir", str(whole)]) == 0
    assert_same_run(whole, folder)
    assert summary(folder)["best"] == summary(whole)["best"]


def test_an_evaluation_that_fails_costs_no_learning(tmp_path: Path) -> None:
    folder, whole = tmp_path / "run", tmp_path / "whole"

    def fail(env: Scripted) -> None:
        if env.is_evaluated:
            raise ZeroDivisionError("only in evaluation")

    with scripted(fail):
        assert train([*SMALL, *QUIET, "--run-dir", str(folder)]) == 1
    assert "only in evaluation" in summary(folder)["message"]
    assert checkpoint.load(folder / "checkpoints", None).step == 64
    with scripted(lambda env: None):
        assert train(["--resume", str(folder), *QUIET]) == 0
        Scripted.made = 0
        assert train([*SMALL, *QUIET, "--run-dir", str(whole)]) == 0
    assert_same_run(whole, folder)


def test_a_later_signal_leaves_a_hanging_iteration_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    now = 0.0
    monkeypatch.setattr(signals.time, "monotonic", lambda: now)

    def hang(env: Scripted) -> None:
        nonlocal now
        if env.steps == 20:
            send("SIGTERM")
            now = 0.5
            send("SIGHUP")  # of the same farewell
            assert env.steps == 20
            now = 3.0
            send("SIGTERM")
            raise AssertionError("not left")

    with scripted(hang):
        assert train([*SMALL, *QUIET, "--run-dir", str(folder)]) == 128 + signal.SIGTERM
    message = summary(folder)["message"]
    assert "the last checkpoint is step-000000000016" in message
    assert checkpoint.load(folder / "checkpoints", None).step == 16


def test_a_signal_that_the_surroundings_ignore_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with scripted(lambda env: send("SIGHUP") if env.steps == 20 else None):
            assert train([*SMALL, *QUIET, "--run-dir", str(tmp_path / "run")]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_environment_that_never_ends_is_cut_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    monkeypatch.setattr("semigradient.training.evaluation.UNDECLARED_LIMIT", 50)
    with scripted(lambda env: None, ends=False):
        assert train([*SMALL, *QUIET, "--run-dir", str(folder)]) == 0
        said = "evaluation: 2 of 2 episodes had not ended after 50 steps and were cut there"
        assert said in capsys.readouterr().err
        assert said in (folder / "messages.txt").read_text()
        assert summary(folder)["eval"]["mean"] == 50.0
        assert summary(folder)["eval"]["cut"] == 2
        assert evaluate.main([str(folder), "--episodes", "23", "--max-steps", "7"]) == 0
    report = json.loads((folder / "evaluation.json").read_text())
    assert report["returns"] == [7.0] * 23
    assert report["lengths"] == [7] * 23
    assert report["cut"] == 23
    assert "23 of 23 episodes had not ended after 7 steps" in capsys.readouterr().err


def test_the_limit_is_the_environments_own_where_it_has_one() -> None:
    from semigradient.envs import make_vector

    for name in ("CartPole-v1", "semigradient/HyperGrid-v0", "semigradient/Pendulum-v0"):
        envs = make_vector(name, 1, 0)
        assert step_limit(envs, 0) == 0
        assert step_limit(envs, 7) == 7
    assert step_limit(make_vector("semigradient/Pusher-v0", 1, 0, time_limit=0), 0) == (
        UNDECLARED_LIMIT
    )
    with scripted(lambda env: None):
        assert step_limit(make_vector("Scripted-v0", 1, 0), 0) == UNDECLARED_LIMIT


def test_cut_and_whole_episodes_share_the_count() -> None:
    """Environment i ends after 3 i + 2 steps; at 6 steps the later ones are cut."""
    from semigradient.envs import make_vector

    with scripted(lambda env: None):
        envs = make_vector("Scripted-v0", 4, 0)
        step = envs.step

        def shortened(actions: Any) -> Any:
            obs, reward, _, truncated, infos = step(actions)
            ages = [guarded.env.unwrapped.steps for guarded in envs.envs]
            ended = np.array([age % (3 * i + 2) == 0 for i, age in enumerate(ages)])
            return obs, reward, ended, truncated, infos

        envs.step = shortened
        scores = play(lambda obs, mask=None: np.zeros(4, np.int64), envs, 8, 6)
    assert scores.lengths.tolist()[:4] == [2, 2, 5, 5]
    assert scores.lengths.tolist()[4:6] == [6, 6]
    assert scores.cut >= 2
    assert scores.limit == 6
    assert len(scores.returns) == 8
