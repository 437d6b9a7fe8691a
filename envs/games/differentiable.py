"""Differentiable games: what every learning rule, tournament and meta-value needs of a game.

A game maps the parameters of two policies to the two players' exact returns, with tensors that can
be differentiated to any order. Parameters are (…, 2, n): any leading axes (models, pairs), the
player, and n numbers. Returns are maximised.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from semigradient.envs.adapters import CoreVector
from semigradient.envs.vector import ExactVector
from semigradient.errors import UserError


class Game(Protocol):
    """Two policies in, two returns out.

    Attributes:
        parameters: n, the numbers that one policy is.
        symmetric: whether the game is the same from both seats: f₁(x₁, x₂) = f₂(x₂, x₁).
    """

    parameters: int
    symmetric: bool

    def value(self, x: Tensor) -> Tensor:
        """Returns (…, 2) of the policies (…, 2, n)."""
        ...

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Initial policies (count, 2, n) as the published experiments draw them, float64."""
        ...

    def features(self, x: Tensor) -> Tensor:
        """What a network should see of the parameters: (…, n) of about unit size."""
        ...

    def divergence(self, old: Tensor, new: Tensor) -> Tensor:
        """How far the policies `new` (…, n) are from the policies `old`: (…,), 0 where equal."""
        ...


def returns(game: Game, own: Tensor, other: Tensor, player: int) -> Tensor:
    """The returns (…,) of `player`, who plays `own` (…, n) against `other` (…, n)."""
    pair = (own, other) if player == 0 else (other, own)
    return game.value(torch.stack(pair, -2))[..., player]


def simultaneous_gradient(game: Game, x: Tensor, graph: bool = False) -> Tensor:
    """Each player's gradient of its own return by its own policy: (…, 2, n).

    `graph` keeps what is needed to differentiate it by x and by whatever x came from.
    """
    x = x if graph else x.detach()
    with torch.enable_grad():
        own = x.clone() if x.requires_grad else x.clone().requires_grad_()
        # Row i of `pairs` varies player i alone, so one backward pass serves both players.
        pairs = torch.stack(
            (
                torch.stack((own[..., 0, :], x[..., 1, :]), -2),
                torch.stack((x[..., 0, :], own[..., 1, :]), -2),
            )
        )
        value = game.value(pairs)
        total = value[0, ..., 0].sum() + value[1, ..., 1].sum()
        (slope,) = torch.autograd.grad(total, own, create_graph=graph)
    return slope


def game_behind(envs: ExactVector) -> Game:
    """The exact game that environments play; `UserError` if there is none."""
    core = envs.core if isinstance(envs, CoreVector) else None
    game = getattr(getattr(core, "game", None), "game", None)
    if game is None:
        raise UserError(
            f"--env {envs.spec.id if envs.spec else '?'}: has no exact returns to learn from; "
            "accepted are semigradient/IPD-v0, MatchingPennies-v0, Chicken-v0, StagHunt-v0, "
            "MatrixGame-v0 and LogisticGame-v0"
        )
    return game
