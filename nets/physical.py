"""The networks of learners in physical time: plain towers, critics of actions, bounded policies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from semigradient.nets.bricks import mlp


class Tower(nn.Module):
    """(B, *observation) → (B, outputs); the last bias begins at 0.

    Args:
        inputs: numbers in an observation (and action).
        outputs: width of the last layer.
        hidden: widths of the others.
        activation: nonlinearity between them.
        layer_norm: normalise before every nonlinearity.
        bounded: end with tanh.
        axes: of one observation.
    """

    STACKS = True

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: Sequence[int],
        activation: str,
        layer_norm: bool,
        bounded: bool = False,
        axes: int = 1,
    ) -> None:
        super().__init__()
        self.layers = mlp((inputs, *hidden, outputs), activation, layer_norm=layer_norm)
        self.bounded, self.axes = bounded, axes
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.bias)

    def forward(self, obs: Tensor, action: Tensor | None = None) -> Tensor:
        """(B, *observation), for critics beside actions (B, K) → (B, outputs)."""
        rows = obs.flatten(-self.axes) if self.axes > 1 else obs
        outputs = self.layers(rows if action is None else torch.cat([rows, action], -1))
        return torch.tanh(outputs) if self.bounded else outputs
