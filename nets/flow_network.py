"""The networks of a flow network: one perceptron, or two, over features of states; conditions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from semigradient.nets.bricks import mlp
from semigradient.nets.recalled import recalled


class FlowOutputs(NamedTuple):
    """Raw outputs at m states; what an objective does not need is None."""

    forward: Tensor  # (m, A) log edge flows, or logits of the forward policy
    backward: Tensor | None  # (m, K) logits of the backward policy
    flow: Tensor | None  # (m,) log state flow


class FlowNetwork(nn.Module):
    """Features (m, D) → `FlowOutputs`.

    Args:
        width: D.
        actions: A.
        in_degree: K of the learned backward policy; 0 for none.
        state_flow: whether the log flow of states is an output.
        hidden: widths of the hidden layers.
        activation: nonlinearity between them.
        separate_backward: a perceptron of its own for the backward policy.
    """

    def __init__(
        self,
        width: int,
        actions: int,
        in_degree: int,
        state_flow: bool,
        hidden: Sequence[int],
        activation: str,
        separate_backward: bool = False,
    ) -> None:
        super().__init__()
        shared = 0 if separate_backward else in_degree
        self.splits = (actions, shared, int(state_flow))
        self.trunk = mlp((width, *hidden, sum(self.splits)), activation)
        self.behind: nn.Sequential | None = None
        if separate_backward and in_degree:
            self.behind = mlp((width, *hidden, in_degree), activation)

    def forward(self, features: Tensor, known: Sequence[Tensor] | None = None) -> FlowOutputs:
        """Outputs at m states.

        Args:
            features: (m, D).
            known: what the trunk's layers give there, where that has been computed; see
                `nets.recalled`.
        """
        outputs = self.trunk(features) if known is None else recalled(self.trunk, features, known)
        forward, backward, flow = outputs.split(self.splits, 1)
        if self.behind is not None:
            backward = self.behind(features)
        return FlowOutputs(
            forward,
            backward if backward.shape[1] else None,
            flow.squeeze(1) if flow.shape[1] else None,
        )


class ConditionalFlowNetwork(nn.Module):
    """Features (m, D) and a condition → `FlowOutputs`; log Z as a function of the condition.

    The condition is one number in [low, high] for all states of a call. The network sees it in a
    thermometer of `CELLS` cells, and log Z is piecewise linear between their borders.

    Args:
        low: of the condition.
        high: of the condition.
        make: builds the network for features of a width.
        width: D.

    Attributes:
        condition: at which outputs are wanted.
    """

    CELLS = 8

    def __init__(
        self, low: float, high: float, make: Callable[[int], FlowNetwork], width: int
    ) -> None:
        super().__init__()
        self.low, self.high, self.condition = low, high, high
        self.inner = make(width + self.CELLS)
        self.log_z_values = nn.Parameter(torch.zeros(self.CELLS + 1))

    def forward(self, features: Tensor) -> FlowOutputs:
        """Outputs at m states, under the condition."""
        seen = self.thermometer(features.device).to(features.dtype)
        outputs: FlowOutputs = self.inner(torch.cat([features, seen.expand(len(features), -1)], 1))
        return outputs

    def log_z(self, base: Tensor) -> Tensor:
        """Log Z under the condition, 0-dim: a common part and one by condition."""
        below = self.thermometer(base.device)
        one = torch.ones(1, device=base.device)
        near = torch.cat([one, below]) - torch.cat([below, 0 * one])
        return base + near @ self.log_z_values

    def thermometer(self, device: torch.device) -> Tensor:
        """How much of each of the cells lies below the condition: (CELLS,)."""
        share = (self.condition - self.low) / (self.high - self.low)
        cells = torch.arange(self.CELLS, device=device)
        return (share * self.CELLS - cells).clamp(0, 1)
