"""Repeated 2×2 matrix games: payoffs, memory-one policies and their exact values.

Two players choose A or B (cooperate or defect) again and again and remember the last round only.
A policy is five probabilities of A, by what its player saw:

    [start, AA, AB, BA, BB],  own action first.

The discounted occupancy d of the four joint actions is the stationary distribution of the chain
that continues with probability γ and restarts with 1 − γ. Press and Dyson (2012) write d as a
ratio of determinants: three columns of the chain's generator, or sums of them, are

    γ p q + (1 − γ) p₀ q₀ − [AA],   γ p + (1 − γ) p₀ − [own A],   γ q + (1 − γ) q₀ − [other's A],

and d is proportional to the cofactors of what would be the fourth. That takes about forty
multiplications per pair and a single division, and is differentiable to any order.

Source: T. Cooijmans, PhD thesis (2024), table 6.1 and section 6.5.2 (payoffs, policies, the
normalised value); W. Press and F. Dyson, "Iterated Prisoner's Dilemma contains strategies that
dominate any evolutionary opponent" (2012), here with a discount.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from semigradient.errors import UserError, require, unknown

STATES = ("start", "AA", "AB", "BA", "BB")
"""What a memory-one policy may see, own action first."""

SEEN_BY_OTHER = (0, 1, 3, 2, 4)
"""The same five states in the other player's order."""

PAYOFFS: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "prisoners-dilemma": ((-1, -3, 0, -2), (-1, 0, -3, -2)),
    "matching-pennies": ((1, -1, -1, 1), (-1, 1, 1, -1)),
    "chicken": ((0, -1, 1, -100), (0, 1, -1, -100)),
    "stag-hunt": ((4, 1, 3, 2), (4, 3, 1, 2)),
}
"""Each player's payoffs for AA, AB, BA, BB."""

STRATEGIES: Mapping[str, tuple[float, ...]] = {
    "always-cooperate": (1, 1, 1, 1, 1),
    "always-defect": (0, 0, 0, 0, 0),
    "tit-for-tat": (1, 1, 0, 1, 0),
    "cynic-tit-for-tat": (0, 1, 0, 1, 0),
    "grim": (1, 1, 0, 0, 0),
    "pavlov": (1, 1, 0, 0, 1),
    "random": (0.5, 0.5, 0.5, 0.5, 0.5),
}
"""Probabilities of A of the named strategies; `extortion` depends on the game."""


