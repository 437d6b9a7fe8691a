"""The updates under comparison, for E members at once: momentum and its corrections.

The updates of `optim.Momentum` and `optim.CorrectedMomentum` on the rows of a matrix of parameters
(E, n) in one call; tests verify equal parameters to 1e-12 in float64.

Source: E. Bengio, PhD thesis, ch. 4, eq. 4.2-4.3 (momentum) and 4.12-4.19 (corrected), with the
displacement measured as in `optim/corrected_momentum.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Correction:
    """Which derivatives of the gradient are averaged: a full block, and optionally the diagonal."""

    full: slice
    """Parameters of the full block; an empty slice for none."""
    diagonal: bool = False
    """Whether the other parameters have a diagonal correction."""


@dataclass
class Averages:
    """State of a method: (E, n) each but `block`, (E, f, f), f the size of the full block."""

    mu: Tensor
    eta: Tensor | None = None
    previous: Tensor | None = None
    block: Tensor | None = None
    diagonal: Tensor | None = None

    @classmethod
    def zero(cls, theta: Tensor, correction: Correction | None = None) -> Averages:
        """Initial state at parameters `theta` (E, n)."""
        if correction is None:
            return cls(torch.zeros_like(theta))
        part = theta[:, correction.full]
        size = part.shape[1]
        return cls(
            torch.zeros_like(theta),
            torch.zeros_like(theta),
            theta.clone(),
            theta.new_zeros(len(theta), size, size) if size else None,
            torch.zeros_like(theta) if correction.diagonal else None,
        )


def momentum(averages: Averages, theta: Tensor, gradient: Tensor, lr: Tensor, beta: float) -> None:
    """Update `theta` (E, n) in place by a running average of gradients; `lr` is (E, 1)."""
    averages.mu.lerp_(gradient, 1 - beta)
    theta.addcmul_(averages.mu, lr, value=-1)


def corrected(
    averages: Averages,
    theta: Tensor,
    gradient: Tensor,
    rows_a: Tensor,
    rows_b: Tensor,
    lr: Tensor,
    beta: float,
    correction: Correction,
) -> None:
    """Update `theta` (E, n) in place by the average minus its staleness.

    The derivative of the gradient is Z = sum_i a_i b_i^T, of rows (E, m, n) that include the
    weight of their sample. The staleness is updated with the averages of the previous step: the
    order of the statements matters.
    """
    assert averages.eta is not None
    assert averages.previous is not None
    moved = theta - averages.previous
    part = correction.full
    if averages.block is not None:
        shift = torch.bmm(moved[:, None, part], averages.block).squeeze(1)
        averages.eta[:, part] -= shift
        a, b = rows_a[..., part], rows_b[..., part]
        averages.block.baddbmm_(a.mT, b, beta=beta, alpha=1 - beta)
    if averages.diagonal is not None:
        averages.eta.addcmul_(averages.diagonal, moved, value=-1)
        z = torch.linalg.vecdot(rows_a, rows_b, dim=1)
        z[:, part] = 0
        averages.diagonal.lerp_(z, 1 - beta)
    averages.eta.mul_(beta)
    averages.mu.lerp_(gradient, 1 - beta)
    averages.previous.copy_(theta)
    theta.addcmul_(averages.mu - averages.eta, lr, value=-1)
