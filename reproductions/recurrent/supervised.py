"""Training of stacked recurrent networks on the streams of tasks for memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from semigradient.envs.memory.streams import Batch
from semigradient.reproductions.recurrent.stacked import Stacked


class Sequences(Protocol):
    """A stream, or whatever else gives whole sequences."""

    def whole(self) -> Batch:
        """Sequences from their beginning."""
        ...


class RMSprop:
    """RMSprop of stacked parameters (K, …), with a learning rate for each network.

    θ ← θ - rate g / (√v + 1e-8), v ← average v + (1 - average) g².
    """

    def __init__(self, parameters: Mapping[str, Tensor], rate: float, average: float = 0.9) -> None:
        self.parameters, self.average = parameters, average
        self.rates = torch.full((len(next(iter(parameters.values()))),), rate)
        self.squares = {name: torch.zeros_like(part) for name, part in parameters.items()}

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor]) -> None:
        """One step along gradients (K, …)."""
        for name, part in self.parameters.items():
            gradient, square = gradients[name], self.squares[name]
            square.mul_(self.average).addcmul_(gradient, gradient, value=1 - self.average)
            rates = self.rates.view(-1, *[1] * (part.dim() - 1))
            part.sub_(rates * gradient / (square.sqrt() + 1e-8))


@dataclass
class Halving:
    """Halves the learning rate of a network whose evaluation loss has not fallen."""

    optimizer: RMSprop
    best: Tensor | None = None

    def judge(self, losses: Tensor) -> None:
        """Losses (K,) of an evaluation."""
        if self.best is None:
            self.best = losses
            return
        self.optimizer.rates[losses >= self.best] *= 0.5
        self.best = torch.minimum(self.best, losses)


def shared(batch: Batch, seeds: int, times: int = 1) -> Batch:
    """The sequences of S streams side by side (T, S·B, …) as those of K = times·S networks.

    Returns:
        Inputs (K, T, B, I), and (T, K, B, …) for the rest; network k has the stream k mod S.
    """
    parts = [part.unflatten(1, (seeds, -1)) for part in batch]
    parts = [part.repeat(1, times, *[1] * (part.dim() - 2)) for part in parts]
    return Batch(parts[0].transpose(0, 1), *parts[1:])


def losses(net: Stacked, parameters: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """Mean losses (K,) over what is learned: cross-entropies in nats, or squared errors."""
    outputs, steps = _outputs(net, parameters, batch)
    targets, is_learned = batch.targets[steps], batch.is_learned[steps]
    if targets.is_floating_point():
        each = (outputs - targets).square()[..., 0]
    else:
        flat = cross_entropy(outputs.flatten(0, 2), targets.flatten(), reduction="none")
        each = flat.view(targets.shape)
    return (each * is_learned).sum((0, 2)) / is_learned.sum((0, 2))


@torch.no_grad()
def accuracies(net: Stacked, parameters: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """Shares (K,) of right answers among those that are learned."""
    outputs, steps = _outputs(net, parameters, batch)
    is_right = outputs.argmax(-1) == batch.targets[steps]
    is_learned = batch.is_learned[steps]
    return (is_right & is_learned).sum((0, 2)) / is_learned.sum((0, 2))


def train(
    net: Stacked, optimizer: RMSprop, stream: Sequences, seeds: int, updates: int
) -> Iterator[Tensor]:
    """Updates on whole sequences from zero states; yields the losses (K,) before each."""
    names, parts = list(optimizer.parameters), list(optimizer.parameters.values())
    times = len(parts[0]) // seeds
    for _ in range(updates):
        lost = losses(net, optimizer.parameters, shared(stream.whole(), seeds, times))
        gradients = torch.autograd.grad(lost.sum(), parts)
        optimizer.step(dict(zip(names, gradients, strict=True)))
        yield lost.detach()


def _outputs(net: Stacked, parameters: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
    """Outputs (T', K, B, O) at the T' steps at which something is learned, and those steps."""
    shown = net.run(parameters, batch.inputs)
    steps = batch.is_learned.flatten(1).any(1).nonzero()[:, 0]
    return net.read(parameters, shown[steps]), steps
