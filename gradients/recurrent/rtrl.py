"""Real-time recurrent learning (Williams and Zipser 1989): the exact ds/dθ, carried forward.

    G_{t+1} = (∂F/∂s) G_t + ∂F/∂θ,    ∂l_t/∂θ = (∂l_t/∂s_t) G_t

G is (width, P) for each example: memory n³ and time n⁴ of a dense network with n units. Exact for
constant θ; while θ changes, in the limit of small steps.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from semigradient.gradients.recurrent.forward import Forward
from semigradient.gradients.recurrent.unrolled import Network, Unrolled


def rtrl(module: nn.Module, examples: int) -> Forward:
    """The estimator."""
    return Forward(module, examples, Sensitivity(Network(module), examples))


class Sensitivity:
    """G (B, width, P)."""

    def __init__(self, network: Network, examples: int) -> None:
        zeros = network.start(examples)
        self.value = zeros.new_zeros(examples, network.width, network.parameters)
        self.units = torch.eye(network.width, dtype=zeros.dtype, device=zeros.device)

    def tangents(self) -> None:
        """None are needed."""

    def contract(self, by_state: Tensor) -> Tensor:
        """∂l/∂s G."""
        return torch.einsum("bn,bnp->bp", by_state, self.value)

    def advance(self, block: Unrolled) -> None:
        """By the block's Jacobians, one backward pass for each unit."""
        units = self.units[:, None].expand(-1, len(self.value), -1)
        by_state, by_theta = block.back_from_state(units)
        self.value = torch.einsum("mbn,bnp->bmp", by_state, self.value) + by_theta.transpose(0, 1)

    def reset(self, mask: Tensor) -> None:
        """Zeros."""
        self.value = torch.where(mask[:, None, None], 0, self.value)

    def state_dict(self) -> dict[str, Tensor]:
        """G."""
        return {"value": self.value}

    def load_state_dict(self, stored: Mapping[str, Tensor]) -> None:
        """G."""
        self.value = stored["value"].clone()
