"""Whole trainings through the command, with the presets, against published scores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from semigradient.commands import train

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("agent", "steps", "threshold"),
    [
        ("ppo", 100_000, 475.0),
        ("a2c", 500_000, 475.0),
        ("dqn", 50_000, 400.0),
        ("ddqn", 50_000, 400.0),
        ("ddqn --replay prioritised", 50_000, 400.0),
        ("ddqn --distribution c51 --v-min 0 --v-max 100", 50_000, 400.0),
        ("ddqn --distribution quantile", 50_000, 400.0),
    ],
)
def test_cartpole_is_solved(agent: str, steps: int, threshold: float, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = [
        "--agent",
        *agent.split(),
        "--env",
        "CartPole-v1",
        "--steps",
        str(steps),
        "--seed",
        "1",
    ]
    assert train([*arguments, "--run-dir", str(folder), "--wandb", "disabled"]) == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["steps"] >= steps
    assert summary["eval"]["mean"] >= threshold


@pytest.mark.parametrize("agent", ["td3", "sac"])
def test_a_pendulum_is_swung_up(agent: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = ["--agent", agent, "--env", "Pendulum-v1", "--seed", "1", "--eval-every", "0"]
    arguments += ["--eval-episodes", "20", "--run-dir", str(folder), "--wandb", "disabled"]
    assert train(arguments) == 0
    assert json.loads((folder / "summary.json").read_text())["eval"]["mean"] >= -200.0
