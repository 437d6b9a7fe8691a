"""Gradient clipping in a handful of operations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from semigradient.optim.foreach import joint_norm


@torch.no_grad()
def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
    """Scale all gradients so that their joint norm is at most `max_norm`; returns that norm.

    The same numbers as `torch.nn.utils.clip_grad_norm_`, whose bookkeeping costs more than
    the gradients of a small network; 0 only measures.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = joint_norm(gradients)
    if norm.device.type == "cpu" and norm <= max_norm:
        return norm  # to look costs nothing here, to multiply by one does
    if max_norm > 0:
        torch._foreach_mul_(gradients, clip_factor(norm, max_norm))
    return norm


def clip_factor(norm: Tensor, max_norm: float) -> Tensor:
    """By what gradients of this joint norm are multiplied when they are clipped: 0-dim."""
    return (max_norm / (norm + 1e-6)).clamp(max=1.0) if max_norm > 0 else torch.ones_like(norm)
