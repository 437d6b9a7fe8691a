"""Change of interference along an update: ρ' = -r1 - r2 - r3.

With b = ∇f, a = ∇(f - y), d and w the first and second derivative of the loss by f, H̄ the
Hessian of f, and the update θ' = θ - α v_B at B,

    ρ'_AB = ∂/∂α ∇J_A·∇J_B = -r1 - r2 - r3
    r1 = w_A d_B (a_A·v_B)(b_A·b_B)
    r2 = w_B d_A (a_B·v_B)(b_A·b_B)
    r3 = d_A d_B v_Bᵀ(H̄_A b_B + H̄_B b_A)

and for SGD v_B = ∇J_B = d_B b_B, for momentum v_B = β μ + (1 - β) ∇J_B. E. Bengio, PhD thesis,
eq. 3.23-3.30 and §3.2.4.1, with two corrections that finite differences confirm (the tests): the
factor 2 printed before r2 (3.25, 3.49) does not follow from 3.48, and the momentum form (3.30)
lacks H̄_B b_A and has the sign of its first term reversed. For w = 1 these are 3.25 (target that
does not move, a = b) and 3.26 (a = ∇V - γ∇V').
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import vmap

from semigradient.diagnostics.derivatives import (
    curvature,
    error_rows,
    onto,
    paired,
    products,
    rows,
    slopes,
)
from semigradient.diagnostics.derivatives import scaled as scale
from semigradient.diagnostics.examples import Examples, Params
from semigradient.diagnostics.observer import Findings, View
from semigradient.optim.temporal_difference import Rows

PAIRS = 32
"""Most examples on each side of the pairs: their number is the square (thesis, Fig. 3.17)."""


@dataclass(frozen=True)
class Evolution:
    """Interference of all pairs and its derivative along an update at B: (m, k) each.

    Attributes:
        rho: ρ_AB.
        r1: from the error at A.
        r2: from the error at B.
        r3: from the curvature of f.
        function: ρ̄'_AB = -v_Bᵀ(H̄_A b_B + H̄_B b_A), for ρ̄ of the predictions.
    """

    rho: Tensor
    r1: Tensor
    r2: Tensor
    r3: Tensor
    function: Tensor

    @property
    def total(self) -> Tensor:
        """ρ'_AB."""
        return -(self.r1 + self.r2 + self.r3)


def evolution(
    one: Examples, other: Examples, params: Params | None = None, update: Rows | None = None
) -> Evolution:
    """Evolution for A in `one` (m) and B in `other` (k).

    `update` are the rows v_B, (k, …) each; by default those of SGD, ∇J_B.
    """
    at = one.parameters if params is None else params
    b_one, b_other = rows(one.prediction, one, at), rows(other.prediction, other, at)
    a_one = error_rows(one, at) if one.moving else b_one
    a_other = error_rows(other, at) if other.moving else b_other
    (d_one, w_one), (d_other, w_other) = slopes(one, at), slopes(other, at)
    v = scale(b_other, d_other) if update is None else update
    g, d = products(b_one, b_other), d_one[:, None] * d_other
    bend = _bend(one, other, at, v, b_one, b_other)
    return Evolution(
        rho=d * g,
        r1=w_one[:, None] * d_other * products(a_one, v) * g,
        r2=d_one[:, None] * w_other * paired(a_other, v) * g,
        r3=d * bend,
        function=-bend,
    )


def momentum_update(
    gradients: Rows, average: Params, beta: float, share: float | None = None
) -> Rows:
    """β μ + share ∇J_B for each row (k, …); `share` is 1 - β unless momentum is undampened."""
    share = 1 - beta if share is None else share
    return {name: beta * average[name] + share * row for name, row in gradients.items()}


def momentum_interference(
    one: Examples, other: Examples, average: Params, beta: float, params: Params | None = None
) -> Tensor:
    """Interference under momentum (3.29), (1 - β) ∇J_A·∇J_B + β ∇J_A·μ: (m, k)."""
    at = one.parameters if params is None else params
    here = scale(rows(one.prediction, one, at), slopes(one, at)[0])
    there = scale(rows(other.prediction, other, at), slopes(other, at)[0])
    return (1 - beta) * products(here, there) + beta * onto(here, average)[:, None]


def momentum_of(optimizer: torch.optim.Optimizer) -> tuple[list[Tensor], float, float] | None:
    """The running average in an optimizer, its β, and the share of a new gradient in it.

    One tensor for each parameter, in order; None if there is no average (yet).
    """
    kinds = {"mu": ("beta", None), "exp_avg": ("betas", None), "momentum_buffer": ("momentum", 1.0)}
    for key, (option, share) in kinds.items():
        pairs = [(p, group) for group in optimizer.param_groups for p in group["params"]]
        if any(key in optimizer.state[p] for p, _ in pairs if p in optimizer.state):
            average = [
                optimizer.state[p][key] if p in optimizer.state else torch.zeros_like(p)
                for p, _ in pairs
            ]
            value = pairs[0][1][option]
            beta = float(value[0] if isinstance(value, (tuple, list)) else value)
            if share is not None:
                share -= pairs[0][1]["dampening"]
            return average, beta, 1 - beta if share is None else share
    return None


def measure(view: View) -> Findings:
    """Means of ρ', of its parts and of their positive and negative values, over all pairs."""
    count = min(view.samples, PAIRS)
    one, other = view.drawn(count), view.drawn(count)
    result = evolution(one, other)
    scalars = {"total": result.total.mean(), "function": result.function.mean()}
    for name in ("r1", "r2", "r3"):
        part = getattr(result, name)
        scalars[name] = part.mean()
        scalars[f"{name}_positive"] = part.clamp(min=0).sum() / (part > 0).sum().clamp(min=1)
        scalars[f"{name}_negative"] = part.clamp(max=0).sum() / (part < 0).sum().clamp(min=1)
    optimizer = view.experience.optimizer
    if (average := momentum_of(optimizer)) is not None:
        buffers, beta, share = average
        order = [p for group in optimizer.param_groups for p in group["params"]]
        numbers = {id(p): number for number, p in enumerate(order)}
        named = view.experience.module.named_parameters()
        mu = {name: buffers[numbers[id(p)]] for name, p in named if p.requires_grad}
        gradients = scale(rows(other.prediction, other), slopes(other)[0])
        update = momentum_update(gradients, mu, beta, share)
        scalars["total_momentum"] = evolution(one, other, update=update).total.mean()
    return Findings(scalars)


def _bend(
    one: Examples, other: Examples, at: Params, v: Rows, b_one: Rows, b_other: Rows
) -> Tensor:
    """v_Bᵀ(H̄_A b_B + H̄_B b_A) of all pairs: (m, k)."""

    def at_one(sample, v_b, b_b):  # type: ignore[no-untyped-def]
        return curvature(one.prediction, one.module, sample, at, v_b, b_b)

    def at_other(sample, v_b, b_a):  # type: ignore[no-untyped-def]
        return curvature(other.prediction, other.module, sample, at, v_b, b_a)

    over_a = vmap(at_one, in_dims=(0, None, None))
    first = vmap(over_a, in_dims=(None, 0, 0), out_dims=1)(dict(one.samples), v, b_other)
    over_b = vmap(at_other, in_dims=(0, 0, None))
    second = vmap(over_b, in_dims=(None, None, 0))(dict(other.samples), v, b_one)
    return first + second
