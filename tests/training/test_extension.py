"""Runs that are made longer, and runs that a command finds again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from semigradient.commands import train
from semigradient.training import checkpoint
from semigradient.training.config_files import read_config
from support.commands import QUIET
from support.scripted_env import SMALL, Scripted, scripted
from support.states import differences

_FALLING = (
    "--agent dqn --env CartPole-v1 --preset none --hidden 4 --learning-starts 8 --train-every 8 "
    "--batch-size 4 --buffer-size 64 --eval-episodes 1 --log-every 16 --checkpoint-every 32 "
    "--schedule linear --epsilon-fraction 1 --eval-every 0"
)
FALLING = _FALLING.split()


def saved(folder: Path) -> dict[str, Any]:
    return checkpoint.load(folder / "checkpoints", None).state["agent"]


def rates(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["train/lr"] for row in rows if "train/lr" in row]


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 64 steps, which no test changes."""
    folder = tmp_path_factory.mktemp("runs") / "short"
    assert train([*FALLING, *QUIET, "--steps", "64", "--run-dir", str(folder)]) == 0
    return folder


def test_a_longer_run_is_the_one_that_would_have_been_made_with_the_same_schedules(
    short: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = shutil.copytree(short, tmp_path / "longer")
    assert train(["--resume", str(longer), "--steps", "128", *QUIET]) == 0
    said = capsys.readouterr().out
    assert "resumed at step 64 from step-000000000064 (exact)" in said
    assert "schedules span 64 steps, as before (--schedule-steps changes that)" in said
    assert "warning: schedule=linear: has fallen to 0 at step 64 and stays there" in said
    whole = tmp_path / "whole"
    words = ["--steps", "128", "--schedule-steps", "64", "--run-dir", str(whole)]
    assert train([*FALLING, *QUIET, *words]) == 0
    one, other = saved(longer), saved(whole)
    for state in (one, other):
        state["stepper"].pop("ended")  # what is logged at the end of the first part
    assert differences(one, other) == []


def test_schedules_that_are_stretched_are_said_and_are_not_exact(
    short: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = shutil.copytree(short, tmp_path / "longer")
    words = ["--resume", str(longer), "--steps", "128", "--schedule-steps", "128"]
    assert train([*words, *QUIET]) == 0
    said = capsys.readouterr().out
    assert "(statistical: schedules span 128 steps instead of 64)" in said
    assert "schedules span 128 steps from here on; they spanned 64" in said


def test_an_extension_that_is_interrupted_goes_on_to_the_new_length(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with scripted(lambda env: None):
        assert train([*SMALL, *QUIET, "--run-dir", str(folder)]) == 0

    def fail(env: Scripted) -> None:
        assert env.steps != 30

    with scripted(fail):
        assert train(["--resume", str(folder), "--steps", "128", *QUIET]) == 1
    with scripted(lambda env: None):
        assert train(["--resume", str(folder), *QUIET]) == 0
    assert checkpoint.load(folder / "checkpoints", None).step == 128
    run = read_config(folder / "config.toml")["run"]
    assert (run["steps"], run["schedule_steps"]) == (128, 64)


def test_auto_starts_a_run_and_then_goes_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    auto = [*FALLING, *QUIET, "--resume", "auto"]
    assert train([*auto, "--steps", "64"]) == 0
    (folder,) = Path("runs").iterdir()
    assert train([*auto, "--steps", "64", "--seed", "1"]) == 0
    other = next(path for path in Path("runs").iterdir() if path != folder)
    capsys.readouterr()
    assert train([*auto, "--steps", "96"]) == 0
    assert "resumed at step 64 from step-000000000064 (exact)" in capsys.readouterr().out
    assert len(list(Path("runs").iterdir())) == 2
    assert checkpoint.load(folder / "checkpoints", None).step == 96
    assert checkpoint.load(other / "checkpoints", None).step == 64
    assert train([*auto, "--steps", "96"]) == 0  # a job that is queued again has nothing to do
    assert train([*auto, "--steps", "96", "--hidden", "8"]) == 0
    assert len(list(Path("runs").iterdir())) == 3


def test_auto_takes_a_named_folder(tmp_path: Path) -> None:
    folder = tmp_path / "named"
    words = [*FALLING, *QUIET, "--resume=auto", "--run-dir", str(folder)]
    assert train([*words, "--steps", "32"]) == 0
    assert train([*words, "--steps", "64"]) == 0
    assert checkpoint.load(folder / "checkpoints", None).step == 64
