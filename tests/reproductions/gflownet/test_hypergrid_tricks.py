"""The settings of the tricks: each is what its name says, and all can be trained."""

from __future__ import annotations

import numpy as np
import pytest

from semigradient.reproductions.gflownet import hypergrid_entropy
from semigradient.reproductions.gflownet.hypergrid_tricks import (
    FULL,
    QUICK,
    _claims,
    setting,
    train,
)
from semigradient.training.cli import parse


@pytest.mark.parametrize("name", FULL)
def test_every_setting_is_one_change(name: str) -> None:
    run = setting(FULL[name])
    words = ["--agent", "gflownet", "--env", run.env, *run.flags, "--env-options", *run.options]
    command = parse(words).command
    config, kind, value = command.agent, type(command.optimizer).__name__, name.split()[-1]
    if name.split()[0] in ("adam", "rmsprop", "momentum"):
        assert command.optimizer.lr == float(value)
        assert kind.lower() == f"{name.split()[0]}config"
    else:
        assert kind == "AdamConfig"
        assert command.optimizer.lr == 1e-3
    share = config.replay_share if config.replay != "none" else 0.0
    new = config.batch_size if share < 1 else 0
    old = round(new * share / (1 - share)) if share < 1 else config.batch_size
    # With "replay top" two of the best hundred beside fourteen new ones.
    assert new + old == 16


def test_the_quick_settings_are_among_the_full_ones_and_train() -> None:
    assert set(QUICK) < set(FULL)
    for name in ("replay by loss", "replay top 2 of 100"):
        l1 = train(QUICK[name], 0, 4)["l1"]
        assert l1.shape == (2,)
        assert np.isfinite(l1).all()


def test_claims_are_judged_by_ratios() -> None:
    made = {name: np.full(3, 1.0) for name in QUICK}
    made["momentum 1e-2"] = made["momentum 1e-3"] = np.full(3, 4.0)
    made["target ema 0.9"], made["target frozen 100"] = np.full(3, 1.5), np.full(3, 3.0)
    assert all(row.agrees for row in _claims(made))
    made["momentum 1e-2"] = np.full(3, 2.0)
    assert [row.agrees for row in _claims(made)][:4] == [False, True, True, True]


@pytest.mark.parametrize("name", ["soft-q α 0.1", "sac entropy 0.6", "mars published"])
def test_agents_for_entropy_are_measured(name: str) -> None:
    found = hypergrid_entropy.train(hypergrid_entropy.SETTINGS[name], 0, 640)
    assert 0 < float(found["l1"][0]) < 5.3e-4
    assert name.startswith("mars") or found["gained"] <= 1
    assert found["modes"][1] <= found["modes"][0] <= 16


def test_only_settings_that_learned_and_follow_the_reward_count() -> None:
    def runs(modes: float, gained: float = 0.95, reward: float = 5.0) -> dict[str, np.ndarray]:
        single = {"l1": 1e-4 * modes, "gained": gained, "reward": reward}
        values = {name: np.full((2, 1), value) for name, value in single.items()}
        return {**values, "modes": np.full((2, 2), modes)}

    made = {"sac a": runs(9), "sac uniform": runs(16, reward=1.0), "sac stuck": runs(16, 0.5)}
    made |= {"soft-q a": runs(12), "mars": runs(15), "mars published": runs(16)}
    sac, soft_q, mars = hypergrid_entropy._claims(made)
    assert (sac.measured, sac.agrees, sac.required) == (9, True, True)
    assert (soft_q.measured, soft_q.agrees, soft_q.required) == (12, False, False)
    assert mars.agrees
    # An actor that learned nothing finds few modes, and shows nothing.
    sac = hypergrid_entropy._claims({**made, "sac a": runs(1, gained=0.0)})[0]
    assert np.isnan(sac.measured)
    assert not sac.agrees
