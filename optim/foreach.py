"""Steps that our own optimizers share, over lists of tensors in few kernel launches.

No value is read back to the host, and a learning rate may be a tensor: a captured CUDA graph
then follows the schedule that is written into it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def evaluate(closure: Callable[[], Any] | None) -> Any:
    """Run the closure of `Optimizer.step`, if there is one, with gradients enabled."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def with_gradient(group: dict[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the parameters of `group` that have a gradient, and those gradients."""
    params = [p for p in group["params"] if p.grad is not None]
    return params, [p.grad for p in params]


def decay_weights(group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
    """Apply the group's weight decay; return the gradients to use (the given ones stay as is)."""
    decay = group["weight_decay"]
    if not decay or not params:
        return grads
    if not group.get("decoupled_weight_decay", False):
        return list(torch._foreach_add(grads, params, alpha=decay))
    torch._foreach_mul_(params, 1 - group["lr"] * decay)
    return grads


def descend(lr: float | Tensor, params: list[Tensor], direction: list[Tensor]) -> None:
    """Move `params` by `-lr * direction`, in place."""
    if isinstance(lr, Tensor):
        torch._foreach_sub_(params, torch._foreach_mul(direction, lr))
    else:
        torch._foreach_add_(params, direction, alpha=-lr)


def joint_norm(tensors: list[Tensor]) -> Tensor:
    """Euclidean length of all tensors together: 0-dim."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
