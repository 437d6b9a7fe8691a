"""Observers: their protocol, input and output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from semigradient.diagnostics.examples import Examples, Experience


@dataclass(frozen=True)
class Profile:
    """Curves over one axis, such as a quantity by distance in time.

    Attributes:
        axis: what `x` is.
        x: (n,).
        curves: name → (n,); NaN where there is nothing to average.
    """

    axis: str
    x: Tensor
    curves: dict[str, Tensor]


@dataclass(frozen=True)
class Findings:
    """The result of one measurement: numbers (0-dim tensors) and curves, by name."""

    scalars: dict[str, Tensor] = field(default_factory=dict)
    profiles: dict[str, Profile] = field(default_factory=dict)


@dataclass(frozen=True)
class View:
    """A learner as one measurement of one observer sees it.

    Attributes:
        experience: what it learns from.
        held_out: makes fresh experience in environments of its own.
        generator: the observer's own random numbers, fresh for each measurement.
        samples: examples to measure on.
    """

    experience: Experience
    held_out: Callable[[], Experience]
    generator: torch.Generator
    samples: int

    @cached_property
    def train(self) -> Examples:
        """Examples that the learner learns from."""
        return self.drawn(self.samples)

    @cached_property
    def test(self) -> Examples:
        """As many examples from environments that it does not learn from."""
        experience = self.held_out()
        return experience.at(experience.draw(self.samples, self.generator))

    def drawn(self, count: int) -> Examples:
        """Examples drawn uniformly from the experience."""
        return self.experience.at(self.experience.draw(count, self.generator))


class Observer(Protocol):
    """Measures a learner periodically; what it stores in between is its state."""

    def measure(self, view: View) -> Findings:
        """Measure now; must change nothing that the learner can reach."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that makes the next measurement identical."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state."""
        ...


class Stateless:
    """An observer that keeps nothing: a function."""

    def __init__(self, measure: Callable[[View], Findings]) -> None:
        self.measure = measure

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""


def masked_mean(value: Tensor, valid: Tensor, dim: int) -> Tensor:
    """Mean over `dim` of what is valid, NaN where nothing is."""
    total = torch.where(valid, value, torch.zeros_like(value)).sum(dim)
    return total / valid.sum(dim)
