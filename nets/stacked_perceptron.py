"""K perceptrons of one shape in as few passes through memory as there can be.

Between the layers activations lie by features, (K, width, m): products of (outputs, inputs) and
(inputs, m) have the fastest gradients. Nonlinearities and their gradients are worked out in place,
in what the processor still holds, and the whole perceptron is one node of the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_LARGE = 2**15
"""Numbers from which 2 σ(2x) - 1 is faster than the tangent itself, on CPUs: three times."""


class StackedPerceptron(nn.Module):
    """K stacks of linear layers with a nonlinearity between them: (K, m, in) → (K, m, out).

    Args:
        weights: of the layers, (K, outputs, inputs) each.
        biases: (K, outputs) each, or None.
        nonlinearity: tanh or relu.
        last: also after the last layer.
    """

    def __init__(
        self,
        weights: Sequence[nn.Parameter],
        biases: Sequence[nn.Parameter | None],
        nonlinearity: str = "relu",
        last: bool = False,
    ) -> None:
        super().__init__()
        self.weights = nn.ParameterList(weights)
        self.biases = [*biases]
        self._given = nn.ParameterList([bias for bias in biases if bias is not None])
        self.kinds = [nonlinearity] * (len(weights) - 1) + [nonlinearity if last else ""]

    @classmethod
    def joined(cls, layers: Sequence[nn.Module]) -> StackedPerceptron | None:
        """One perceptron of single layers and nonlinearities; None where they are others."""
        linear, between = layers[::2], layers[1::2]
        kinds = {type(layer) for layer in between}
        names = {nn.Tanh: "tanh", nn.ReLU: "relu"}
        is_alternating = all(type(layer) is cls for layer in linear) and len(linear) > 0
        if not is_alternating or len(kinds) != 1 or not kinds <= names.keys():
            return None
        parts: Any = linear
        weights, biases = [part.weights[0] for part in parts], [part.biases[0] for part in parts]
        return cls(weights, biases, names[kinds.pop()], last=len(between) == len(linear))

    def forward(self, rows: Tensor) -> Tensor:
        """Each perceptron on rows of its own."""
        layers: Any = _Layers
        return layers.apply(rows, self.kinds, *self.weights, *self.biases)


class _Layers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, kinds: Sequence[str], *parameters: Any) -> Tensor:
        weights, biases = parameters[: len(kinds)], parameters[len(kinds) :]
        columns = [rows.mT.contiguous()]
        for weight, bias, kind in zip(weights, biases, kinds, strict=True):
            columns.append(_layer(columns[-1], weight, bias, kind))
        ctx.save_for_backward(*columns, *weights)
        ctx.kinds, ctx.has_bias = kinds, [bias is not None for bias in biases]
        return columns[-1].mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        count = len(ctx.kinds)
        columns, weights = ctx.saved_tensors[: count + 1], ctx.saved_tensors[count + 1 :]
        slope, owned = gradient.mT, False
        of_weights: list[Any] = [None] * count
        of_biases: list[Any] = [None] * count
        for layer in reversed(range(count)):
            slope = _bend_back(slope, columns[layer + 1], ctx.kinds[layer], owned)
            of_weights[layer] = torch.bmm(slope, columns[layer].mT)
            of_biases[layer] = slope.sum(2) if ctx.has_bias[layer] else None
            if layer or ctx.needs_input_grad[0]:
                slope, owned = torch.bmm(weights[layer].mT, slope), True
        of_rows = slope.mT if ctx.needs_input_grad[0] else None
        return of_rows, None, *of_weights, *of_biases


def _layer(column: Tensor, weight: Tensor, bias: Tensor | None, kind: str) -> Tensor:
    """One layer of (K, in, m): (K, out, m)."""
    count = weight[:, :, 0].numel() * column.shape[2]
    by_sigmoid = kind == "tanh" and count >= _LARGE and column.device.type == "cpu"
    scale = 2 if by_sigmoid else 1
    if bias is None:
        product = torch.bmm(weight, column) if scale == 1 else torch.bmm(weight, column).mul_(2)
    else:
        offset = bias.unsqueeze(2)
        product = torch.baddbmm(offset, weight, column, beta=scale, alpha=scale)
    if by_sigmoid:
        product.sigmoid_()
        return torch.add(product.new_tensor(-1.0), product, alpha=2, out=product)
    return product.tanh_() if kind == "tanh" else product.relu_() if kind == "relu" else product


def _bend_back(slope: Tensor, values: Tensor, kind: str, owned: bool) -> Tensor:
    """Gradient before a nonlinearity of values, in place where the gradient is `owned`."""
    if not kind:
        return slope
    into = slope if owned else torch.empty_like(slope)
    if kind == "tanh":
        return torch.ops.aten.tanh_backward.grad_input(slope, values, grad_input=into)
    return torch.ops.aten.threshold_backward.grad_input(slope, values, 0, grad_input=into)
