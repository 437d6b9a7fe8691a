"""K networks of one architecture as one: every parameter gets a leading axis (K, …).

A stack maps (K, m, *observation) to (K, m, …), row k by the weights of network k, in one batched
product per layer. The networks stay what they were: their parameters become views of the stack's
memory, so that each can be evaluated, saved and loaded by itself at any time.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from semigradient.errors import not_stacked
from semigradient.nets.bricks import ACTIVATIONS
from semigradient.nets.perceptron import Perceptron, apply, kinds_of

_PLAIN = (nn.Sequential, nn.ModuleDict, Perceptron, nn.Identity, *ACTIVATIONS.values())
"""Modules of torch without parameters of their own that take any leading axes."""


class StackedPerceptron(nn.Module):
    """K perceptrons: (K, m, inputs) → (K, m, outputs).

    Args:
        kinds: nonlinearity after each layer: tanh, relu or nothing.
        weights: of the layers, (K, outputs, inputs) each.
        biases: (K, outputs) each, or None.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        weights: Sequence[nn.Parameter],
        biases: Sequence[nn.Parameter | None],
    ) -> None:
        super().__init__()
        self.kinds, self.weights, self.biases = list(kinds), list(weights), list(biases)
        pairs = zip(weights, biases, strict=True)
        self._own = nn.ParameterList([part for pair in pairs for part in pair if part is not None])

    def forward(self, rows: Tensor) -> Tensor:
        """Each perceptron on rows of its own."""
        return apply(rows, self.kinds, self.weights, self.biases)


class StackedLayerNorm(nn.Module):
    """K layer normalisations over the last axis: (K, m, width) → (K, m, width)."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter, eps: float) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = weight, bias, eps

    def forward(self, rows: Tensor) -> Tensor:
        """Each normalisation on rows of its own."""
        normal = nn.functional.layer_norm(rows, rows.shape[-1:], eps=self.eps)
        return torch.addcmul(self.bias.unsqueeze(1), normal, self.weight.unsqueeze(1))


class Stacking:
    """Stacks networks, and remembers which parameter became which.

    Attributes:
        parameters: the stacked parameter by the `id` of the first network's.
    """

    def __init__(self) -> None:
        self.parameters: dict[int, nn.Parameter] = {}
        self._modules: dict[int, nn.Module] = {}

    def __call__(self, modules: Sequence[Any]) -> Any:
        """One module of K like ones, whose parameters become views of its own.

        Raises:
            UserError: a kind of module that has no stacked form.
        """
        first = modules[0]
        if id(first) not in self._modules:
            self._modules[id(first)] = self._make(modules)
        return self._modules[id(first)]

    def _make(self, modules: Sequence[nn.Module]) -> nn.Module:
        first: Any = modules[0]
        own: dict[str, Any] = {
            name: None if parameter is None else self._parameter(modules, name)
            for name, parameter in first._parameters.items()
        }
        if type(first) is nn.Linear:
            return StackedPerceptron([""], [own["weight"]], [own["bias"]])
        if type(first) is nn.LayerNorm:
            return StackedLayerNorm(own["weight"], own["bias"], first.eps)
        if type(first) not in _PLAIN and not getattr(first, "STACKS", False):
            not_stacked(len(modules), type(first).__name__, "networks of vectors have")
        whole = copy.copy(first)
        whole._parameters = own
        whole._modules = {
            name: self([module._modules[name] for module in modules]) for name in first._modules
        }
        return _joined(list(whole)) or whole if isinstance(whole, nn.Sequential) else whole

    def _parameter(self, modules: Sequence[nn.Module], name: str) -> nn.Parameter:
        owned: list[Any] = [module._parameters[name] for module in modules]
        first = owned[0]
        if id(first) not in self.parameters:
            data = torch.stack([parameter.detach() for parameter in owned])
            self.parameters[id(first)] = nn.Parameter(data, first.requires_grad)
            for parameter, view in zip(owned, data, strict=True):
                parameter.data = view
        return self.parameters[id(first)]


def _joined(layers: Sequence[Any]) -> StackedPerceptron | None:
    """Single layers and nonlinearities as one perceptron; None where there are others."""
    kinds = kinds_of(layers, StackedPerceptron)
    if kinds is None:
        return None
    parts = layers[::2]
    weights = [weight for part in parts for weight in part.weights]
    biases = [bias for part in parts for bias in part.biases]
    is_single = all(part.kinds == [""] for part in parts)
    return StackedPerceptron(kinds, weights, biases) if is_single else None
