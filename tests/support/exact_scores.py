"""Small joint laws of scores, with all their conditionals by enumeration."""

from __future__ import annotations

import itertools
from functools import cached_property

import torch
from torch import Tensor


class Joint:
    """p over scores (I, T) of P pitches, from unnormalised log-probabilities by score.

    Attributes:
        scores: all of them, (P^D, I, T).
        p: their probabilities, (P^D,).
    """

    def __init__(self, voices: int, frames: int, pitches: int, seed: int = 0) -> None:
        self.count = pitches
        cells = itertools.product(range(pitches), repeat=voices * frames)
        self.scores = torch.tensor(list(cells)).view(-1, voices, frames)
        generator = torch.Generator().manual_seed(seed)
        shape = (len(self.scores),)
        self.p = torch.rand(shape, generator=generator, dtype=torch.float64).pow(3)
        self.p /= self.p.sum()

    @cached_property
    def table(self) -> Tensor:
        """Log-probabilities of every cell in every context: ((P + 1)^D, D, P).

        A context has P where a cell is unknown.
        """
        cells = self.scores[0].numel()
        every = itertools.product(range(self.count + 1), repeat=cells)
        contexts = torch.tensor(list(every))[:, None]
        fits = (self.scores.flatten(1) == contexts) | (contexts == self.count)
        at = torch.nn.functional.one_hot(self.scores, self.count).double().flatten(1)
        weights = (self.p * fits.all(2)) @ at
        return weights.view(-1, cells, self.count).log().log_softmax(-1)

    def conditionals(self, pitches: Tensor, known: Tensor) -> Tensor:
        """Exact log-probabilities (B, I, T, P)."""
        digits = torch.where(known, pitches, self.count).flatten(1)
        index = digits @ (self.count + 1) ** torch.arange(digits.shape[1]).flip(0)
        return self.table[index].view(*pitches.shape, self.count)

    def index(self, pitches: Tensor) -> Tensor:
        """Which of `scores` each of (B, I, T) is."""
        digits = pitches.flatten(1)
        return digits @ self.count ** torch.arange(digits.shape[1]).flip(0)

    def law(self, pitches: Tensor) -> Tensor:
        """How often each of `scores` is among (B, I, T)."""
        found = self.index(pitches).bincount(minlength=len(self.p))
        return found.double() / len(pitches)


def toy() -> Joint:
    """Two voices, three frames, three pitches: the fixed instance with published exact values."""
    joint = Joint(2, 3, 3)
    between = torch.tensor([0.0, -1.0, 1.0])
    along = torch.tensor([1.0, 0.5, -1.0])
    x = joint.scores
    energy = between[(x[:, 0] - x[:, 1]).abs()].sum(1)
    energy = energy + along[(x[:, :, 1:] - x[:, :, :-1]).abs()].sum((1, 2))
    joint.p = energy.double().softmax(0)
    return joint


def two_voices() -> Joint:
    """One frame of two binary voices that mostly agree."""
    joint = Joint(2, 1, 2)
    joint.p = torch.tensor([0.45, 0.05, 0.05, 0.45], dtype=torch.float64)
    return joint


def distance(one: Tensor, other: Tensor) -> float:
    """Total variation."""
    return 0.5 * (one - other).abs().sum().item()
