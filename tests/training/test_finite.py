"""Where a number is not finite: losses and parameters stop a run, diagnostics do not."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from semigradient.agents.a2c import A2C
from semigradient.agents.games.m_fos import Config as MFOSConfig
from semigradient.commands import train
from semigradient.errors import UserError
from semigradient.nets.actor_critic import explained_variance
from semigradient.training.build import build as build_command
from semigradient.training.cli import parse
from support.continuous import SMALL
from support.problems import A2C as A2C_SETTINGS
from support.problems import PPO, build
from support.smallest import AGENT_FLAGS

_RUN = "--agent a2c --env CartPole-v1 --steps 400 --log-every 100 --eval-episodes 1 --hidden 8"


@pytest.mark.parametrize(
    ("logged", "code"),
    [({"entropy": math.nan, "explained_variance": -math.inf}, 0), ({"value_loss": math.nan}, 1)],
    ids=["diagnostic", "loss"],
)
def test_what_stops_a_run(
    logged: dict[str, float], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = A2C.iterate
    monkeypatch.setattr(A2C, "iterate", lambda self: {**own(self), **logged})
    folder = tmp_path / "run"
    assert train([*_RUN.split(), "--run-dir", str(folder), "--wandb", "disabled"]) == code
    summary = json.loads((folder / "summary.json").read_text())
    if code == 0:
        assert summary["status"] == "finished"
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert lines[0]["train/entropy"] == "nan"
    else:
        assert "train/value_loss = nan" in summary["message"]


def test_parameters_that_are_not_finite_stop_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = A2C.iterate

    def step(agent: Any) -> Any:
        scalars = own(agent)
        with torch.no_grad():
            next(agent.network.parameters()).view(-1)[0] = torch.inf
        return {key: value for key, value in scalars.items() if "loss" not in key}

    monkeypatch.setattr(A2C, "iterate", step)
    assert train([*_RUN.split(), "--run-dir", str(tmp_path / "run"), "--wandb", "disabled"]) == 1


def test_explained_variance_has_a_value_wherever_returns_are_alike() -> None:
    rng = np.random.default_rng(0)
    value, return_ = rng.normal(size=(2, 50))
    expected = 1 - np.var(return_ - value) / np.var(return_)
    found = explained_variance(torch.from_numpy(value), torch.from_numpy(return_))
    assert float(found) == pytest.approx(expected)
    for count in (1, 4):
        alike = explained_variance(torch.randn(count), torch.full((count,), 3.0))
        assert float(alike) == 0.0


def finite(agent: Any, iterations: int) -> None:
    for _ in range(iterations):
        for name, value in agent.iterate().items():
            assert math.isfinite(float(value)), name


def test_one_sample_at_a_time_is_learned_from() -> None:
    one = {"rollout_steps": 1, "batch_size": 1, "normalise_advantages": False}
    finite(build("ppo", "test/Clock-v0", {**PPO, **one}, num_envs=1), 6)
    alone = {**A2C_SETTINGS, "rollout_steps": 1}
    finite(build("a2c", "test/Clock-v0", alone, num_envs=1), 6)
    for name in ("td3", "sac"):
        single = {**SMALL, "batch_size": 1, "learning_starts": 2}
        finite(build(name, "test/Wide-v0", single, num_envs=1), 6)
    flags = AGENT_FLAGS["dau"][0].replace("--batch-size 8", "--batch-size 1")
    finite(build_command(parse(["--agent", "dau", *flags.split()]).command), 4)


def test_a_spread_of_one_number_is_refused() -> None:
    single = {**A2C_SETTINGS, "rollout_steps": 1, "normalise_advantages": True}
    with pytest.raises(UserError, match="rollout_steps × num_envs = 1: normalise_advantages"):
        build("a2c", "test/Clock-v0", single, num_envs=1)
    with pytest.raises(UserError, match="updates × batch_size = 1"):
        MFOSConfig(updates=1, batch_size=1, minibatches=1)


@pytest.mark.parametrize("clips", [False, True])
def test_rewards_are_clipped_and_then_normalised(clips: bool) -> None:
    config = {**A2C_SETTINGS, "clip_rewards": clips, "normalise_rewards": True}
    collector = build("a2c", "test/Clock-v0", config).collector
    raw, ended = np.array([4.0, -9.0, 0.5, 0.0]), np.zeros(4, dtype=bool)
    found = collector._reward(raw, ended)
    rows = np.clip(raw, -1, 1) if clips else raw
    np.testing.assert_allclose(found, rows / np.sqrt(np.var(rows) + 1e-8), rtol=1e-3)
