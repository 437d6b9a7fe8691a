"""Orderless NADE: one model of all conditionals p(x_i | x_C), trained for all orderings at once.

    minimise E_x E_C 1/|¬C| Σ_{(i,t) ∉ C} -log p(x_it | x_C, C),   |¬C| uniform on 1 … D

The weight makes D times the expectation the negative log-likelihood -log p(x) averaged over all
orderings of the D notes, whatever the model.

Source: T. Cooijmans, PhD thesis, equations 3.3.3, 3.3.9 and 3.3.10; Uria et al. 2014. Which notes
are known: `envs.music.chorale_tasks.orderless`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def chosen(log_probs: Tensor, pitches: Tensor) -> Tensor:
    """Log-probabilities (…) of the pitches (…) among (…, P)."""
    return log_probs.gather(-1, pitches.unsqueeze(-1)).squeeze(-1)


def loss(log_probs: Tensor, pitches: Tensor, known: Tensor, all_cells: bool = False) -> Tensor:
    """The loss of each score, in nats per hidden note: (B,).

    Args:
        log_probs: (B, I, T, P).
        pitches: the truth, (B, I, T) int64.
        known: (B, I, T) bool, somewhere false.
        all_cells: the published code's default: known notes count too, and the sum over all D notes
            is weighted by D/|¬C| and divided by D, which equals 1/|¬C|.
    """
    nll = -chosen(log_probs, pitches)
    hidden = ~known
    counted = nll if all_cells else torch.where(hidden, nll, 0.0)
    return counted.flatten(1).sum(1) / hidden.flatten(1).sum(1)
