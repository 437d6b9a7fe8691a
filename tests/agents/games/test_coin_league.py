"""Best responses by search and by training against exact ones; matches and the battery."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from semigradient.agents.games import coin_league
from semigradient.agents.games.coin_league import battery, play, train_against
from semigradient.envs.games.coin_game import CoinGame
from semigradient.envs.games.coin_players import Oracle, scripted
from semigradient.envs.games.coin_search import TreeSearch
from semigradient.errors import UserError


@pytest.mark.parametrize("name", ["always-cooperate", "always-defect", "random"])
def test_the_search_is_close_to_the_best_response(name: str) -> None:
    game = CoinGame(horizon=6)
    opponent = scripted(game, name)
    best = Oracle(game).best_response(opponent).values[0].item()
    random = torch.Generator().manual_seed(0)
    search = TreeSearch(game, opponent, rollouts=160, steps=6)
    match = play(game, search, opponent, 150, random)
    error = match.standard_errors[0]
    assert best - 0.35 - 2 * error < match.returns[0] < best + 4 * error
    from_the_other_seat = play(game, opponent, search, 150, random)
    assert abs(from_the_other_seat.returns[1] - match.returns[0]) < 5 * error


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("always-cooperate", 29.0), ("always-defect", -0.8)])
def test_the_search_at_the_published_size(name: str, least: float) -> None:
    game = CoinGame()
    opponent = scripted(game, name)
    match = play(game, TreeSearch(game, opponent), opponent, 64, torch.Generator().manual_seed(0))
    assert match.returns[0] > least


def test_the_search_remembers_for_the_other() -> None:
    game = CoinGame(horizon=4)

    class Counter:
        width = 1

        def act(self, state, seat, memory, generator):  # type: ignore[no-untyped-def]
            assert (memory[:, 0] == state.steps).all()
            return torch.zeros(len(memory), dtype=torch.int64), memory + 1

    counter = Counter()
    search = TreeSearch(game, counter, rollouts=8, abreast=4, levels=2, steps=3)
    match = play(game, counter, search, 5, torch.Generator().manual_seed(0))
    assert match.games == 5


def test_training_finds_that_coins_are_worth_taking() -> None:
    game = CoinGame(horizon=8)
    opponent, random = scripted(game, "always-cooperate"), torch.Generator().manual_seed(0)
    trained = train_against(game, opponent, 120, random, hidden=16, games=64, learning_rate=1e-2)
    match = play(game, trained, opponent, 800, random)
    oracle = Oracle(game)
    best = oracle.best_response(opponent).values[0].item()
    untrained = oracle.pair(scripted(game, "random"), opponent).values[0].item()
    assert match.returns[0] > untrained + 0.2 * (best - untrained)
    assert match.returns[0] < best + 4 * match.standard_errors[0]


def test_matches_of_scripted_players_are_the_known_ones() -> None:
    game = CoinGame()
    players = [scripted(game, name) for name in ("always-cooperate-far", "always-defect")]
    match = play(game, *players, 4000, torch.Generator().manual_seed(0))
    for mean, exact, error in zip(
        match.returns, (-13.2998, 31.8443), match.standard_errors, strict=True
    ):
        assert abs(mean - exact) < 4 * error
    for mean, exact in zip(match.discounted, (-5.781, 13.799), strict=True):
        assert mean == pytest.approx(exact, abs=0.25)
    assert match.adversarial_pickups[0] == 0
    assert match.adversarial_share[1] == pytest.approx(0.5, abs=0.25)
    # What somebody earns is what was taken: +1 each, and -2 for each that the other took.
    for seat in (0, 1):
        earned = match.own_pickups[seat] + match.adversarial_pickups[seat]
        earned -= 2 * match.adversarial_pickups[1 - seat]
        assert match.per_step[seat] == pytest.approx(earned)


def test_the_battery(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "battery.json"
    arguments = ["random", "--games", "8", "--rollouts", "8", "--updates", "1", "--out", str(out)]
    assert coin_league.main(arguments) == 0
    names = ["always-defect", "always-cooperate", "tree-search", "trained", "itself"]
    assert list(json.loads(out.read_text())) == names
    assert [row.split()[0] for row in capsys.readouterr().out.splitlines()[1:]] == names
    game = CoinGame(horizon=2)
    quick = battery(game, scripted(game, "random"), 4, 0, 0, say=lambda _: None)
    assert list(quick) == ["always-defect", "always-cooperate", "itself"]


def test_bad_searches_and_players_are_refused() -> None:
    game = CoinGame()
    with pytest.raises(UserError, match="rollouts=4"):
        TreeSearch(game, scripted(game, "random"), rollouts=4)
    with pytest.raises(UserError, match="levels=9"):
        TreeSearch(game, scripted(game, "random"), levels=9)
    with pytest.raises(UserError, match="always-defect"):
        coin_league.load("always-defec")
