"""Head-to-head: what two learning rules do to each other from random starts."""

from __future__ import annotations

import torch
from torch import Tensor

from envs.differentiable import Game
from games.rules import Rule, learn

_CHUNK = 1024
"""Pairs learned at a time: their derivatives stay in the processor's cache."""


def returns(
    game: Game, rules: tuple[Rule, Rule], pairs: int, lr: float, updates: int, seed: int = 0
) -> Tensor:
    """Final returns (pairs, 2) of learners who start as the game draws them.

    Args:
        game: the game.
        rules: the first and the second player's.
        pairs: how many pairs learn.
        lr: step size of both.
        updates: simultaneous updates.
        seed: of the initial policies, which do not depend on the rules.
    """
    x = game.draw(pairs, torch.Generator().manual_seed(seed))
    return torch.cat(
        [game.value(learn(game, part, rules, lr, updates)) for part in x.split(_CHUNK)]
    )
