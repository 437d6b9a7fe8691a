"""Perceptrons as one operation: one network, or K of one shape with parameters (K, …).

A small network costs what calling operations costs, and recording each for the gradient costs as
much again. Here a whole perceptron is one node of the graph. Nonlinearities and their gradients are
worked out in place, in what the processor still holds; between the layers activations lie by
features, (width, m): products of (outputs, inputs) and (inputs, m) have the fastest gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

_MANY = 2**12
"""Numbers from which 2 σ(2x) - 1 is faster than the tangent itself, on CPUs: three times."""
_FEW = 16
"""Rows of K networks below which weights behind them are faster, on CPUs: up to ten times."""
_ENOUGH = 128
"""Rows from which one operation is faster than a few, for one network with 64 hidden units."""
_KINDS: dict[type, str] = {nn.Tanh: "tanh", nn.ReLU: "relu"}


class Perceptron(nn.Sequential):
    """Linear layers with tanh or ReLU between them; anything else is a plain `nn.Sequential`.

    The same numbers to rounding, and the same parameters by the same names. Second derivatives,
    the transforms of `torch.func`, compilation and hooks on layers take the usual way.
    """

    STACKS = True

    def forward(self, rows: Tensor) -> Tensor:
        """(m, inputs) → (m, outputs)."""
        layers = [*self._modules.values()]
        kinds = self.__dict__.get("kinds")
        if kinds is None:
            kinds = self.__dict__["kinds"] = kinds_of(layers, nn.Linear) or []
        is_one = rows.ndim == 2 and len(rows) >= _ENOUGH
        if not kinds or not is_one or not _is_usual(layers):
            result: Tensor = super().forward(rows)
            return result
        own: list[Any] = [layer._parameters for layer in layers[::2]]
        return apply(rows, kinds, [part["weight"] for part in own], [part["bias"] for part in own])


def kinds_of(layers: Sequence[nn.Module], linear: type) -> list[str] | None:
    """The nonlinearity after each linear layer ("" for none); None: these are other layers."""
    between = layers[1::2]
    is_plain = all(type(layer) is linear for layer in layers[::2]) and bool(layers)
    if not is_plain or any(type(layer) not in _KINDS for layer in between):
        return None
    names = [_KINDS[type(layer)] for layer in between]
    return names if len(layers) % 2 == 0 else [*names, ""]


def apply(
    rows: Tensor, kinds: Sequence[str], weights: Sequence[Tensor], biases: Sequence[Tensor | None]
) -> Tensor:
    """Layers one after the other: (m, in) → (m, out), or (K, m, in) → (K, m, out).

    Args:
        rows: of one network, or of K.
        kinds: nonlinearity after each layer: tanh, relu or nothing.
        weights: (out, in) each, or (K, out, in).
        biases: (out,) each, or (K, out), or None.
    """
    if torch.is_grad_enabled():
        layers: Any = _Layers
        result: Tensor = layers.apply(rows, kinds, *weights, *biases)
        return result
    if rows.ndim == 3 and rows.shape[1] < _FEW:
        return _by_rows(rows, kinds, weights, biases)
    column = rows.mT
    for weight, bias, kind in zip(weights, biases, kinds, strict=True):
        column = _layer(column, weight, bias, kind)
    return column.mT


def _by_rows(
    rows: Tensor, kinds: Sequence[str], weights: Sequence[Tensor], biases: Sequence[Tensor | None]
) -> Tensor:
    """The same of K networks and few rows, which lie one after the other."""
    for weight, bias, kind in zip(weights, biases, kinds, strict=True):
        if bias is None:
            rows = torch.bmm(rows, weight.mT)
        else:
            rows = torch.baddbmm(bias.unsqueeze(1), rows, weight.mT)
        rows = rows.tanh_() if kind == "tanh" else rows.relu_() if kind else rows
    return rows


def _is_usual(layers: Sequence[nn.Module]) -> bool:
    """Whether nothing looks into the layers, or differentiates in another way."""
    return (
        torch._C._functorch.maybe_current_level() is None
        and not torch.compiler.is_compiling()
        and not any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)
    )


class _Layers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, kinds: Sequence[str], *parameters: Any) -> Tensor:
        weights, biases = parameters[: len(kinds)], parameters[len(kinds) :]
        columns = [rows.mT.contiguous()]
        for weight, bias, kind in zip(weights, biases, kinds, strict=True):
            columns.append(_layer(columns[-1], weight, bias, kind))
        ctx.save_for_backward(rows, *columns, *weights, *biases)
        ctx.kinds = kinds
        return columns[-1].mT

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        count, (rows, *saved) = len(ctx.kinds), ctx.saved_tensors
        columns, weights, biases = saved[: count + 1], saved[count + 1 : -count], saved[-count:]
        if torch.is_grad_enabled():
            return _twice(ctx, gradient, rows, weights, biases)
        slope, is_ours = gradient.mT, False
        if slope.ndim == 3:
            slope = slope.contiguous()  # or batched products copy, and take twice the time
        of_weights: list[Any] = [None] * count
        of_biases: list[Any] = [None] * count
        for layer in reversed(range(count)):
            slope = _slope(slope, columns[layer + 1], ctx.kinds[layer], is_ours)
            of_weights[layer] = slope @ columns[layer].mT
            of_biases[layer] = None if biases[layer] is None else slope.sum(-1)
            if layer or ctx.needs_input_grad[0]:
                slope, is_ours = weights[layer].mT @ slope, True
        of_rows = slope.mT if ctx.needs_input_grad[0] else None
        return of_rows, None, *of_weights, *of_biases


def _twice(
    ctx: Any, gradient: Tensor, rows: Tensor, weights: Sequence[Tensor], biases: Sequence[Any]
) -> tuple[Any, ...]:
    """Gradients that have gradients of their own (`create_graph=True`)."""
    column = rows.mT
    for weight, bias, kind in zip(weights, biases, ctx.kinds, strict=True):
        column = weight @ column if bias is None else weight @ column + bias.unsqueeze(-1)
        column = column.tanh() if kind == "tanh" else column.relu() if kind else column
    inputs = [rows, *weights, *(bias for bias in biases if bias is not None)]
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    found = torch.autograd.grad(column.mT, wanted, gradient, create_graph=True)
    by_id = {id(tensor): value for tensor, value in zip(wanted, found, strict=True)}
    of_rows, *rest = (by_id.get(id(tensor)) for tensor in (rows, *weights, *biases))
    return of_rows, None, *rest


def _layer(column: Tensor, weight: Tensor, bias: Tensor | None, kind: str) -> Tensor:
    """One layer of (…, in, m): (…, out, m)."""
    count = weight.shape[-2] * column.shape[-1] * (weight.shape[0] if weight.ndim > 2 else 1)
    by_sigmoid = kind == "tanh" and count >= _MANY and column.device.type == "cpu"
    scale = 2 if by_sigmoid else 1
    if bias is None:
        product = (weight @ column).mul_(scale) if by_sigmoid else weight @ column
    else:
        add = torch.addmm if weight.ndim == 2 else torch.baddbmm
        product = add(bias.unsqueeze(-1), weight, column, beta=scale, alpha=scale)
    if by_sigmoid:
        return product.sigmoid_().mul_(2).sub_(1)
    return product.tanh_() if kind == "tanh" else product.relu_() if kind else product


def _slope(slope: Tensor, values: Tensor, kind: str, is_ours: bool) -> Tensor:
    """Gradient before a nonlinearity of these values, in place where the gradient is ours."""
    if not kind:
        return slope
    into = slope if is_ours else torch.empty_like(slope)
    if kind == "tanh":
        return torch.ops.aten.tanh_backward.grad_input(slope, values, grad_input=into)
    return torch.ops.aten.threshold_backward.grad_input(slope, values, 0, grad_input=into)
