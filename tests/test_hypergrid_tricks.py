"""The settings of the tricks: each is what its name says, and all can be trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reproductions.hypergrid_tricks import FULL, QUICK, _claims, setting, train


@pytest.mark.parametrize("name", FULL)
def test_every_setting_is_one_change(name: str) -> None:
    agent = setting(FULL[name]).agent(0)
    kind, value = agent.optimizer, name.split()[-1]
    if name.split()[0] in ("adam", "rmsprop", "momentum"):
        assert kind.param_groups[0]["lr"] == float(value)
        assert name.split()[0] in type(kind).__name__.lower()
    else:
        assert isinstance(kind, torch.optim.Adam)
        assert kind.param_groups[0]["lr"] == 1e-3
    new = agent.config.batch_size * (agent.config.replay_share < 1)
    old = 16 if agent.config.replay_share == 1 else 0
    if name == "replay top":
        # Fourteen new ones and two of the best hundred.
        old = round(14 * 0.125 / 0.875)
    assert (new or old) + (old if new else 0) == 16


def test_the_quick_settings_are_among_the_full_ones_and_train() -> None:
    assert set(QUICK) < set(FULL)
    for name in ("replay by loss", "replay top"):
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
