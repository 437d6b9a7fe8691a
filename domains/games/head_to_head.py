"""Head-to-head games of two learners from random starts.

`python -m semigradient.agents.games.tournament` is the command, which also takes trained learners.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from semigradient.domains.games.rules import Rule, rule
from semigradient.envs.games.differentiable import Game

_CHUNK = 1024
"""Pairs per batch: their derivatives fit into the CPU's cache."""


@dataclass(frozen=True)
class Contestant:
    """A player of a meta-game: a function that updates its own policy given both policies.

    Attributes:
        change: the next own policy (B, n), given the game, both policies (B, 2, n) and the seat.
        start: the initial own policy (B, n), given the one that the game has drawn (B, n).
    """

    change: Callable[[Game, Tensor, int], Tensor]
    start: Callable[[Tensor], Tensor] = lambda drawn: drawn


def follower(chosen: Rule, lr: float) -> Contestant:
    """A contestant that takes steps of size `lr` by a learning rule."""
    return Contestant(lambda game, x, player: x[..., player, :] + lr * chosen(game, x, player))


def contest(game: Game, players: tuple[Contestant, Contestant], x: Tensor, updates: int) -> Tensor:
    """Policies (B, 2, n) after `updates` simultaneous updates from x (B, 2, n)."""
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
    """Final returns (pairs, 2) of contestants from starts drawn by the game.

    Args:
        game: the game.
        players: the first and the second.
        pairs: number of pairs.
        updates: simultaneous updates.
        seed: of the drawn policies, which do not depend on the players.
    """
    x = game.draw(pairs, torch.Generator().manual_seed(seed))
    return torch.cat(
        [game.value(contest(game, players, part, updates)) for part in x.split(_CHUNK)]
    )


def match_scores(
    game: Game,
    learner: Contestant,
    alpha: float,
    imagined: float,
    updates: int,
    seat: int = 0,
    pairs: int = 128,
    plays_both: bool = True,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Mean final returns of a learner beside naive learners, LOLA and, in like seats, itself.

    Args:
        game: the game.
        learner: in the seat that it was trained in.
        alpha: step size of the opponents.
        imagined: step size of LOLA's imagined updates.
        updates: simultaneous updates.
        seat: 0 or 1.
        pairs: initial pairs of policies, always the same.
        plays_both: whether it can take either of two like seats.
        device: of the learner.

    Returns:
        `against_naive` and `naive_against_it`, the same of `lola`, and `against_itself`, which
        is left out where the seats of the game differ or it cannot take both.
    """
    start = game.draw(pairs, torch.Generator().manual_seed(0)).to(device)

    def means_of(*players: Contestant) -> list[float]:
        one, two = players
        return game.value(contest(game, (one, two), start, updates)).mean(0).tolist()

    scores = {}
    for name in ("naive", "lola"):
        pair = (learner, follower(rule(name, imagined), alpha))
        means = means_of(*(pair if seat == 0 else pair[::-1]))
        scores[f"against_{name}"] = means[seat]
        scores[f"{name}_against_it"] = means[1 - seat]
    if game.symmetric and plays_both:
        scores["against_itself"] = sum(means_of(learner, learner)) / 2
    return scores


def table(
    game: Game, players: Mapping[str, Contestant], pairs: int, updates: int, seed: int = 0
) -> dict[tuple[str, str], float]:
    """Mean final returns of each player (first name) against each other (second name)."""
    means, names = {}, list(players)
    for index, first in enumerate(names):
        for second in names[index:]:
            chosen = players[first], players[second]
            ours, theirs = returns(game, chosen, pairs, updates, seed).mean(0).tolist()
            means[second, first] = theirs
            means[first, second] = ours
    return means