def payoff_tensor(payoff: Any) -> Tensor:
    """(2, 4) float64: payoffs of both players for AA, AB, BA, BB.

    Args:
        payoff: a name in `PAYOFFS`, (2, 4) numbers, or (2, 2, 2): own rows, columns, player.
    """
    if isinstance(payoff, str):
        if payoff not in PAYOFFS:
            unknown("payoff", payoff, PAYOFFS)
        payoff = PAYOFFS[payoff]
    try:
        table = torch.as_tensor(payoff, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        table = torch.zeros(0)
    if table.shape == (2, 2, 2):
        table = table.reshape(4, 2).T.contiguous()
    require(
        table.shape == (2, 4),
        f"payoff={payoff!r}: must be 2 players × 4 joint actions (AA, AB, BA, BB), or 2 × 2 × 2 "
        f"(first player's action, second player's action, player), or one of {', '.join(PAYOFFS)}",
    )
    require(bool(torch.isfinite(table).all()), f"payoff={payoff!r}: must be finite")
    return table


def strategy(name: Any, payoff: Tensor, discount: float, slope: float = 3.0) -> Tensor:
    """Five probabilities of A, float64.

    Args:
        name: a strategy by name, or five probabilities.
        payoff: (2, 4), for `extortion`, in the order of who plays the strategy.
        discount: γ of the game, for `extortion`.
        slope: how many times its opponent's surplus the extortioner's is.
    """
    if isinstance(name, str):
        if name == "extortion":
            return extortion(payoff, discount, slope)
        if name not in STRATEGIES:
            unknown("opponent", name, (*STRATEGIES, "extortion"))
        return torch.tensor(STRATEGIES[name], dtype=torch.float64)
    try:
        chosen = torch.as_tensor(name, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        chosen = torch.zeros(0)
    is_valid = chosen.shape == (5,) and bool(((chosen >= 0) & (chosen <= 1)).all())
    require(is_valid, f"opponent={name!r}: must be a name or five probabilities of A in [0, 1]")
    return chosen


def extortion(
    payoff: Tensor, discount: float, slope: float = 3.0, phi: float | None = None
) -> Tensor:
    """The policy that enforces f₁ − P = slope · (f₂ − P) on every opponent; P is paid for BB.

    From d · (γ p − [own A]) + (1 − γ) p₀ = 0, which holds against everyone, with p₀ = 0 and
    γ p − [own A] = φ ((r₁ − P₁) − slope (r₂ − P₂)).

    Args:
        payoff: (2, 4), the extortioner first.
        discount: γ of the game, in (0, 1].
        slope: ≥ 1; 1 demands equal surpluses.
        phi: how strongly it reacts; default: the middle of what is possible.

    Raises:
        UserError: where no φ gives probabilities.
    """
    require(slope >= 1, f"slope={slope}: must be ≥ 1")
    surplus = (payoff - payoff[:, 3:]).double()
    direction = surplus[0] - slope * surplus[1]
    own = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    low, high = 0.0, float("inf")
    for weight, base in zip(direction.tolist(), own.tolist(), strict=True):
        if weight > 0:
            low, high = max(low, -base / weight), min(high, (discount - base) / weight)
        elif weight < 0:
            low, high = max(low, (discount - base) / weight), min(high, -base / weight)
        elif not 0 <= base <= discount:
            low = float("inf")
    chosen = (low + high) / 2 if phi is None else phi
    if not (low <= chosen <= high and 0 < chosen < float("inf")):
        raise UserError(
            f"opponent='extortion', slope={slope}: no such policy at discount {discount} for the "
            f"payoffs {payoff.tolist()}"
            + ("" if phi is None else f" with phi={phi} (accepted: [{low:.4g}, {high:.4g}])")
        )
    rest = (own + chosen * direction) / discount
    return torch.cat((torch.zeros(1, dtype=torch.float64), rest)).clamp(0, 1)


def occupancy(p: Tensor, q: Tensor, discount: float) -> Tensor:
    """Discounted frequencies (4, …) of AA, AB, BA, BB; they sum to 1.

    Args:
        p: the first player's probabilities of A (5, …), states first.
        q: the second player's (5, …), in the *first* player's order of states.
        discount: γ in [0, 1).
    """
    first = _column(p, discount, (1, 1, 0, 0))
    second = _column(q, discount, (1, 0, 1, 0))
    both = _column(p * q, discount, (1, 0, 0, 0))
    # 2×2 minors of the columns `first` and `second`, rows 01 02 03 12 13 23.
    above = _constant((0, 0, 0, 1, 1, 2), torch.int64, p.device)
    below = _constant((1, 2, 3, 2, 3, 3), torch.int64, p.device)
    minors = first.index_select(0, above) * second.index_select(0, below)
    minors = minors - first.index_select(0, below) * second.index_select(0, above)
    m01, m02, m03, m12, m13, m23 = minors.unbind(0)
    c0, c1, c2, c3 = both.unbind(0)
    cofactors = torch.stack(
        (
            c1 * m23 - c2 * m13 + c3 * m12,
            c2 * m03 - c0 * m23 - c3 * m02,
            c0 * m13 - c1 * m03 + c3 * m01,
            c1 * m02 - c0 * m12 - c2 * m01,
        )
    )
    return cofactors / cofactors.sum(0)


def _column(probability: Tensor, discount: float, now: tuple[int, ...]) -> Tensor:
    """Probability (4, …) of an event next (in round one after an end) minus its indicator now."""
    indicator = _constant(now, probability.dtype, probability.device)
    next_round = discount * probability[1:] + (1 - discount) * probability[:1]
    return next_round - indicator.view(4, *[1] * (probability.dim() - 1))


def discounted_value(
    p: Tensor, q: Tensor, payoff: Tensor, discount: float, normalised: bool = True
) -> Tensor:
    """Exact returns (…, 2) of two memory-one policies in the infinite game.

    Args:
        p: the first player's probabilities of A (…, 5), own action first.
        q: the second player's (…, 5), *its* own action first.
        payoff: (2, 4) of AA, AB, BA, BB.
        discount: γ in [0, 1); `UserError` otherwise.
        normalised: weigh rounds by (1 − γ) γᵗ rather than by γᵗ.
    """
    is_valid = 0 <= discount < 1
    require(is_valid, f"discount={discount}: must be in [0, 1) in a game that never ends")
    p, q = _states_first(p, q)
    value = occupancy(p, q, discount).movedim(0, -1) @ payoff.T.to(p.dtype)
    return value if normalised else value / (1 - discount)


def finite_value(
    p: Tensor, q: Tensor, payoff: Tensor, horizon: int, discount: float = 1.0, mean: bool = True
) -> Tensor:
    """Exact returns (…, 2) of the first `horizon` rounds; arguments as `discounted_value`.

    `mean` divides by the sum of the rounds' weights γᵗ.
    """
    require(horizon >= 1, f"horizon={horizon}: must be ≥ 1")
    require(0 <= discount <= 1, f"discount={discount}: must be in [0, 1]")
    p, q = _states_first(p, q)
    joint = torch.stack((p * q, p * (1 - q), (1 - p) * q, (1 - p) * (1 - q)))  # (next, now, …)
    now, weights = joint[:, 0], torch.zeros_like(joint[:, 0])
    for step in range(horizon):
        weights = weights + discount**step * now
        now = (joint[:, 1:] * now).sum(1)
    value = weights.movedim(0, -1) @ payoff.T.to(p.dtype)
    return value / sum(discount**step for step in range(horizon)) if mean else value


@lru_cache
def _constant(values: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers that stay on the device: the host waits for one when it sends them anew."""
    return torch.tensor(values, dtype=dtype, device=device)


def _states_first(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    order = _constant(SEEN_BY_OTHER, torch.int64, q.device)
    return p.movedim(-1, 0), q.movedim(-1, 0).index_select(0, order)


class MatrixGame:
    """A repeated 2×2 game between memory-one policies, given by five logits each.

    Implements `envs.games.differentiable.Game`.

    Args:
        payoff: see `payoff_tensor`.
        discount: γ between rounds; in [0, 1) where there is no horizon.
        horizon: rounds played; 0: endless.
        normalised: divide values by the sum of the rounds' weights.
    """

    parameters = 5

    def __init__(
        self,
        payoff: str | Sequence[Any] | Tensor = "prisoners-dilemma",
        discount: float = 0.96,
        horizon: int = 0,
        normalised: bool = True,
    ) -> None:
        require(horizon >= 0, f"horizon={horizon}: must be ≥ 0 (0: endless)")
        if horizon:
            require(0 <= discount <= 1, f"discount={discount}: must be in [0, 1]")
        else:
            is_valid = 0 <= discount < 1
            require(is_valid, f"discount={discount}: must be in [0, 1) in a game that never ends")
        self.payoff = payoff_tensor(payoff)
        self._payoff_on: dict[torch.device, Tensor] = {}
        self.discount, self.horizon, self.normalised = discount, horizon, normalised
        self.symmetric = bool((self.payoff[0] == self.payoff[1, [0, 2, 1, 3]]).all())

    def value(self, x: Tensor) -> Tensor:
        """Exact returns (…, 2) of logits (…, 2, 5)."""
        return self.value_of(torch.sigmoid(x))

    def value_of(self, probabilities: Tensor) -> Tensor:
        """Exact returns (…, 2) of probabilities of A (…, 2, 5)."""
        p, q = probabilities.unbind(-2)
        if p.device not in self._payoff_on:
            self._payoff_on[p.device] = self.payoff.to(p.device)
        payoff = self._payoff_on[p.device]
        if self.horizon:
            return finite_value(p, q, payoff, self.horizon, self.discount, self.normalised)
        return discounted_value(p, q, payoff, self.discount, self.normalised)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Logits (count, 2, 5) from the standard normal distribution."""
        shape = (count, 2, 5)
        return torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device)

    def features(self, x: Tensor) -> Tensor:
        """Probabilities of A (…, 5)."""
        return torch.sigmoid(x)

    def divergence(self, old: Tensor, new: Tensor) -> Tensor:
        """Kullback-Leibler divergence from `old` to `new`, summed over the five states: (…,)."""
        both = torch.stack((old, -old)), torch.stack((new, -new))  # logits of A, and of B
        ratio = F.logsigmoid(both[0]) - F.logsigmoid(both[1])
        return (torch.sigmoid(both[0]) * ratio).sum(-1).sum(0)
