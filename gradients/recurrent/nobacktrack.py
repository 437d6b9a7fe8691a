"""NoBackTrack (Ollivier, Tallec and Charpiat 2015) for a plain recurrent layer.

The rank-one trick is used once for all n + 1 terms of a step, each with its own best scale: with
signs ν_i and unit vectors e_i,

    s̃ ← ρ₀ (∂F/∂s) s̃ + Σ_i ρ_i ν_i e_i,    θ̃ ← θ̃/ρ₀ + Σ_i ν_i (∂F_i/∂θ) / ρ_i
    ρ₀ = √(‖θ̃‖ / ‖(∂F/∂s) s̃‖),    ρ_i = √‖∂F_i/∂θ‖

of least variance for a step (C. Tallec, PhD thesis 2019, chapter 3, Proposition 1). It needs the
gradient of every unit, cheap only where each parameter serves one unit: ∂F_i/∂W_i = f_i' a.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from semigradient.errors import require
from semigradient.gradients.recurrent.forward import Forward
from semigradient.gradients.recurrent.layer import Layer
from semigradient.gradients.recurrent.unrolled import Unrolled
from semigradient.gradients.recurrent.uoro import EPSILON, RankOne, scale


def nobacktrack(
    module: nn.Module, examples: int, generator: torch.Generator | None = None
) -> Forward:
    """The estimator; the cell has to be plain (`UNITWISE`)."""
    return Forward(module, examples, UnitSigns(Layer(module, "nobacktrack"), examples, generator))


class UnitSigns(RankOne):
    """s̃ (B, 1, width) and θ̃ (B, 1, P)."""

    draw: Callable[[tuple[int, ...]], Tensor]

    def __init__(
        self, layer: Layer, examples: int, generator: torch.Generator | None = None
    ) -> None:
        require(
            getattr(layer.cell, "UNITWISE", False),
            f"nobacktrack: a parameter of {type(layer.cell).__name__} serves several units of its "
            "state; rnn is accepted",
        )
        super().__init__(layer.network, examples, 1, generator)
        self.layer = layer

    def advance(self, block: Unrolled) -> None:
        """One step."""
        moved = block.tangents
        assert moved is not None  # for they were asked for
        a = self.layer.features(block)
        slopes = self.layer.along(block, a, torch.ones_like(block.start))
        nu = self.draw(tuple(self.state.shape))[:, 0]
        first = scale(self.theta, moved)
        each = (slopes.abs() * a.norm(dim=1, keepdim=True)).sqrt() + EPSILON
        by_weight = torch.einsum("bn,ba->bna", nu * slopes / each, a)
        self.state = first * moved + (each * nu)[:, None]
        self.theta = self.theta / first + self.layer.spread(by_weight)[:, None]
