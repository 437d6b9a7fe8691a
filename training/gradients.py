"""Gradient clipping in a handful of operations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from semigradient.optim.foreach import joint_norm
from semigradient.training import transfers


@torch.no_grad()
def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
    """Scale all gradients so that their joint norm is at most `max_norm`; returns that norm.

    The same numbers as `torch.nn.utils.clip_grad_norm_`, whose bookkeeping costs more than
    the gradients of a small network; 0 only measures.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = joint_norm(gradients)
    if transfers.reading_is_free(norm.device) and norm <= max_norm:
        return norm  # to look costs nothing here, to multiply by one does
    if max_norm > 0:
        torch._foreach_mul_(gradients, clip_factor(norm, max_norm))
    return norm


def descend(loss: Tensor, parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
    """Gradients of a loss, clipped at `max_norm` (0: not at all); returns their joint norm.

    Losses (K,) of a stack of K networks have K norms (K,), and each network is clipped by its own.
    """
    loss.backward(torch.ones_like(loss))
    if loss.ndim == 0:
        return clip_gradients(parameters, max_norm) if max_norm > 0 else loss.new_zeros(())
    return _clip_each(parameters, max_norm) if max_norm > 0 else torch.zeros_like(loss.detach())


@torch.no_grad()
def _clip_each(parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
    """The same for parameters (K, …), by the norms (K,) of each of K networks."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = [torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients]
    norm = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    if transfers.reading_is_free(norm.device) and bool((norm <= max_norm).all()):
        return norm
    factor = clip_factor(norm, max_norm)
    for gradient in gradients:
        gradient.mul_(factor.view(-1, *[1] * (gradient.ndim - 1)))
    return norm


def clip_factor(norm: Tensor, max_norm: float) -> Tensor:
    """By what gradients of this joint norm are multiplied when they are clipped: 0-dim."""
    return (max_norm / (norm + 1e-6)).clamp(max=1.0) if max_norm > 0 else torch.ones_like(norm)
