"""Optimizers of K runs as one over parameters (K, …).

That is right for rules that treat every number by itself: plain gradient descent, momentum,
RMSprop, Adam. Their averages get the leading axis of their parameters, counters stay common.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from semigradient.errors import not_stacked, require
from semigradient.optim.adam import Adam, AdamW
from semigradient.optim.momentum import Momentum
from semigradient.optim.rmsprop import RMSprop

_ELEMENTWISE = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.AdamW,
    Adam,
    AdamW,
    torch.optim.RMSprop,
    Momentum,
    RMSprop,
)

Optimizer = torch.optim.Optimizer


def stacked(optimizers: Sequence[Optimizer], parameters: Mapping[int, nn.Parameter]) -> Optimizer:
    """One optimizer of K, over the stacked parameters, with their averages.

    Args:
        optimizers: one of each run.
        parameters: the stacked parameter by the `id` of the first run's.

    Raises:
        UserError: a rule that joins parameters, or runs at different steps.
    """
    first = optimizers[0]
    if type(first) not in _ELEMENTWISE:
        names = ", ".join(sorted({kind.__name__ for kind in _ELEMENTWISE}))
        not_stacked(len(optimizers), type(first).__name__, f"accepted are {names}")
    whole = copy.copy(first)
    whole.param_groups = [
        {**group, "params": [parameters[id(p)] for p in group["params"]]}
        for group in first.param_groups
    ]
    whole.state = defaultdict(dict)
    for group in zip(*(optimizer.param_groups for optimizer in optimizers), strict=True):
        for owned in zip(*(part["params"] for part in group), strict=True):
            states = [o.state[p] for o, p in zip(optimizers, owned, strict=True) if o.state.get(p)]
            if states:
                is_same = len(states) == len(optimizers)
                require(is_same, f"seeds={len(optimizers)}: some optimizers have made no step")
                whole.state[parameters[id(owned[0])]] = _joined(states, owned[0])
    return whole


def settle(optimizer: Optimizer, whole: Optimizer, index: int) -> None:
    """Give the optimizer of run `index` the averages and rates of the whole."""
    for group, joint in zip(optimizer.param_groups, whole.param_groups, strict=True):
        group.update({key: value for key, value in joint.items() if key != "params"})
        for own, parameter in zip(group["params"], joint["params"], strict=True):
            if parameter in whole.state:
                optimizer.state[own] = {
                    key: _part(value, parameter, index)
                    for key, value in whole.state[parameter].items()
                }


def _joined(states: Sequence[dict[str, Any]], parameter: Tensor) -> dict[str, Any]:
    joint: dict[str, Any] = {}
    for key, first in states[0].items():
        values = [state[key] for state in states]
        if isinstance(first, Tensor) and first.shape == parameter.shape:
            joint[key] = torch.stack(values)
        else:
            same = all(bool(value == first) for value in values)
            require(same, f"seeds={len(states)}: the optimizers are at different {key}s")
            joint[key] = copy.deepcopy(first)
    return joint


def _part(value: Any, parameter: Tensor, index: int) -> Any:
    is_average = isinstance(value, Tensor) and value.shape == parameter.shape
    return value[index] if is_average else copy.deepcopy(value)
