"""The coin game: rules against a plain loop, values, adapters, scripted players, oracles."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from semigradient import envs
from semigradient.envs.adapters import CoreVector
from semigradient.envs.core import advance
from semigradient.envs.games.coin_game import CoinGame, CoinGameState
from semigradient.envs.games.coin_players import NAMES, Oracle, scripted
from semigradient.envs.games.two_player import FunctionPlayer
from semigradient.errors import UserError

ID = "semigradient/CoinGame-v0"
RIGHT, LEFT, DOWN, UP = range(4)


def situation(
    red: tuple[int, int], blue: tuple[int, int], coin: tuple[int, int], owner: int, size: int = 3
) -> CoinGameState:
    cell = [row * size + column for row, column in (red, blue, coin)]
    one = torch.zeros(1, dtype=torch.int64)
    pair = torch.zeros(1, 2, dtype=torch.int64)
    return CoinGameState(
        torch.tensor([cell[:2]]), one + cell[2], one + owner, one, pair, pair.double()
    )


# Rules


@pytest.mark.parametrize(
    ("actions", "owner", "rewards"),
    [
        ((RIGHT, DOWN), 0, (1, 0)),  # red takes its own
        ((RIGHT, DOWN), 1, (1, -2)),  # red takes blue's
        ((DOWN, UP), 0, (-2, 1)),  # blue takes red's
        ((DOWN, UP), 1, (0, 1)),
        ((RIGHT, UP), 0, (-1, 1)),  # both at once: red is paid and punished
        ((RIGHT, UP), 1, (1, -1)),
        ((LEFT, RIGHT), 0, (0, 0)),
    ],
)
def test_who_is_paid_and_who_is_punished(
    actions: tuple[int, int], owner: int, rewards: tuple[int, int]
) -> None:
    game = CoinGame()
    state = situation((0, 0), (1, 1), (0, 1), owner)
    after, reward, terminated, truncated = game.step(state, torch.tensor([actions]))
    assert reward.tolist() == [list(rewards)]
    assert after.score.tolist() == [list(rewards)]
    taken = rewards != (0, 0)
    assert after.owner.item() == (1 - owner if taken else owner)
    if not taken:
        assert after.coin.item() == 1
    assert not terminated.any()
    assert not truncated.any()


def test_the_board_is_a_torus_and_cells_are_shared() -> None:
    game = CoinGame(size=4)
    state = situation((0, 3), (3, 0), (1, 1), 0, size=4)
    after = game.step(state, torch.tensor([[RIGHT, DOWN]])).state
    assert after.cells.tolist() == [[0, 0]]
    after = game.step(after, torch.tensor([[LEFT, UP]])).state
    assert after.cells.tolist() == [[3, 12]]


def test_a_game_of_fifty_steps_against_a_plain_loop() -> None:
    game = CoinGame()
    random = torch.Generator().manual_seed(1)
    state = game.reset(300, random)
    red, blue = ([divmod(c, 3) for c in column] for column in state.cells.T.tolist())
    places = [[r, b] for r, b in zip(red, blue, strict=True)]
    coins, owners = [divmod(c, 3) for c in state.coin.tolist()], state.owner.tolist()
    pickups = 0
    for step in range(1, 51):
        actions = torch.randint(4, (300, 2), generator=random)
        state, reward, _, truncated = game.step(state, actions, random)
        for index in range(300):
            for player in (0, 1):
                down, right = ((0, 1), (0, -1), (1, 0), (-1, 0))[int(actions[index, player])]
                row, column = places[index][player]
                places[index][player] = ((row + down) % 3, (column + right) % 3)
            pay = [0, 0]
            for player in (0, 1):
                if places[index][player] == coins[index]:
                    pay[player] += 1
                    if owners[index] != player:
                        pay[1 - player] -= 2
            assert reward[index].tolist() == pay
            coin = divmod(int(state.coin[index]), 3)
            if coins[index] in places[index]:
                pickups += 1
                owners[index] = 1 - owners[index]
                assert coin not in places[index]
                coins[index] = coin
            assert coin == coins[index]
            assert owners[index] == int(state.owner[index])
            assert [divmod(c, 3) for c in state.cells[index].tolist()] == places[index]
        assert (truncated == (step == 50)).all()
    assert pickups > 1000


def test_coins_come_back_uniformly_where_nobody_stands() -> None:
    game, count = CoinGame(), 40_000
    random = torch.Generator().manual_seed(2)
    for other, free in (((2, 2), 7), ((0, 1), 8)):  # apart, and on the coin together
        state = situation((0, 0), (other[0], (other[1] + 2) % 3), (0, 1), 0)
        many = CoinGameState(*(field.expand(count, *field.shape[1:]) for field in state))
        actions = torch.tensor([[RIGHT, RIGHT]]).expand(count, 2)
        after = game.step(many, actions, random).state
        found = torch.bincount(after.coin, minlength=9)
        assert int((found > 0).sum()) == free
        expected = count / free
        score = ((found[found > 0] - expected) ** 2 / expected).sum().item()
        assert score < 30  # chi-squared with at most 7 degrees of freedom: P < 1e-4
        assert found[1] == 0
        assert (after.owner == 1).all()


def test_random_starts() -> None:
    game, count = CoinGame(), 60_000
    state = game.reset(count, torch.Generator().manual_seed(0))
    pairs = torch.bincount(state.cells[:, 0] * 9 + state.cells[:, 1], minlength=81)
    assert ((pairs - count / 81) ** 2 / (count / 81)).sum() < 140  # 80 degrees of freedom
    assert not (state.cells == state.coin[:, None]).any()
    assert abs(state.owner.double().mean().item() - 0.5) < 0.01
    coins = torch.bincount(state.coin, minlength=9)
    assert ((coins - count / 9) ** 2 / (count / 9)).sum() < 35


def test_each_player_sees_the_game_from_its_own_side() -> None:
    game = CoinGame()
    obs = game.observe(situation((0, 1), (2, 0), (1, 2), owner=1)).view(2, 4, 9)
    empty = torch.zeros(9)
    one = lambda cell: empty.index_fill(0, torch.tensor([cell]), 1)  # noqa: E731
    assert torch.equal(obs[0], torch.stack((one(1), one(6), empty, one(5))))
    assert torch.equal(obs[1], torch.stack((one(6), one(1), one(5), empty)))


@pytest.mark.parametrize("size", [3, 5])
def test_exchanging_the_players_exchanges_everything(size: int) -> None:
    game = CoinGame(size)
    state = game.reset(500, torch.Generator().manual_seed(0))
    mirrored = state._replace(cells=state.cells.flip(1), owner=1 - state.owner)
    assert torch.equal(game.observe(mirrored), game.observe(state).flip(1))
    actions = torch.randint(4, (500, 2), generator=torch.Generator().manual_seed(1))
    one = game.step(state, actions, torch.Generator().manual_seed(2))
    two = game.step(mirrored, actions.flip(1), torch.Generator().manual_seed(2))
    assert torch.equal(one.reward, two.reward.flip(1))
    assert torch.equal(game.observe(one.state), game.observe(two.state).flip(1))
    welfare = one.reward.sum(1)
    assert set(welfare.tolist()) <= {-1.0, 0.0, 1.0}


# Exact values of scripted players

PUBLISHED = {  # totals of 50 steps, and discounted with 0.96; simulations, standard error ≤ 0.011
    ("always-cooperate", "always-cooperate"): ((16.61, 16.61), (7.20, 7.20)),
    ("always-cooperate-far", "always-cooperate-far"): ((17.43, 17.43), (7.54, 7.54)),
    ("always-defect", "always-defect"): ((0, 0), (0, 0)),
    ("always-cooperate", "always-defect"): ((-12.97, 31.09), (-5.63, 13.48)),
    ("always-cooperate-far", "always-defect"): ((-13.30, 31.84), (-5.78, 13.80)),
    ("random", "random"): ((0, 0), (0, 0)),
    ("always-defect", "random"): ((26.55, -26.55), (11.49, -11.49)),
    ("always-cooperate", "random"): ((3.01, 5.63), None),
}


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle(CoinGame())


@pytest.mark.parametrize("pair", PUBLISHED)
def test_exact_values_of_scripted_pairs(oracle: Oracle, pair: tuple[str, str]) -> None:
    first, second = (scripted(oracle.game, name) for name in pair)
    total, discounted = PUBLISHED[pair]
    assert oracle.pair(first, second).values.tolist() == pytest.approx(total, abs=0.03)
    assert oracle.pair(second, first).values.tolist() == pytest.approx(total[::-1], abs=0.03)
    if discounted:
        found = oracle.pair(first, second, 0.96).values.tolist()
        assert found == pytest.approx(discounted, abs=0.015)


@pytest.mark.parametrize(
    "pair", [("always-cooperate", "random"), ("always-cooperate-far", "always-defect")]
)
def test_played_games_agree_with_the_exact_values(oracle: Oracle, pair: tuple[str, str]) -> None:
    game, count = oracle.game, 20_000
    players = [scripted(game, name) for name in pair]
    random = torch.Generator().manual_seed(0)
    state, memory = game.reset(count, random), torch.zeros(count, 0)
    for _ in range(50):
        both = [p.act(state, seat, memory, random)[0] for seat, p in enumerate(players)]
        state = game.step(state, torch.stack(both, 1), random).state
    true = oracle.pair(*players).values
    error = state.score.std(0) / math.sqrt(count)
    assert ((state.score.mean(0) - true).abs() < 4 * error).all()


@pytest.mark.parametrize(
    ("name", "total", "discounted"),
    [
        ("always-cooperate", (31.4877, -13.1379), 13.6463),
        ("always-defect", (0.0, 0.0), 0.0008),
        ("random", (26.556, -26.556), 11.4895),
    ],
)
def test_best_responses(
    oracle: Oracle, name: str, total: tuple[float, float], discounted: float
) -> None:
    opponent = scripted(oracle.game, name)
    best = oracle.best_response(opponent)
    assert best.values.tolist() == pytest.approx(total, abs=1e-3)
    assert oracle.best_response(opponent, 0.96).values[0].item() == pytest.approx(
        discounted, abs=1e-4
    )
    for other in NAMES:
        played = oracle.pair(scripted(oracle.game, other), opponent).values[0]
        assert played <= best.values[0] + 1e-9


def test_the_most_that_two_can_earn_together(oracle: Oracle) -> None:
    assert oracle.most_welfare() == pytest.approx(34.860, abs=1e-3)
    far = scripted(oracle.game, "always-cooperate-far")
    assert oracle.pair(far, far).values.sum().item() == pytest.approx(34.860, abs=1e-3)


@pytest.mark.parametrize("size", [3, 4, 5])
@pytest.mark.parametrize("name", ["always-cooperate", "always-cooperate-far"])
def test_cooperators_never_take_the_other_s_coin(size: int, name: str) -> None:
    game = CoinGame(size)
    player, random = scripted(game, name), torch.Generator().manual_seed(0)
    state, memory = game.reset(400, random), torch.zeros(400, 0)
    for _ in range(60):
        both = [player.act(state, seat, memory, random)[0] for seat in (0, 1)]
        state = game.step(state, torch.stack(both, 1), random).state
        assert (state.picked < 2).all()
    assert state.score.mean() > 4


# Faces


@pytest.mark.parametrize("options", [{}, {"opponent": "random", "size": 5, "seat": 1}])
def test_checkers_pass_the_single_face(options: dict[str, Any]) -> None:
    from stable_baselines3.common.env_checker import check_env as check

    check(gymnasium.make(ID, **options).unwrapped)


def test_the_parallel_face_ends_and_is_drawn() -> None:
    env = envs.make_parallel(ID, render_mode="rgb_array", horizon=2)
    env.reset(seed=0)
    assert env.state().shape == (72,)
    assert envs.make_vector(ID, 1, 0, opponent="random").protocol["opponent"] == "random"
    env.step({"red": 0, "blue": 1})
    assert env.render().shape == (336, 288, 3)
    *_, truncated, _ = env.step({"red": 0, "blue": 1})
    assert truncated == {"red": True, "blue": True}
    assert env.agents == []


def test_the_two_seats_of_one_game_agree() -> None:
    game = CoinGame()
    state = game.reset(50, torch.Generator().manual_seed(0))
    for seat in (0, 1):
        core: Any = CoreVector(envs.OURS[ID], 50, seat=seat).core
        versus = core._state(*state, torch.zeros(50, 0))
        actions = torch.arange(50) % 4
        after = core.step(versus, actions, torch.Generator().manual_seed(1))
        theirs = core.opponent.act(state, 1 - seat, torch.zeros(50, 0), None)[0]
        pair = (actions, theirs) if seat == 0 else (theirs, actions)
        both = game.step(state, torch.stack(pair, 1))
        assert torch.equal(after.reward, both.reward[:, seat])
        assert torch.equal(core.observe(versus), game.observe(state)[:, seat])


def test_an_own_function_as_opponent() -> None:
    game = CoinGame()
    always_up = FunctionPlayer(game, lambda obs: torch.full((len(obs),), UP))
    env = gymnasium.make(ID, opponent=always_up)
    env.reset(seed=0)
    before = env.unwrapped.state.cells.clone()
    env.step(RIGHT)
    after = env.unwrapped.state.cells
    assert (after[0, 1] - before[0, 1]) % 9 == 6  # one row up
    assert env.get_wrapper_attr("core").protocol["opponent"] == "FunctionPlayer"


def test_advance_steps_the_game_itself_and_starts_anew() -> None:
    game, random = CoinGame(horizon=3), torch.Generator().manual_seed(0)
    state = game.reset(5, random)
    state = state._replace(steps=torch.tensor([0, 1, 2, 0, 2]))
    now = advance(game, state, torch.zeros(5, 2, dtype=torch.int64), random)
    assert now.ended.tolist() == [2, 4]
    assert now.state.steps.tolist() == [1, 2, 0, 1, 0]
    assert now.reward.shape == (5, 2)
    assert now.final_obs.shape == (2, 2, 36)


def test_frames_show_what_happens() -> None:
    game = CoinGame()
    state = situation((0, 0), (1, 1), (0, 1), 1)
    after = game.step(state, torch.tensor([[RIGHT, UP]])).state
    one, two = game.render(state)[0], game.render(after)[0]
    assert one.shape == two.shape == (336, 288, 3)
    assert one.dtype == np.uint8
    red = one[48, 48]  # the middle of the cell where red stands
    assert red[0] > 200 > red[2]
    assert not np.array_equal(one[288:], two[288:])  # words tell who took what


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 2}, "size=2"),
        ({"horizon": 0}, "horizon=0"),
        ({"opponent": "always-coperate"}, "always-cooperate"),
        ({"seat": 2}, "seat=2"),
        ({"players": 3}, "players"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        envs.make_vector(ID, 2, 0, **options)


def test_bad_games_and_render_modes_are_refused() -> None:
    with pytest.raises(UserError, match="CoinGame"):
        envs.make_parallel("semigradient/CoinGam-v0")
    with pytest.raises(UserError, match="human"):
        envs.make_parallel(ID, render_mode="human")
    with pytest.raises(UserError, match="size=6"):
        Oracle(CoinGame(6))
