"""The gradient of a perceptron from the stored outputs of an earlier forward pass.

Outputs that were computed without a graph, with the present parameters, replace those that
autograd would recompute. Activations are assumed to have worked in place, so their slopes must
follow from their outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_aten = torch.ops.aten
SLOPES: dict[type[nn.Module], Callable[[Any, Tensor, Tensor, Tensor], Tensor]] = {
    nn.ReLU: lambda _, grad, y, into: _aten.threshold_backward.grad_input(
        grad, y, 0, grad_input=into
    ),
    nn.LeakyReLU: lambda f, grad, y, into: _aten.leaky_relu_backward.grad_input(
        grad, y, f.negative_slope, True, grad_input=into
    ),
    nn.Tanh: lambda _, grad, y, into: _aten.tanh_backward.grad_input(grad, y, grad_input=into),
    nn.ELU: lambda f, grad, y, into: _aten.elu_backward.grad_input(
        grad, f.alpha, 1, 1, True, y, grad_input=into
    ),
}
"""(activation, gradient at its outputs, outputs, where to) → gradient at its inputs."""


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
    if isinstance(activation, nn.LeakyReLU):
        return partial(nn.functional.leaky_relu_, negative_slope=activation.negative_slope)
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
    layers = pairs(trunk)
    of_layers = [part for layer, _ in layers for part in (layer.weight, layer.bias)]
    found: Tensor = _Recalled.apply(x, [then for _, then in layers], activations, *of_layers)
    return found


class _Recalled(torch.autograd.Function):
    """All y = f(x Wᵀ + b), one after the other, where each y is known."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        after: Sequence[nn.Module | None],
        activations: Sequence[Tensor],
        *of_layers: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, *activations, *of_layers[::2])
        ctx.after = after
        return activations[-1].view_as(activations[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        count = len(ctx.after)
        values, weights = ctx.saved_tensors[: count + 1], ctx.saved_tensors[count + 1 :]
        of_layers: list[Tensor] = []
        for index in reversed(range(count)):
            then = ctx.after[index]
            if then is not None:  # in place, where the gradient is ours
                into = grad if of_layers else torch.empty_like(grad)
                grad = SLOPES[type(then)](then, grad, values[index + 1], into)
            of_layers += [grad.sum(0), grad.t() @ values[index]]
            if index or ctx.needs_input_grad[0]:
                grad = grad @ weights[index]
        of_x = grad if ctx.needs_input_grad[0] else None
        return of_x, None, None, *reversed(of_layers)
