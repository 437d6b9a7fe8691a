"""What the exact checks of recurrent gradients are made of: networks, sequences, enumerations."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor

from semigradient.gradients.recurrent import Estimator, make, variance
from semigradient.nets.cells import RNN, Headed, make_cell

INPUTS, OUTPUTS = 3, 2


class Hidden(RNN):
    """h' = tanh(W (h, x, 1)): rows of ∂h'/∂θ have different lengths."""

    def read(self, state: Tensor) -> Tensor:
        """As it is."""
        return state

    def update(self, z: Tensor, state: Tensor) -> Tensor:
        """Its tanh."""
        return z.tanh()


class Case:
    """A small random network on one random sequence, in double precision.

    Losses are ½|o − target|². `copies` estimators of a case run side by side as examples.
    """

    def __init__(self, kind: str, hidden: int, steps: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        cell = (
            Hidden(INPUTS, hidden, generator)
            if kind == "hidden"
            else make_cell(kind, INPUTS, hidden, generator)
        )
        self.network = Headed(cell, OUTPUTS, generator)
        self.network.double()
        with torch.no_grad():
            for parameter in self.network.parameters():
                parameter.mul_(1.5)
        double = {"generator": generator, "dtype": torch.float64}
        self.xs = torch.randn(steps, 1, INPUTS, **double)  # type: ignore[call-overload]
        self.targets = torch.randn(steps, 1, OUTPUTS, **double)  # type: ignore[call-overload]

    def run(self, estimator: Estimator, copies: int = 1) -> Tensor:
        """The summed gradients (copies, P)."""
        total = torch.zeros(copies, 1, dtype=torch.float64)
        for x, target in zip(self.xs, self.targets, strict=True):
            output = estimator.step(x.expand(copies, -1))
            total = total + estimator.gradient(output - target)
        return total

    def exact(self) -> Tensor:
        """(P,), by one graph of the whole sequence."""
        state, loss = torch.zeros(self.network.width, dtype=torch.float64), torch.zeros(())
        for x, target in zip(self.xs[:, 0], self.targets[:, 0], strict=True):
            output, state = self.network(x, state)
            loss = loss + 0.5 * (output - target).square().sum()
        parts = torch.autograd.grad(loss, [*self.network.parameters()])
        return torch.cat([part.reshape(-1) for part in parts])

    def episode(self) -> variance.Episode:
        """For the theory of the variance."""

        def loss(target: Tensor) -> Callable[[Tensor], Tensor]:
            return lambda output: 0.5 * (output - target).square().sum()

        losses = [loss(target) for target in self.targets[:, 0]]
        return variance.record(self.network, self.xs[:, 0], losses)


def over_signs(case: Case, name: str, size: tuple[int, ...], draws: int, **options: Any) -> Tensor:
    """An estimator's gradients (2^n, P) for all n signs of so many draws of a size."""
    digits = prod(size) * draws
    flat = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=digits)), dtype=torch.float64)
    noises = iter(flat.reshape(-1, draws, *size).transpose(0, 1))
    estimator: Any = make(name, case.network, len(flat), **options)
    estimator.trace.draw = lambda shape: next(noises)
    return case.run(estimator, len(flat))


def over_cuts(case: Case, **options: Any) -> Tensor:
    """ARTBP's mean (P,) over all cuts, weighted by the law."""
    total = torch.zeros(1, dtype=torch.float64)
    for cuts in itertools.product([False, True], repeat=len(case.xs) - 1):
        estimator: Any = make("artbp", case.network, 1, **options)
        chances = iter([0.0 if cut else 1.0 for cut in cuts])
        estimator.draw = lambda chances=chances: next(chances)
        weight, since = 1.0, 0
        for cut in cuts:
            c = estimator.law.cut(since + 1)
            weight, since = weight * (c if cut else 1 - c), 0 if cut else since + 1
        total = total + weight * case.run(estimator)[0]
    return total
