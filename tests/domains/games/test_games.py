"""Games to act in: rules against plain loops, every face, and the exact values behind them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from semigradient import envs
from semigradient.envs.core import advance
from semigradient.envs.games.iterated import (
    ChickenOptions,
    DilemmaOptions,
    MatchingPenniesOptions,
    MatrixGameOptions,
)
from semigradient.envs.games.logistic import LogisticOptions
from semigradient.envs.games.matrix_games import (
    PAYOFFS,
    STRATEGIES,
    discounted_value,
    finite_value,
    strategy,
)
from semigradient.errors import UserError
from semigradient.training.build import build
from semigradient.training.cli import parse

OPPONENTS = (*STRATEGIES, "extortion")


def play(core: Any, chance: Tensor, games: int, seed: int, rounds: int = 400) -> Tensor:
    """Returns (games, 2) of the first player's probabilities (5,) against the core's opponent."""
    random = torch.Generator().manual_seed(seed)
    state, nothing = core.game.reset(games, random), torch.zeros(games, 0)
    live, total = torch.ones(games, dtype=torch.bool), torch.zeros(games, 2, dtype=torch.float64)
    for _ in range(rounds):
        seen = core.game.observe(state)[:, 0].double()
        plays_a = (seen @ chance) > torch.rand(games, generator=random)
        theirs, _ = core.opponent.act(state, 1, nothing, random)
        pair = torch.stack(((~plays_a).long(), theirs), 1)
        state, reward, terminated, truncated = core.game.step(state, pair, random)
        total += reward * live[:, None]
        live &= ~(terminated | truncated)
        if not live.any():
            break
    return total


@pytest.mark.parametrize("opponent", OPPONENTS)
def test_mean_returns_are_the_exact_values(opponent: str) -> None:
    drawn = torch.Generator().manual_seed(7)
    chance = torch.rand(5, generator=drawn, dtype=torch.float64)
    for core, exact in (
        (
            DilemmaOptions(opponent).make(),
            lambda q, pay: discounted_value(chance, q, pay, 0.96, False),
        ),
        (
            DilemmaOptions(opponent, horizon=6, discount=1.0).make(),
            lambda q, pay: finite_value(chance, q, pay, 6, mean=False),
        ),
    ):
        game = core.game.game  # type: ignore[attr-defined]
        q = strategy(opponent, game.payoff.flip(0)[:, [0, 2, 1, 3]], game.discount)
        total = play(core, chance, 4000, seed=3)
        z = (total.mean(0) - exact(q, game.payoff)) / (total.std(0) / 4000**0.5 + 1e-9)
        assert z.abs().max() < 4, f"{opponent}: {z.tolist()}"


@pytest.mark.parametrize("payoff", PAYOFFS)
def test_rounds_follow_a_plain_loop(payoff: str) -> None:
    core = MatrixGameOptions(payoff=payoff, opponent="pavlov", horizon=12, discount=1.0).make()
    table = np.array(PAYOFFS[payoff])
    state, rng = core.reset(64), np.random.default_rng(0)
    mine, theirs = np.full((2, 64), -1)
    for turn in range(12):
        seen = core.observe(state).argmax(1).numpy()
        expected = np.where(mine < 0, 0, 1 + 2 * mine + theirs)
        np.testing.assert_array_equal(seen, expected)
        other = core.game.observe(core._game(state))[:, 1].argmax(1).numpy()
        np.testing.assert_array_equal(other, np.where(mine < 0, 0, 1 + 2 * theirs + mine))
        action = rng.integers(2, size=64)
        # Pavlov plays A first and wherever both did the same.
        reply = np.where(mine < 0, 0, (mine != theirs).astype(int))
        state, reward, terminated, truncated = core.step(state, torch.from_numpy(action))
        np.testing.assert_array_equal(reward.numpy(), table[0][2 * action + reply])
        assert not terminated.any()
        assert bool((truncated == (turn == 11)).all())
        mine, theirs = action, reply


def test_extortion_in_the_second_seat() -> None:
    core = ChickenOptions([1, 0, 0, 0, 0]).make()
    assert core.protocol["opponent"] == "[1, 0, 0, 0, 0]"
    core = DilemmaOptions("extortion", slope=3.0).make()
    total = play(core, torch.full((5,), 0.5, dtype=torch.float64), 20000, seed=0) * 0.04
    mean = total.mean(0) + 2
    assert abs(float(mean[1] / mean[0]) - 3) < 0.15
    assert core.protocol["opponent"] == "extortion (slope 3)"


def test_logistic_game_moves_both() -> None:
    core = LogisticOptions(lr=0.5, horizon=2).make()
    state = core.reset(2, x=[1.0, 2.0])
    step = core.step(state, torch.tensor([[0.25], [5.0]]))
    first = torch.tensor([1.25, 2.0], dtype=torch.float64)  # clipped to one
    torch.testing.assert_close(step.state.x[:, 0], first)
    torch.testing.assert_close(
        step.state.x[:, 1].float(), torch.full((2,), 2 + 0.5 * 0.191277), rtol=0, atol=1e-6
    )
    value = core.game.game.value(step.state.x.unsqueeze(-1))  # type: ignore[attr-defined]
    torch.testing.assert_close(step.reward, value[:, 0])
    assert not step.truncated.any()
    assert bool(core.step(step.state, torch.zeros(2, 1)).truncated.all())
    still = LogisticOptions(opponent="still").make().step(state, torch.zeros(2, 1))
    torch.testing.assert_close(still.state.x, state.x)


# Faces


def test_pettingzoo_and_core_play_the_same_game() -> None:
    env = envs.make_parallel("semigradient/IPD-v0", horizon=5, discount=1.0)
    observations, _ = env.reset(seed=0)
    assert observations["first"].tolist() == observations["second"].tolist()
    observations, rewards, _, _, _ = env.step({"first": 0, "second": 1})
    assert rewards == {"first": -3.0, "second": 0.0}
    assert observations["first"].argmax() == 2
    assert observations["second"].argmax() == 3
    for _ in range(4):
        *_, truncated, _ = env.step({"first": 1, "second": 1})
    assert all(truncated.values())
    assert env.agents == []


def test_games_end_at_their_discount() -> None:
    core, random = DilemmaOptions("random", discount=0.9).make(), torch.Generator().manual_seed(0)
    state, ended = core.reset(5000, random), 0
    for _ in range(20):
        now = advance(core, state, torch.zeros(5000, dtype=torch.int64), random)
        state, ended = now.state, ended + len(now.ended)
    assert abs(ended / 100_000 - 0.1) < 4 * (0.09 / 100_000) ** 0.5


BEST_RESPONSE = {
    "dqn": "--steps 5000 --num-envs 8 --learning-starts 200 --train-every 8 --buffer-size 6000 "
    "--batch-size 64 --hidden 32 --optim.lr 3e-3 --target-update-every 200 --epsilon-fraction 0.6",
    "ppo": "--steps 5120 --num-envs 8 --rollout-steps 64 --hidden 32 --optim.lr 3e-3",
    "sb3-ppo": "--steps 16384 --num-envs 8",
}


@pytest.mark.parametrize("name", ["dqn", "ppo", pytest.param("sb3-ppo", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("opponent", "reply"), [("tit-for-tat", 0), ("always-cooperate", 1)])
def test_learners_find_the_best_response(name: str, opponent: str, reply: int) -> None:
    options = ("--threads", "1", "--env-options", f"opponent={opponent}")
    words = [
        "--agent",
        name,
        "--env",
        "semigradient/IPD-v0",
        *BEST_RESPONSE[name].split(),
        *options,
    ]
    learner = build(parse(words).command)
    while learner.progress.steps < learner.setup.total_steps:
        learner.iterate()
    learned = learner.policy(True)(np.eye(5, dtype=np.float32), None)
    # What it does at first, and after its own usual move has met the opponent's A.
    assert learned[0] == reply
    assert learned[3 if reply else 1] == reply
    # Among all 32 deterministic policies none does better.
    game, q = DilemmaOptions().make().game.game, strategy(opponent, torch.zeros(2, 4), 0.96)  # type: ignore[attr-defined]
    every = 1 - torch.cartesian_prod(*[torch.arange(2)] * 5).double()
    pairs = torch.stack((every, q.expand(32, 5)), 1)
    mine = torch.stack((1 - torch.as_tensor(learned).double(), q))
    best = game.value_of(pairs)[:, 0].max()
    torch.testing.assert_close(game.value_of(mine)[0], best)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DilemmaOptions("tit-for-tatt").make(), "did you mean tit-for-tat"),
        (lambda: DilemmaOptions(discount=1.0).make(), r"discount=1.0: must be in \[0, 1\)"),
        (lambda: MatrixGameOptions(payoff=[[0, 1], [1, 0]]).make(), "payoff="),
        (lambda: DilemmaOptions([0.5, 0.5]).make(), "five probabilities"),
        (lambda: MatchingPenniesOptions("extortion").make(), "no such policy"),
        (
            lambda: LogisticOptions(opponent="lola").make(),
            "opponent='lola': accepted are naive, still",
        ),
        (lambda: LogisticOptions(horizon=0).make(), "horizon=0"),
        (lambda: envs.make_parallel("CartPole-v1"), "no game of two"),
        (lambda: envs.make_parallel("semigradient/Glimpse-v0"), "no game of two"),
        (lambda: envs.make_parallel("semigradient/IPD-v1"), "unknown environment|IPD-v0"),
        (lambda: envs.make_vector("semigradient/IPD-v0", 1, 0, opponents="x"), "opponents"),
    ],
)
def test_bad_input_is_one_line(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
