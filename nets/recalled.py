"""The gradient of a perceptron from the stored outputs of an earlier forward pass.

Outputs that were computed without a graph, with the present parameters, replace those that
autograd would recompute. Activations are assumed to have worked in place, so their slopes must
follow from their outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_aten = torch.ops.aten
SLOPES: dict[type[nn.Module], Callable[[Any, Tensor, Tensor], Tensor]] = {
    nn.ReLU: lambda _, grad, y: _aten.threshold_backward(grad, y, 0),
    nn.LeakyReLU: lambda f, grad, y: _aten.leaky_relu_backward(grad, y, f.negative_slope, True),
    nn.Tanh: lambda _, grad, y: _aten.tanh_backward(grad, y),
    nn.ELU: lambda f, grad, y: _aten.elu_backward(grad, f.alpha, 1, 1, True, y),
}
"""(activation, gradient at its outputs, outputs) → gradient at its inputs."""


def pairs(trunk: nn.Sequential) -> list[tuple[nn.Linear, nn.Module | None]]:
    """Linear layers, each with the activation that follows it."""
    after = [*list(trunk)[1:], None]
    return [
        (layer, then)
        for layer, then in zip(trunk, after, strict=True)
        if isinstance(layer, nn.Linear)
    ]


def can_recall(trunk: nn.Sequential) -> bool:
    """Whether all slopes follow from outputs."""
    return all(then is None or type(then) in SLOPES for _, then in pairs(trunk))


def in_place(activation: nn.Module) -> Callable[[Tensor], Tensor]:
    """The activation as a function that overwrites its input, without a module's overhead."""
    if isinstance(activation, nn.Tanh):
        return torch.tanh_
    quick = copy.copy(activation)
    quick.inplace = True  # type: ignore[assignment]
    return quick.forward


def recalled(trunk: nn.Sequential, x: Tensor, activations: Sequence[Tensor]) -> Tensor:
    """The trunk's outputs at `x` (m, D), with the gradient that computing them would have.

    Args:
        trunk: `can_recall` it.
        x: inputs.
        activations: outputs of its `pairs` there: (m, width) each.
    """
    for (linear, then), y in zip(pairs(trunk), activations, strict=True):
        x = _Recalled.apply(x, linear.weight, linear.bias, y, then)
    return x


class _Recalled(torch.autograd.Function):
    """y = f(x Wᵀ + b) where y is known."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, y: Tensor, f: nn.Module | None
    ) -> Tensor:
        ctx.save_for_backward(x, weight, y)
        ctx.f = f
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y = ctx.saved_tensors
        grad = gradients[0] if ctx.f is None else SLOPES[type(ctx.f)](ctx.f, gradients[0], y)
        into = grad @ weight if ctx.needs_input_grad[0] else None
        return into, grad.t() @ x, grad.sum(0), None, None
