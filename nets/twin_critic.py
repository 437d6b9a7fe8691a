"""The critics of learners of continuous actions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from semigradient.nets.bricks import activation


class TwinCritic(nn.Module):
    """Two perceptrons Q₁, Q₂ of observation and action, computed side by side.

    Weights (2, inputs, outputs) begin as those of `nn.Linear`, each critic's of its own draw.

    Args:
        inputs: numbers in an observation and an action together.
        hidden: widths of the hidden layers.
        nonlinearity: a key of `ACTIVATIONS`.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], nonlinearity: str) -> None:
        super().__init__()
        sizes = list(itertools.pairwise((inputs, *hidden, 1)))
        self.weights = nn.ParameterList(torch.empty(2, *size) for size in sizes)
        self.biases = nn.ParameterList(torch.empty(2, 1, width) for _, width in sizes)
        for weight, bias, (width, _) in zip(self.weights, self.biases, sizes, strict=True):
            bound = 1 / math.sqrt(width)
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)
        self.activation = activation(nonlinearity)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """Values (2, m) of observations (m, D) and actions (m, K)."""
        rows = torch.cat([obs, action], 1).expand(2, -1, -1)
        return self._layers(rows, list(self.weights), list(self.biases)).squeeze(2)

    def first(self, obs: Tensor, action: Tensor) -> Tensor:
        """Values (m,) of Q₁ alone."""
        weights, biases = ([each[:1] for each in part] for part in (self.weights, self.biases))
        return self._layers(torch.cat([obs, action], 1)[None], weights, biases)[0, :, 0]

    def _layers(self, rows: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
        last = len(weights) - 1
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            rows = torch.baddbmm(bias, rows, weight)
            rows = rows if layer == last else self.activation(rows)
        return rows
