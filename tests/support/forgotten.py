"""What no part of an agent names: found by changing it and looking whether the state changes."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from semigradient.training import parts
from semigradient.training.state import Encoder

_KINDS = (
    torch.Generator,
    np.random.Generator,
    torch.optim.Optimizer,
    torch.Tensor,
    nn.Module,
)
_PASSED_BY = {"setup", "config", "timers"}


def forgotten(agent: Any) -> list[str]:
    """Paths of generators, optimizers, modules, parameters and own objects outside the state.

    An own object counts as inside where its state is asked for; all else where the saved state
    changes when it does.
    """
    found = []
    for path, value in _held(agent, type(agent).__name__):
        known = (_changes_state if isinstance(value, _KINDS) else _is_asked)(agent, value)
        if not known:
            found.append(path)
    return found


def _held(owner: Any, path: str, seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """Everything with a state that is reached from `owner` through its own objects."""
    seen = set() if seen is None else seen
    for name, value in _children(owner):
        here = f"{path}.{name}"
        if id(value) in seen:
            continue
        seen.add(id(value))
        if _has_state(value):
            yield here, value
        if _is_own(value) or isinstance(value, dict | list | tuple):
            yield from _held(value, here, seen)


def _children(owner: Any) -> list[tuple[str, Any]]:
    if isinstance(owner, dict):
        return [(str(key), value) for key, value in owner.items()]
    if isinstance(owner, list | tuple):
        return [(str(index), value) for index, value in enumerate(owner)]
    return [(k, v) for k, v in getattr(owner, "__dict__", {}).items() if k not in _PASSED_BY]


def _is_own(value: Any) -> bool:
    if isinstance(value, spaces.Space):  # of which only Gymnasium's sample() draws
        return False
    root = type(value).__module__.split(".")[0]
    return root in {"semigradient", "tests"} or root.startswith(("test_", "support"))


def _has_state(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        # Rows that share one memory take no update in place: they are copies, made anew.
        return value.requires_grad and value.is_leaf and 0 not in value.stride()
    if isinstance(value, nn.Module):
        return any(True for _ in value.parameters())
    return isinstance(value, _KINDS) or (_is_own(value) and hasattr(value, "state_dict"))


def _changes_state(agent: Any, value: Any) -> bool:
    before = digest(parts.state(agent))
    undo = _change(value)
    after = digest(parts.state(agent))
    undo()
    assert digest(parts.state(agent)) == before, "the change was not undone"
    return before != after


def _change(value: Any) -> Callable[[], Any]:
    """Change something a little; returns what takes it back."""
    if isinstance(value, torch.Generator):
        state = value.get_state()
        torch.rand(1, generator=value, device=value.device)
        return lambda: value.set_state(state)
    if isinstance(value, np.random.Generator):
        bits = copy.deepcopy(value.bit_generator.state)
        value.random()
        return lambda: setattr(value.bit_generator, "state", bits)
    if isinstance(value, torch.optim.Optimizer):
        group = value.param_groups[0]
        rate = group["lr"]
        group["lr"] = rate + 1
        return lambda: group.update(lr=rate)
    tensor = value if isinstance(value, torch.Tensor) else next(iter(value.parameters()))
    kept = tensor.detach().clone()
    tensor.data += 1
    return lambda: tensor.data.copy_(kept)


def _is_asked(agent: Any, value: Any) -> bool:
    asked = []
    original = value.state_dict

    def spy() -> Any:
        asked.append(True)
        return original()

    value.state_dict = spy
    try:
        parts.state(agent)
    finally:
        del value.state_dict
    return bool(asked)


def digest(state: Any) -> str:
    """A hash of a nested state, tensors included."""
    encoder = Encoder()
    tree = encoder.encode(state, ())
    total = hashlib.sha256(repr(tree).encode())
    shards = {name: shard.tensor for name, (_, shard) in encoder.shards.items()}
    for tensor in {**encoder.tensors, **shards}.values():
        total.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()
