"""ARTBP (Tallec and Ollivier 2017): truncated backpropagation with random cuts, made unbiased.

After a piece of d steps there is a cut with probability c_d. Where there is none, the gradient that
comes back is multiplied by 1/(1 − c_d):

    δ̃_t = ∂l_t/∂s_t                                at a cut,
    δ̃_t = δ̃_{t+1} ∂F/∂s / (1 − c) + ∂l_t/∂s_t      elsewhere.

Unbiased for any law of cuts that is decided before the step. With

    c_d = (α − 1) / ((α − 2) L₀ + d)

the length of a piece is L with probability of order L^−α, its mean is L₀ exactly, and factors grow
like d^(α − 1) instead of exponentially as with a constant c.

Source: C. Tallec, PhD thesis 2019, chapter 4, Proposition 2 and eq. 4.14.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, lgamma
from typing import Protocol

import torch
from torch import Tensor, nn

from semigradient.errors import require
from semigradient.gradients.recurrent.bptt import BPTT


class Law(Protocol):
    """When to cut."""

    def cut(self, steps: int) -> float:
        """The probability of a cut after so many steps (≥ 1) without one, below 1."""


@dataclass(frozen=True)
class PowerLaw:
    """Pieces of mean length L₀ with a tail of power α; their variance is finite for α > 3."""

    alpha: float = 4.0
    """α."""
    mean: float = 50.0
    """L₀, in steps."""

    def __post_init__(self) -> None:
        require(self.alpha > 2, f"alpha={self.alpha}: must be > 2, for the mean length is finite")
        require(
            (self.alpha - 2) * self.mean + 1 > self.alpha - 1,
            f"mean={self.mean}: must be > 1, the length of the shortest piece",
        )

    def cut(self, steps: int) -> float:
        """Eq. 4.14."""
        return (self.alpha - 1) / ((self.alpha - 2) * self.mean + steps)

    def survival(self, steps: float) -> float:
        """The probability that a piece is longer; one over the product of factors up to there."""
        a = (self.alpha - 2) * self.mean
        b = a + 1 - self.alpha
        return exp(lgamma(b + steps + 1) - lgamma(b + 1) + lgamma(a + 1) - lgamma(a + steps + 1))

    def variance(self) -> float:
        """Of the length of a piece; infinite for α ≤ 3."""
        if self.alpha <= 3:
            return float("inf")
        square = 2 * self.mean * ((self.alpha - 2) * self.mean - 1) / (self.alpha - 3) - self.mean
        return square - self.mean**2


@dataclass(frozen=True)
class ConstantLaw:
    """A cut after every step with one probability: factors grow exponentially."""

    probability: float
    """c."""

    def __post_init__(self) -> None:
        require(0 <= self.probability < 1, f"constant={self.probability}: c must be in [0, 1)")

    def cut(self, steps: int) -> float:
        """The same c."""
        return self.probability


def draw_length(law: Law, generator: torch.Generator | None = None, longest: int = 10**6) -> int:
    """Steps of a piece; `longest` ends it, with a bias, before memory does."""
    for steps in range(1, longest):
        if _uniform(generator) < law.cut(steps):
            return steps
    return longest


class ARTBP(BPTT):
    """Gradients reach back to the last cut, with all factors on the way.

    All examples are cut at the same instants, so that one graph holds them.

    Args:
        module: see the package.
        examples: B.
        generator: draws the cuts; its state is the caller's to keep.
        alpha: α of the power law.
        mean: L₀.
        constant: c of a constant law instead.
    """

    def __init__(
        self,
        module: nn.Module,
        examples: int,
        generator: torch.Generator | None = None,
        alpha: float = 4.0,
        mean: float = 50.0,
        constant: float | None = None,
    ) -> None:
        super().__init__(module, examples)
        self.law: Law = PowerLaw(alpha, mean) if constant is None else ConstantLaw(constant)
        self.draw = lambda: _uniform(generator)

    def step(self, x: Tensor) -> Tensor:
        """Outputs, after a cut or a factor."""
        factor = 1.0
        if self.unrolled.count:
            probability = self.law.cut(self.unrolled.count)
            if self.draw() < probability:
                self.cut()
            else:
                factor = 1 / (1 - probability)
        return self.unrolled.step(x, factor)


def _uniform(generator: torch.Generator | None) -> float:
    return float(torch.rand((), generator=generator, dtype=torch.float64))
