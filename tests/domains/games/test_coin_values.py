"""Exact values of the coin game with memories, against the rules, the oracle and simulation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from semigradient.agents.games.coin_league import play
from semigradient.domains.games.coin_memory import (
    RememberingPlayer,
    Spectator,
    inputs,
    remember,
)
from semigradient.domains.games.coin_values import CoinValues
from semigradient.envs.games.coin_game import CoinGame
from semigradient.envs.games.coin_players import Oracle, scripted
from semigradient.errors import UserError

VALUES = CoinValues()
GAME = CoinGame()


def drawn(seed: int) -> Tensor:
    """A policy that depends on everything, its memories included."""
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(VALUES.states, 4, generator=random, dtype=torch.float64)
    return (2 * logits).softmax(1)


@pytest.mark.parametrize("discount", [1.0, 0.96])
def test_scripted_pairs_and_best_responses_equal_the_oracle(discount: float) -> None:
    oracle = Oracle(GAME)
    for name in ("always-cooperate-far", "random"):
        exact = oracle.pair(scripted(GAME, name), scripted(GAME, "always-defect"), discount)
        found = VALUES.pair(
            VALUES.policy(scripted(GAME, name)),
            VALUES.policy(scripted(GAME, "always-defect")),
            GAME.horizon,
            discount,
        )
        torch.testing.assert_close(found.start, exact.values)
        best = oracle.best_response(scripted(GAME, name), discount)
        reply = VALUES.best_response(VALUES.policy(scripted(GAME, name)), GAME.horizon, discount)
        torch.testing.assert_close(reply.start[1], best.values[0])


def test_every_transition_is_that_of_the_rules() -> None:
    random = torch.Generator().manual_seed(0)
    state = GAME.reset(3000, random)
    memories = torch.randint(4, (3000,), generator=random)
    seen = VALUES.seen(state, 0, memories)
    seats = VALUES.seen(state, 1, memories % 2 * 2 + memories // 2)
    assert torch.equal(VALUES.mirror[seen], seats)
    actions = torch.randint(4, (3000, 2), generator=random)
    after = GAME.step(state, actions, random)
    joint = 4 * actions[:, 0] + actions[:, 1]
    torch.testing.assert_close(VALUES._reward[seen, joint], after.reward)
    later = VALUES.seen(after.state, 0, remember(memories, after.state.picked, 0))
    found = VALUES._next[seen, joint]
    kept = (after.state.picked == 0).all(1)
    assert torch.equal(found[kept], later[kept])
    other, coin, owner, memory = VALUES.parts(later[~kept])
    assert torch.equal(found[~kept] - VALUES.states, (other * 2 + owner) * 4 + memory)
    assert (VALUES._free[other, coin] > 0).all()


def test_both_seats_remember_the_same() -> None:
    kinds = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    legal = kinds[(kinds.sum(1) == 3) | (kinds.min(1).values == 0)]
    for memory in range(4):
        mine = torch.full((len(legal),), memory)
        theirs = mine % 2 * 2 + mine // 2
        one, two = remember(mine, legal, 0), remember(theirs, legal, 1)
        assert torch.equal(one, two % 2 * 2 + two // 2)
    # Both take the first player's coin: it was taken by the other, too.
    assert remember(torch.tensor([0]), torch.tensor([[1, 2]]), 0).tolist() == [2]


def test_a_best_response_is_best_and_a_soft_one_tends_to_it() -> None:
    agent = drawn(0)
    best = VALUES.best_response(agent, 12)
    for seed in (1, 2, 3):
        assert (VALUES.pair(agent, drawn(seed), 12).start < best.start)[1]
    soft = [VALUES.best_response(agent, 12, temperature=t).start[1] for t in (1.0, 0.2, 1e-4)]
    assert soft[0] < soft[1] < soft[2] <= best.start[1]
    torch.testing.assert_close(soft[2], best.start[1], rtol=1e-4, atol=1e-4)


def test_the_gradient_through_the_reply_is_that_of_finite_differences() -> None:
    logits = drawn(4).log()
    random = torch.Generator().manual_seed(5)
    direction = torch.randn(logits.shape, generator=random, dtype=torch.float64)

    def agents_return(shift: Tensor) -> Tensor:
        policy = (logits + shift * direction).softmax(1)
        return VALUES.best_response(policy, 6, 0.96, 0.5).start[0]

    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(agents_return(shift), shift)
    step = 1e-5
    difference = (agents_return(torch.tensor(step)) - agents_return(torch.tensor(-step))) / (
        2 * step
    )
    torch.testing.assert_close(slope, difference.detach(), rtol=1e-6, atol=1e-9)


def test_players_earn_their_expected_returns() -> None:
    game = CoinGame(horizon=20)
    one, two = drawn(6), drawn(7)
    players = RememberingPlayer(VALUES, one), RememberingPlayer(VALUES, two)
    match = play(game, *players, 20_000, torch.Generator().manual_seed(0))
    exact = VALUES.pair(one, two, 20).start
    for earned, error, expected in zip(match.returns, match.standard_errors, exact, strict=True):
        assert abs(earned - expected) < 4 * error < 0.2


@pytest.mark.parametrize("seat", [0, 1])
def test_observations_tell_the_memories(seat: int) -> None:
    random = torch.Generator().manual_seed(seat)
    game, spectator = CoinGame(horizon=15), Spectator(VALUES, 15)
    seen = set()
    for _ in range(2):
        state = game.reset(200, random)
        memory = torch.zeros(200, dtype=torch.int64)
        for _ in range(15):
            memory = remember(memory, state.picked, seat)
            row = VALUES.seen(state, seat, memory)
            assert torch.equal(spectator.see(game.observe(state)[:, seat]), row)
            seen |= set(memory.tolist())
            actions = torch.randint(4, (200, 2), generator=random)
            state = game.step(state, actions, random).state
    assert seen == {0, 1, 2, 3}


def test_features_are_the_observation_from_the_corner_and_the_memories() -> None:
    features = inputs(GAME, VALUES)
    assert features.shape == (648, 38)
    assert torch.equal(features[:, 0], torch.ones(648))
    assert len(features.unique(dim=0)) == 648


def test_boards_that_are_too_large_are_refused() -> None:
    with pytest.raises(UserError, match=r"^size=6: must be in \[3, 5\]"):
        CoinValues(6)
