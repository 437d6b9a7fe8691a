"""The parts of K agents as those of one, by kind, and back.

    networks             one whose parameters have a leading axis, (K, …)     nets/stacked.py
    optimizers           one over those parameters                            stacks/optimizers.py
    generators           all of them, each drawing for its own run            training/draws.py
    replay memories      one of rows (K, T, B, …)                             stacks/memory.py
    steppers             one that steps all environments                      stacks/stepping.py
    running statistics   all of them, each fed with its own rows              stacks/each.py
    arrays and tensors   stacked along a new first axis
    numbers, text, None  one, which must be the same in all
    dicts                of stacked parts
    objects with parts   one with these stacked; its method `bind`, if it has one, joins them

`stack` makes them; `settle` writes what has happened since into the parts of one of the K agents.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from semigradient.errors import not_stacked
from semigradient.nets.stacked import Stacking
from semigradient.stacks import memory, optimizers
from semigradient.stacks.each import Each
from semigradient.stacks.stepping import StackedStepper
from semigradient.training.draws import Generators
from semigradient.training.normalise import ObservationNormaliser, RewardNormaliser
from semigradient.training.replay import Replay
from semigradient.training.stepping import EnvStepper

_PLAIN = (bool, int, float, str, type(None))
_STATISTICS = (ObservationNormaliser, RewardNormaliser)


@dataclass
class Stacker:
    """Stacks the parts of K agents; networks before the optimizers over them."""

    networks: Stacking = field(default_factory=Stacking)

    def agents(self, agents: Sequence[Any]) -> Any:
        """One agent of K."""
        if not hasattr(agents[0], "bind"):
            not_stacked(len(agents), type(agents[0]).__name__)
        return self._owner(agents)

    def __call__(self, parts: Sequence[Any], path: str) -> Any:
        """One part of K."""
        first = parts[0]
        if isinstance(first, nn.Module):
            return self.networks(parts)
        if isinstance(first, torch.optim.Optimizer):
            return optimizers.stacked(parts, self.networks.parameters)
        if isinstance(first, torch.Generator | np.random.Generator):
            return Generators(parts)
        if isinstance(first, Replay):
            return memory.stacked(parts)
        if isinstance(first, dict):
            return {key: self([part[key] for part in parts], f"{path}.{key}") for key in first}
        if isinstance(first, EnvStepper):
            return StackedStepper.of(parts)
        if isinstance(first, _STATISTICS):
            return Each(parts)
        if isinstance(first, Tensor):
            return torch.stack(list(parts))
        if isinstance(first, np.ndarray):
            return np.stack(parts)
        if isinstance(first, _PLAIN) and all(part == first for part in parts):
            return first
        if not hasattr(first, "STATE"):
            not_stacked(len(parts), f"{path} of {first!r:.80}")
        return self._owner(parts)

    def _owner(self, owners: Sequence[Any]) -> Any:
        whole, kind = copy.copy(owners[0]), type(owners[0])
        for name in sorted(kind.STATE, key=lambda name: name.startswith("optimizer")):
            parts = [attrgetter(name)(owner) for owner in owners]
            setattr(whole, name, self(parts, f"{kind.__name__}.{name}"))
        if hasattr(whole, "bind"):
            whole.bind()
        return whole


def settle(part: Any, whole: Any, index: int) -> Any:
    """The part of run `index` as it is now: changed in place where that can be."""
    if isinstance(whole, np.ndarray | Tensor):
        return whole[index]
    if isinstance(whole, _PLAIN):
        return whole
    if isinstance(whole, torch.optim.Optimizer):
        optimizers.settle(part, whole, index)
    elif isinstance(whole, Replay):
        memory.settle(part, whole)
    elif isinstance(whole, dict):
        return {key: settle(part[key], whole[key], index) for key in whole}
    elif not isinstance(whole, nn.Module | Generators | StackedStepper | Each):
        for name in type(part).STATE:
            setattr(part, name, settle(getattr(part, name), getattr(whole, name), index))
    return part
