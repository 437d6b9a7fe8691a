"""Head-to-head: what two learning rules do to each other from random starts.

    python -m games.tournament --game prisoners-dilemma --rules naive lola hola2 --alpha 25

prints the mean final return of each row's rule against each column's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from envs.differentiable import Game
from envs.logistic import LogisticGame
from envs.matrix_games import PAYOFFS, MatrixGame
from errors import UserError, require
from games.rules import NAMES, Rule, rule

_CHUNK = 1024
"""Pairs learned at a time: their derivatives stay in the processor's cache."""


@dataclass(frozen=True)
class Contestant:
    """Somebody who plays a game of learning: whatever changes its own policy by both.

    Attributes:
        change: the next own policy (B, n), of the game, both policies (B, 2, n) and one's seat.
        start: the first own policy (B, n), of what the game has drawn for it (B, n).
    """

    change: Callable[[Game, Tensor, int], Tensor]
    start: Callable[[Tensor], Tensor] = lambda drawn: drawn


def follower(chosen: Rule, lr: float) -> Contestant:
    """A contestant who takes steps of size `lr` by a learning rule."""
    return Contestant(lambda game, x, player: x[..., player, :] + lr * chosen(game, x, player))


def contest(game: Game, players: tuple[Contestant, Contestant], x: Tensor, updates: int) -> Tensor:
    """Policies (B, 2, n) after so many simultaneous updates from x (B, 2, n)."""
    x = torch.stack([player.start(x[..., i, :]) for i, player in enumerate(players)], -2)
    for _ in range(updates):
        x = torch.stack([player.change(game, x, i) for i, player in enumerate(players)], -2)
    return x


def returns(
    game: Game,
    players: tuple[Contestant, Contestant],
    pairs: int,
    updates: int,
    seed: int = 0,
) -> Tensor:
    """Final returns (pairs, 2) of contestants for whom the game draws starts.

    Args:
        game: the game.
        players: the first and the second.
        pairs: how many pairs learn.
        updates: simultaneous updates.
        seed: of the drawn policies, which do not depend on the players.
    """
    x = game.draw(pairs, torch.Generator().manual_seed(seed))
    return torch.cat(
        [game.value(contest(game, players, part, updates)) for part in x.split(_CHUNK)]
    )


def table(
    game: Game, names: Sequence[str], alpha: float, pairs: int, updates: int, seed: int = 0
) -> dict[tuple[str, str], float]:
    """Mean final returns of each rule (first name) against each other (second name)."""
    found = {}
    for index, first in enumerate(names):
        for second in names[index:]:
            players = (
                follower(rule(first, alpha), alpha),
                follower(rule(second, alpha), alpha),
            )
            ours, theirs = returns(game, players, pairs, updates, seed).mean(0).tolist()
            found[second, first] = theirs
            found[first, second] = ours
    return found


def main(argv: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser("games.tournament", description=__doc__)
    add = parser.add_argument
    add("--game", default="prisoners-dilemma", help=f"{', '.join(PAYOFFS)} or logistic")
    add("--rules", nargs="+", default=["naive", "lola"], help=", ".join(NAMES))
    add("--alpha", type=float, default=25.0, help="step size of all, also of imagined updates")
    add("--discount", type=float, default=0.96, help="of the repeated game")
    add("--pairs", type=int, default=2048, help="random starts")
    add("--updates", type=int, default=500, help="of both players at once")
    add("--seed", type=int, default=0, help="of the starts")
    chosen = parser.parse_args(argv)
    try:
        require(chosen.pairs >= 1, f"--pairs {chosen.pairs}: must be ≥ 1")
        require(chosen.updates >= 0, f"--updates {chosen.updates}: must be ≥ 0")
        logistic = chosen.game == "logistic"
        game = LogisticGame() if logistic else MatrixGame(chosen.game, chosen.discount)
        found = table(game, chosen.rules, chosen.alpha, chosen.pairs, chosen.updates, chosen.seed)
    except UserError as problem:
        print(f"games.tournament: error: {problem}", file=sys.stderr)
        return 2
    width = max(map(len, chosen.rules)) + 2
    print(" " * width + "".join(f"{name:>{width + 4}s}" for name in chosen.rules))
    for first in chosen.rules:
        cells = (found[first, second] for second in chosen.rules)
        print(f"{first:{width}s}" + "".join(f"{cell:{width + 4}.3f}" for cell in cells))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
