"""Learning rules on differentiable games: naive, LookAhead, LOLA, HOLA, POLA.

Each rule gives the direction in which one player changes its policy, as a pure function of the
game and both policies. With f the returns and ∇ᵢ the derivative by player i's own policy:

    naive            ∇₁ f₁(x₁, x₂)
    LookAhead        ∇₁ f₁(x₁, x₂ + α sg[∇₂ f₂])
    LOLA             ∇₁ f₁(x₁, x₂ + α ∇₂ f₂(x₁, x₂))              through the imagined update
    LOLA, Taylor     ∇₁ (f₁ + α sg[∂f₁/∂x₂] · ∇₂ f₂), or without the sg
    HOLA-n           ∇₁ f₁(x₁, x₂ + α g₂), where g is HOLA-(n−1)
    POLA             argmax over y of f₁(y, z(y)) − D(x₁, y) / α,  less x₁, over α,
                     with z(y) = argmax over z of f₂(y, z) − D(x₂, z) / α

HOLA-0 is naive, HOLA-1 is LOLA. Only the opponent is extrapolated, not the learner. POLA replaces
each gradient step of LOLA by a proximal problem; D is the divergence of two policies,
whatever parameters they are written in, so that the rule hardly depends on these. Each problem is
solved by gradient steps of size α from its player's current policy; one step each is LOLA.

Source: T. Cooijmans, PhD thesis (2024), section 6.2.2 and appendix 6.B; the Taylor forms are
those of J. Foerster et al. (2018) and of its public descendants, which stop or do not stop the
gradient of the first factor. The thesis' tables are of the exact form. POLA: S. Zhao et al.,
"Proximal learning with opponent-learning awareness" (2022), which takes the Kullback-Leibler
divergence from the old policy to the new one, summed here over the states that a policy tells
apart.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from semigradient.envs.games.differentiable import Game, returns
from semigradient.errors import require, unknown

Pair = tuple[Tensor, Tensor]
"""The policies (…, n) of both players, differentiable."""

Rule = Callable[[Game, Tensor, int], Tensor]
"""The direction (…, n) in which a player (0 or 1) moves at the policies (…, 2, n)."""


def _slope(objective: Tensor, policy: Tensor, keep: bool = False) -> Tensor:
    return torch.autograd.grad(objective.sum(), policy, create_graph=keep)[0]


def _gradient(game: Game, x: Pair, player: int, keep: bool = False) -> Tensor:
    return _slope(returns(game, x[player], x[1 - player], player), x[player], keep)


def _look_ahead(game: Game, x: Pair, player: int, alpha: float) -> Tensor:
    imagined = x[1 - player] + alpha * _gradient(game, x, 1 - player)
    return _slope(returns(game, x[player], imagined, player), x[player])


def _higher_order(
    game: Game, x: Pair, player: int, alpha: float, order: int, keep: bool = False
) -> Tensor:
    if order == 0:
        return _gradient(game, x, player, keep)
    step = _higher_order(game, x, 1 - player, alpha, order - 1, keep=True)
    imagined = x[1 - player] + alpha * step
    return _slope(returns(game, x[player], imagined, player), x[player], keep)


def _taylor(game: Game, x: Pair, player: int, alpha: float, stop: bool) -> Tensor:
    own, other = x[player], x[1 - player]
    value = returns(game, own, other, player)
    exposed = _slope(value, other, keep=True)
    step = _gradient(game, x, 1 - player, keep=True)
    if stop:
        exposed = exposed.detach()
    return _slope(value + alpha * (exposed * step).sum(-1), own)


def _proximal(game: Game, x: Pair, player: int, alpha: float, inner: int, outer: int) -> Tensor:
    start, other = x[player].detach(), x[1 - player]
    own = start
    for _ in range(outer):
        own = own.detach().requires_grad_()
        reply = other
        for _ in range(inner):
            gain = returns(game, reply, own, 1 - player)
            kept = gain - game.divergence(other.detach(), reply) / alpha
            reply = reply + alpha * _slope(kept, reply, keep=True)
        gain = returns(game, own, reply, player)
        own = own + alpha * _slope(gain - game.divergence(start, own) / alpha, own)
    return (own - start) / alpha


def _rule(direction: Callable[[Game, Pair, int], Tensor]) -> Rule:
    """A rule of detached tensors from a direction that differentiates."""

    def rule(game: Game, x: Tensor, player: int) -> Tensor:
        with torch.enable_grad():
            first, second = (policy.detach().clone().requires_grad_() for policy in x.unbind(-2))
            return direction(game, (first, second), player).detach()

    return rule


def pola(alpha: float, inner: int = 5, outer: int = 10) -> Rule:
    """POLA with `inner` gradient steps on the opponent's proximal problem, `outer` on the own one.

    `alpha` > 0 weighs both divergences; a step of α times the direction reaches the solution.
    Without inner steps the opponent is fixed.
    """
    require(alpha > 0, f"alpha={alpha}: must be > 0 for pola")
    require(inner >= 0, f"inner={inner}: must be ≥ 0")
    require(outer >= 1, f"outer={outer}: must be ≥ 1")
    return _rule(partial(_proximal, alpha=alpha, inner=inner, outer=outer))


_MAKERS: dict[str, Callable[[float], Rule]] = {
    "naive": lambda alpha: _rule(_gradient),
    "lookahead": lambda alpha: _rule(partial(_look_ahead, alpha=alpha)),
    "lola": lambda alpha: _rule(partial(_higher_order, alpha=alpha, order=1)),
    "lola-taylor": lambda alpha: _rule(partial(_taylor, alpha=alpha, stop=True)),
    "lola-taylor-full": lambda alpha: _rule(partial(_taylor, alpha=alpha, stop=False)),
    "pola": pola,
}
NAMES = (*_MAKERS, "hola2", "hola3")


def rule(name: str, alpha: float) -> Rule:
    """The learning rule called `name`.

    Args:
        name: one of `NAMES`, or `holaN` for any N ≥ 0.
        alpha: step of the imagined updates; naive has none.
    """
    require(alpha >= 0, f"alpha={alpha}: must be ≥ 0")
    order = name.removeprefix("hola")
    if name.startswith("hola") and order.isdecimal():
        return _rule(partial(_higher_order, alpha=alpha, order=int(order)))
    if name not in _MAKERS:
        unknown("learning rule", name, NAMES)
    return _MAKERS[name](alpha)


def check(field: str, name: str, others: tuple[str, ...] = ()) -> None:
    """`UserError` that names the field, unless `name` is a rule or one of `others`."""
    order = name.removeprefix("hola")
    is_rule = name in _MAKERS or (name.startswith("hola") and order.isdecimal())
    if not is_rule and name not in others:
        unknown(field, name, (*others, *NAMES))


def learn(game: Game, x: Tensor, rules: tuple[Rule, Rule], lr: float, updates: int) -> Tensor:
    """Let both players learn at once.

    Args:
        game: the game.
        x: initial policies (…, 2, n).
        rules: the learning rule of each player.
        lr: step size of both.
        updates: simultaneous updates.

    Returns:
        Final policies (…, 2, n).
    """
    for _ in range(updates):
        x = x + lr * torch.stack([rules[i](game, x, i) for i in (0, 1)], -2)
    return x
