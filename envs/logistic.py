"""The Logistic Game: two scalar policies, so that the space of all pairs is a plane.

    f₁ = −4 σ(x₁)(1 − 2 σ(x₂)) − h,   f₂ = −4 σ(x₂)(1 − 2 σ(x₁)) − h,
    h = (x₁² x₂² + (x₁ − x₂)² (x₁ + x₂)²) / 10000

There are two stable points, A in the lower left and B in the upper right. Both players prefer B;
from A it is reached together or not at all.

Source: T. Cooijmans, PhD thesis (2024), equation 6.5.1, after A. Letcher (2018). The divisor is
10000: with the 1000 that Letcher prints the stable points would be at ±3.63 instead of ±5.03.
"""

from __future__ import annotations

import torch
from torch import Tensor

DIVISOR = 10_000.0
RADIUS = 8.0
"""Initial policies are uniform in [−8, 8]."""


class LogisticGame:
    """The game as `envs.differentiable.Game` has it, with one number a policy."""

    parameters = 1
    symmetric = True

    def value(self, x: Tensor) -> Tensor:
        """Returns (…, 2) of policies (…, 2, 1)."""
        x = x.squeeze(-1)
        chosen = torch.sigmoid(x)
        squares = x * x
        first, second = squares.unbind(-1)
        penalty = (first * second + (first - second) ** 2) / DIVISOR
        return -4 * chosen * (1 - 2 * chosen.flip(-1)) - penalty.unsqueeze(-1)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Policies (count, 2, 1), uniform in [−8, 8]."""
        shape = (count, 2, 1)
        drawn = torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)
        return (2 * drawn - 1) * RADIUS

    def features(self, x: Tensor) -> Tensor:
        """Policies in units of ten."""
        return x / 10
