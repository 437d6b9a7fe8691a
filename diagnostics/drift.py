"""Drift of values during learning.

    drift = mean of (V_{θ_i}(s'_i) - V_{θ_t}(s'_i))² over the last h = 2/(1 - β) minibatches

E. Bengio, PhD thesis, §4.2.4, Fig. 4.11: the bootstraps behind the gradients in momentum, against
the present ones. Measured along updates of a copy, for V(s) and,
where successors are kept, for V(s'); and, over the run itself, for states of the last measurement.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from semigradient.diagnostics.derivatives import values
from semigradient.diagnostics.examples import Examples
from semigradient.diagnostics.observer import Findings, View
from semigradient.diagnostics.staleness import Path, decay, follow
from semigradient.optim.temporal_difference import Scalar


def value_drift(function: Scalar, path: Path) -> Tensor:
    """Mean squared change of `function` since each minibatch was learned from: 0-dim."""
    changes = [
        values(function, batch, at) - values(function, batch, path.last)
        for batch, at in zip(path.batches, path.parameters, strict=True)
    ]
    return torch.cat(changes).square().mean()


class Drift:
    """Stores some states and their values from one measurement to the next."""

    def __init__(self) -> None:
        self.samples: dict[str, Tensor] = {}
        self.values = torch.zeros(0)

    def measure(self, view: View) -> Findings:
        """Drift along h updates of a copy, and since the last measurement."""
        path = follow(view, decay(view.experience.optimizer))
        first = path.batches[0]
        scalars = {"value": value_drift(_value(first), path)}
        if first.successor is not None:
            scalars["successor"] = value_drift(first.successor, path)
        if self.samples:
            device = view.experience.device
            samples = {name: value.to(device) for name, value in self.samples.items()}
            previous = dataclasses.replace(first, samples=samples)
            change = values(_value(previous), previous) - self.values.to(device)
            scalars["since_last"] = change.square().mean()
        self.samples = {name: value.clone() for name, value in view.train.samples.items()}
        self.values = values(_value(view.train), view.train)
        return Findings(scalars)

    def state_dict(self) -> dict[str, Any]:
        """The states and values of the last measurement."""
        return {"samples": self.samples, "values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        # Clones: what a file maps into memory may lie at another alignment, and round differently.
        self.samples = {name: value.clone() for name, value in state["samples"].items()}
        self.values = state["values"].clone()


def _value(examples: Examples) -> Scalar:
    return examples.head or examples.prediction
