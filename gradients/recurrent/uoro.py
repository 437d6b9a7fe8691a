"""UORO (Tallec and Ollivier 2018): ds/dθ as one column times one row, without bias.

With independent signs ν of probability ½, one for each unit, after every block

    s̃ ← ρ₀ (∂s'/∂s) s̃ + ρ₁ ν,    θ̃ ← θ̃ / ρ₀ + νᵀ (∂s'/∂θ) / ρ₁
    ρ₀ = √(‖θ̃‖ / (‖(∂s'/∂s) s̃‖ + e)) + e,    ρ₁ = √(‖νᵀ ∂s'/∂θ‖ / (‖ν‖ + e)) + e

has E[s̃ θ̃] = ds/dθ for constant θ. Source: C. Tallec, PhD thesis 2019, chapter 3, Proposition 1 and
Algorithm 1. Memory is width + P for each example and rank, whatever the time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from semigradient.errors import require
from semigradient.gradients.recurrent.forward import Forward
from semigradient.gradients.recurrent.noise import draws
from semigradient.gradients.recurrent.unrolled import Network, Unrolled

EPSILON = 1e-7
"""e."""


def uoro(
    module: nn.Module,
    examples: int,
    generator: torch.Generator | None = None,
    memory: int = 1,
    rank: int = 1,
    exact_last_step: bool = True,
) -> Forward:
    """The estimator.

    Args:
        module: see the package.
        examples: B.
        generator: draws the signs; its state is the caller's to keep.
        memory: T, steps of a block, which are exact.
        rank: independent traces, which are averaged.
        exact_last_step: see `Forward`.
    """
    trace = RankOne(Network(module), examples, rank, generator)
    return Forward(module, examples, trace, memory, exact_last_step)


class RankOne:
    """s̃ (B, rank, width) and θ̃ (B, rank, P); `draw` gives signs of a shape."""

    draw: Callable[[tuple[int, ...]], Tensor]

    def __init__(
        self,
        network: Network,
        examples: int,
        rank: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        require(rank >= 1, f"rank={rank}: the number of traces must be ≥ 1")
        zeros = network.start(examples)
        self.state = zeros.new_zeros(examples, rank, network.width)
        self.theta = zeros.new_zeros(examples, rank, network.parameters)
        self.draw = draws("signs", generator, zeros)

    def tangents(self) -> Tensor:
        """s̃."""
        return self.state

    def contract(self, by_state: Tensor) -> Tensor:
        """The mean over traces of (∂l/∂s · s̃) θ̃."""
        along = torch.einsum("bn,bkn->bk", by_state, self.state)
        return torch.einsum("bk,bkp->bp", along, self.theta) / self.state.shape[1]

    def advance(self, block: Unrolled) -> None:
        """One forward derivative, which the block has, and one backward pass along ν."""
        nu = self.draw(tuple(self.state.shape))
        by_theta = block.back_from_state(nu.transpose(0, 1))[1].transpose(0, 1)
        moved = block.tangents
        assert moved is not None  # for they were asked for
        first = scale(self.theta, moved)
        second = scale(by_theta, nu)
        self.state = first * moved + second * nu
        self.theta = self.theta / first + by_theta / second

    def reset(self, mask: Tensor) -> None:
        """Zeros."""
        self.state = torch.where(mask[:, None, None], 0, self.state)
        self.theta = torch.where(mask[:, None, None], 0, self.theta)

    def state_dict(self) -> dict[str, Tensor]:
        """s̃ and θ̃."""
        return {"state": self.state, "theta": self.theta}

    def load_state_dict(self, stored: Mapping[str, Tensor]) -> None:
        """s̃ and θ̃."""
        self.state, self.theta = stored["state"].clone(), stored["theta"].clone()


def scale(row: Tensor, column: Tensor) -> Tensor:
    """ρ: what makes both sides of a product equally long."""
    ratio = row.norm(dim=-1, keepdim=True) / (column.norm(dim=-1, keepdim=True) + EPSILON)
    return ratio.sqrt() + EPSILON
