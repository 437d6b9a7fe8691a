"""Spread of the singular values of the last hidden layer's weights.

E. Bengio, PhD thesis, §3.2.2.4, Fig. 3.10 and 3.14: how many factors of variation a layer holds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from semigradient.diagnostics.observer import Findings, Profile, View


def singular_values(weight: Tensor) -> Tensor:
    """Singular values of a weight (outputs, …), largest first: (min of its two sides,)."""
    return torch.linalg.svdvals(weight.detach().flatten(1))


def stable_rank(values: Tensor) -> Tensor:
    """Σσ² / σ₁²: between 1 and the number of values; 0-dim."""
    return values.square().sum() / values[0].square()


def effective_rank(values: Tensor) -> Tensor:
    """Exponential of the entropy of σ / Σσ (Roy & Vetterli 2007): 0-dim."""
    share = values / values.sum()
    return torch.special.entr(share).sum().exp()


def measure(view: View) -> Findings:
    """Singular values, largest first, and three numbers that say how spread they are."""
    values = singular_values(view.experience.hidden)
    rank = torch.arange(1, len(values) + 1)
    scalars = {
        "largest": values[0],
        "stable_rank": stable_rank(values),
        "effective_rank": effective_rank(values),
    }
    return Findings(scalars, {"values": Profile("rank", rank, {"singular value": values})})
