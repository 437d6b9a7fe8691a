"""LOLA-DiCE's gradient against the exact one, without sampling noise; what it learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from semigradient.agents.games.lola_dice import Config, LolaDiceLearner, adam, objective
from semigradient.domains.games.repeated import (
    PRISONERS,
    Episodes,
    enumerate_all,
    expected_return,
    sample,
)
from semigradient.errors import UserError
from semigradient.reproductions.games import lola_dice_figures

ROUNDS, GAMMA, RATE = 3, 0.96, 0.7


class Exactly(LolaDiceLearner):
    """On all courses of the game instead of samples of them, in double precision."""

    def __init__(self, **config: Any) -> None:
        super().__init__(Config(rounds=ROUNDS, gamma=GAMMA, lr_inner=RATE, **config), 1, seed=4)
        self.payoff = PRISONERS
        self.policies = torch.randn(1, 2, 5, dtype=torch.float64, generator=self.random)
        self.values = torch.randn(1, 2, 5, dtype=torch.float64, generator=self.random)

    def _games(self, policies: Tensor) -> Episodes:
        episodes = enumerate_all(policies[0], self.payoff, ROUNDS)
        axis = {
            name: getattr(episodes, name).unsqueeze(2)
            for name in ("log_probs", "rewards", "states")
        }
        return episodes._replace(**axis)


def exact(policies: Tensor, player: int, lookaheads: int) -> Tensor:
    own, other = (policies[0, seat].clone().requires_grad_() for seat in (player, 1 - player))

    def value(mine: Tensor, theirs: Tensor, whose: int) -> Tensor:
        pair = torch.stack((mine, theirs) if player == 0 else (theirs, mine))
        return expected_return(pair, PRISONERS, ROUNDS, GAMMA)[whose]

    moved = other
    for _ in range(lookaheads):
        (step,) = torch.autograd.grad(value(own, moved, 1 - player), moved, create_graph=True)
        moved = moved + RATE * step
    return torch.autograd.grad(value(own, moved, player), own)[0]


@pytest.mark.parametrize("player", [0, 1])
@pytest.mark.parametrize("lookaheads", [0, 1, 2, 3])
def test_the_gradient_is_that_of_exact_lookahead(player: int, lookaheads: int) -> None:
    learner = Exactly(lookaheads=lookaheads)
    gradient = learner.gradient(player)[0]
    true = exact(learner.policies, player, lookaheads)
    torch.testing.assert_close(gradient, true, rtol=0, atol=1e-12)
    if lookaheads:
        assert (true - exact(learner.policies, player, 0)).abs().max() > 1e-3


def test_with_the_surrogate_nothing_of_the_other_s_learning_is_seen() -> None:
    learner = Exactly(lookaheads=1, estimator="surrogate")
    own, other = learner.policies[0]
    moved = other.clone().requires_grad_()
    value = expected_return(torch.stack((own, moved)), PRISONERS, ROUNDS, GAMMA)[1]
    (step,) = torch.autograd.grad(value, moved)
    ahead = torch.stack((own, other + RATE * step))[None]
    torch.testing.assert_close(learner.gradient(0)[0], exact(ahead, 0, 0), rtol=0, atol=1e-12)


def test_several_pairs_at_once_are_several_pairs() -> None:
    policies = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0)).double()
    policies[:, :, 0] = 40.0  # a sure start, so that noise decides only later rounds
    policies[:, :, 1:] = policies[:, :, 1:].sign() * 40
    together = sample(policies, PRISONERS, 5, 4, torch.Generator().manual_seed(0))
    for index in range(3):
        alone = sample(policies[index], PRISONERS, 5, 4, torch.Generator().manual_seed(1))
        assert torch.equal(together.states[:, :, index], alone.states)
        assert torch.equal(together.rewards[:, :, index], alone.rewards)
    values = objective(Config(gamma=1.0), together, 0)
    torch.testing.assert_close(values, together.rewards[0].sum(0).mean(-1))


def test_critics_learn_the_returns() -> None:
    config = Config(0, rounds=20, batch_size=8, gamma=0.5)
    learner = LolaDiceLearner(config, 2, make_optimizer=adam(1e-9))
    with torch.no_grad():
        learner.policies.fill_(40.0)  # both cooperate for ever
    for _ in range(150):
        learner.iterate()
    assert (learner.values[:, :, 1] + 2).abs().max() < 0.15  # -1 / (1 - 0.5), a bit less at the end


def test_correlations_of_the_estimates_with_the_exact_derivatives() -> None:
    correlations = lola_dice_figures.correlations(
        pairs=1, samples=3000, chunk=1000, rounds=20, seed=0
    )
    assert correlations["samples"].tolist() == [1000, 2000, 3000]
    assert correlations["gradient"].shape == correlations["hessian"].shape == (1, 3)
    assert correlations["gradient"][0, -1] > 0.97
    assert correlations["hessian"][0, -1] > 0.3
    np.testing.assert_array_less(correlations["surrogate_hessian"], 1e-9)


def test_near_minus_one_is_a_claim_that_can_fail() -> None:
    naive, surrogate, lola, sgd = (
        np.tile(level, (20, 1))
        for level in ([-1.98] * 3, [-1.98] * 3, [-1.72] * 3, [-1.5, -1.5, -1.0])
    )
    curves = {
        "naive": naive,
        "LOLA-DiCE, K = 1": lola,
        "LOLA-DiCE, K = 2": sgd,
        "surrogate": surrogate,
    }
    rows = lola_dice_figures.learning_rows(curves)
    assert [row.agrees for row in rows] == [True, False, True, True]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"lookaheads": -1}, "lookaheads=-1"),
        ({"gamma": 2.0}, "gamma=2.0"),
        ({"estimator": "dise"}, "dice"),
        ({"lr_inner": -0.1}, "lr_inner=-0.1"),
    ],
)
def test_bad_settings_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Config(**config)
