"""Many small value networks at once, and their derivatives in closed form.

A published comparison needs tens of seeds for each of tens of settings; with one network at a time,
call overhead would dominate. Here the parameters of E multilayer
perceptrons are the rows of one matrix (E, n), each row in the order of the parameters of
`nets.bricks.mlp` (weight, bias, weight, ...), and every operation is a batched matrix product.
A single layer over features gives the linear models.

The derivatives are plain backpropagation, written out because the correction wants one row per
sample, and everything else only their weighted sum. Tests compare both with autograd.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu

from semigradient.nets.bricks import mlp

SLOPE = 0.01
"""Negative slope of the rectifier: torch's default."""


@dataclass(frozen=True)
class Stack:
    """The shape of perceptrons with leaky rectifiers between layers and one linear output."""

    sizes: tuple[int, ...]
    """Widths from the input to the output, which is 1."""

    @property
    def count(self) -> int:
        """Parameters of one member, n."""
        return self.layers[-1].stop

    @functools.cached_property
    def layers(self) -> list[slice]:
        """Slices of the parameters of each layer in a row of the matrix, bottom first."""
        pairs = itertools.pairwise(self.sizes)
        ends = list(itertools.accumulate((i + 1) * o for i, o in pairs))
        return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    def initial(self, seeds: Sequence[int]) -> Tensor:
        """Parameters (S, n) as torch initialises this network, one row per seed."""
        rows = []
        with torch.random.fork_rng(devices=[]):
            for seed in seeds:
                torch.manual_seed(seed)
                network = mlp(self.sizes, "leaky_relu")
                rows.append(torch.cat([p.detach().reshape(-1) for p in network.parameters()]))
        return torch.stack(rows)

    def values(self, theta: Tensor, inputs: Tensor) -> Tensor:
        """Values (E, m) at inputs (E, m, d)."""
        return self.forward(theta, inputs)[0]

    def forward(self, theta: Tensor, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Values (E, m), and the inputs of each layer, (E, m, width), bottom first."""
        given = [inputs]
        *below, (weight, bias) = self._views(theta)
        for w, b in below:
            given.append(leaky_relu(torch.baddbmm(b, given[-1], w.mT), SLOPE))
        return torch.baddbmm(bias, given[-1], weight.mT).squeeze(-1), given

    def summed(self, theta: Tensor, given: list[Tensor], weight: Tensor) -> Tensor:
        """sum_i weight_i d(value_i), (E, n), for weights (E, m); `given` as from `forward`."""
        parts = []
        for signal, inputs in self._signals(theta, given, weight.unsqueeze(-1)):
            parts += [signal.sum(1), torch.bmm(signal.mT, inputs).flatten(1)]
        return torch.cat(parts[::-1], dim=1)

    def rows(self, theta: Tensor, given: list[Tensor]) -> Tensor:
        """d(value_i), (E, m, n); `given` as from `forward`."""
        parts = []
        one = torch.ones_like(given[0][..., :1])
        for signal, inputs in self._signals(theta, given, one):
            parts += [signal, (signal.unsqueeze(-1) * inputs.unsqueeze(-2)).flatten(2)]
        return torch.cat(parts[::-1], dim=2)

    def _signals(
        self, theta: Tensor, given: list[Tensor], signal: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """Derivative by each layer's output (E, m, out), with its input; top layer first."""
        pairs = []
        layers = list(zip(self._views(theta), given, strict=True))
        for index, ((weight, _), inputs) in reversed(list(enumerate(layers))):
            pairs.append((signal, inputs))
            if index:
                # The rectifier preserves signs, so the sign of its output is that of its input.
                signal = torch.bmm(signal, weight)
                signal = torch.where(inputs > 0, signal, SLOPE * signal)
        return pairs

    def _views(self, theta: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Per layer the weight (E, out, in) and the bias (E, 1, out), sharing `theta`'s memory."""
        views = []
        members = len(theta)
        pieces = iter(theta.split(self._pieces, dim=1))
        for inputs, outputs in itertools.pairwise(self.sizes):
            weight = next(pieces).view(members, outputs, inputs)
            views.append((weight, next(pieces).unsqueeze(1)))
        return views

    @functools.cached_property
    def _pieces(self) -> list[int]:
        """Sizes of weight and bias of each layer, in order."""
        pairs = itertools.pairwise(self.sizes)
        return [size for i, o in pairs for size in (i * o, o)]
