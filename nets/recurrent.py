"""A recurrent network whose parameters are one vector, so that many of them run at once.

Observations go through a ReLU MLP into a GRU (Cho et al. 2014); its state, with optional extra
inputs, goes through a second ReLU MLP into a linear head. With G vectors of parameters (G, P) and
G rows of inputs (G, N, …), row g sees network g; gradients of any order reach the vectors.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from semigradient.nets.cells import gru

Weights = list[Tensor]
"""A matrix (G, inputs, outputs) and a bias (G, 1, outputs) for each layer in turn."""


class Recurrent:
    """The shape of such a network; it holds no parameters itself.

    Args:
        inputs: width of an observation.
        hidden: width of everything between.
        outputs: width of the head.
        before: ReLU layers ahead of the GRU.
        after: ReLU layers behind it.
        extra: width of further inputs, which enter behind the GRU.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        before: int = 2,
        after: int = 0,
        extra: int = 0,
    ) -> None:
        self.hidden, self.before, self.after = hidden, before, after
        entrance = [inputs, *[hidden] * before]
        exit_ = [hidden + extra, *[hidden] * after, outputs]
        self.layers: list[tuple[int, int]] = [
            *itertools.pairwise(entrance),
            (entrance[-1], 3 * hidden),
            (hidden, 3 * hidden),
            *itertools.pairwise(exit_),
        ]
        self._shapes = [shape for i, o in self.layers for shape in ((i, o), (1, o))]
        self.parameters = sum(prod(shape) for shape in self._shapes)

    def initial(self, generator: torch.Generator, head_scale: float = 0.1) -> Tensor:
        """Parameters (P,): uniform within one over the root of a layer's inputs, a small head."""
        parts = []
        for index, (i, o) in enumerate(self.layers):
            bound = i**-0.5 * (head_scale if index == len(self.layers) - 1 else 1)
            for size in (i * o, o):
                parts.append((2 * torch.rand(size, generator=generator) - 1) * bound)
        return torch.cat(parts)

    def weights(self, vectors: Tensor) -> Weights:
        """Views into vectors (G, P)."""
        sizes = [prod(shape) for shape in self._shapes]
        parts = zip(vectors.split(sizes, 1), self._shapes, strict=True)
        return [part.unflatten(1, shape) for part, shape in parts]

    def __call__(
        self, weights: Weights, observations: Tensor, state: Tensor, extra: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """One step.

        Args:
            weights: of `weights`.
            observations: (G, N, inputs).
            state: (G, N, hidden), zeros at the beginning.
            extra: (G, N, extra), if there are any.

        Returns:
            Outputs (G, N, outputs) and the next state (G, N, hidden).
        """
        layers = _layers(weights)
        features = observations
        for layer in layers[: self.before]:
            features = _linear(layer, features).relu()
        from_input, from_state = layers[self.before : self.before + 2]
        state = gru(_linear(from_input, features), _linear(from_state, state), state)
        features = state if extra is None else torch.cat((state, extra), -1)
        *middle, head = layers[self.before + 2 :]
        for layer in middle:
            features = _linear(layer, features).relu()
        return _linear(head, features), state


def _layers(weights: Weights) -> Sequence[tuple[Tensor, Tensor]]:
    return list(zip(weights[::2], weights[1::2], strict=True))


def _linear(layer: tuple[Tensor, Tensor], inputs: Tensor) -> Tensor:
    matrix, bias = layer
    return torch.baddbmm(bias, inputs, matrix)
