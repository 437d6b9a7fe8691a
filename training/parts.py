"""State by parts: an agent names its parts, and each is saved by its kind.

    class DQN:
        STATE = ("network", "target", "optimizer", "memory", "stepper", "rng", "updates")
        POLICY = ("network",)

`STATE` is everything that makes the next `iterate` identical, `POLICY` the small part of it that
evaluation needs. A name is an attribute, with dots for one of a part (`model.policy`). Kinds:

- modules, optimizers, generators (torch's and numpy's), parameters: loaded in place;
- objects that name their own `STATE` (and, where the policy needs less, `POLICY`), and objects
  with `state_dict` and `load_state_dict`, such as a replay memory: loaded in place;
- other tensors and arrays, numbers, text, None: replaced;
- lists, tuples and dicts of these.

Nothing else: an agent that is more than its parts defines `state_dict` and `load_state_dict`
(or `policy_state` and `load_policy_state`) and builds them from `save` and `restore`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from semigradient.training.agent import load_optimizer_state, optimizer_state

_PLAIN = (bool, int, float, str, type(None))


def state(owner: Any) -> dict[str, Any]:
    """Everything that makes the owner's future identical; tensors are views, not copies."""
    own = getattr(owner, "state_dict", None)
    return own() if own else save(owner, owner.STATE)


def load(owner: Any, saved: dict[str, Any]) -> None:
    """Restore what `state` gave, of this owner or of one built alike."""
    own = getattr(owner, "load_state_dict", None)
    if own:
        own(saved)
    else:
        restore(owner, owner.STATE, saved)


def policy_state(owner: Any) -> dict[str, Any]:
    """The part of the state that the policy needs."""
    own = getattr(owner, "policy_state", None)
    return own() if own else save(owner, owner.POLICY, policy=True)


def load_policy_state(owner: Any, saved: dict[str, Any]) -> None:
    """Restore what `policy_state` gave."""
    own = getattr(owner, "load_policy_state", None)
    if own:
        own(saved)
    else:
        restore(owner, owner.POLICY, saved, policy=True)


def save(owner: Any, names: Iterable[str], policy: bool = False) -> dict[str, Any]:
    """The named parts of an owner, each by its kind; of owners among them, what `policy` needs.

    Raises:
        TypeError: a part of a kind that cannot be saved.
    """
    return {
        name: _save(attrgetter(name)(owner), policy, f"{type(owner).__name__}.{name}")
        for name in names
    }


def restore(owner: Any, names: Iterable[str], saved: dict[str, Any], policy: bool = False) -> None:
    """Load the named parts of an owner from what `save` gave."""
    for name in names:
        present = attrgetter(name)(owner)
        loaded = _restore(present, saved[name], policy)
        if loaded is not present:
            holder, _, last = name.rpartition(".")
            setattr(attrgetter(holder)(owner) if holder else owner, last, loaded)


def learned(agent: Any) -> dict[str, Tensor]:
    """All parameters by their paths, and the other tensors of real numbers of the policy."""
    state_parts, policy_parts = getattr(agent, "STATE", ()), agent.POLICY
    tensors = dict(_parts_learned(agent, state_parts, "", False))
    return {**tensors, **dict(_parts_learned(agent, policy_parts, "", True))}


def _save(value: Any, policy: bool, path: str) -> Any:
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, np.ndarray | np.generic):
        return value
    if isinstance(value, torch.optim.Optimizer):
        return optimizer_state(value)
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if isinstance(value, dict):
        return {key: _save(item, policy, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_save(item, policy, f"{path}.{index}") for index, item in enumerate(value)]
    if hasattr(value, "STATE") or hasattr(value, "state_dict"):
        return policy_state(value) if policy and hasattr(value, "POLICY") else state(value)
    raise TypeError(f"{path}: a {type(value).__name__} is no part that can be saved")


def _restore(present: Any, saved: Any, policy: bool) -> Any:
    """The part after loading: `present` itself where it can be loaded in place."""
    if isinstance(present, Tensor):
        return _restore_tensor(present, saved)
    if isinstance(present, torch.optim.Optimizer):
        load_optimizer_state(present, saved)
    elif isinstance(present, torch.Generator):
        present.set_state(saved)
    elif isinstance(present, np.random.Generator):
        present.bit_generator.state = saved
    elif isinstance(present, dict):
        return {key: _restore(present.get(key), item, policy) for key, item in saved.items()}
    elif isinstance(present, list | tuple):
        return _restore_items(present, saved, policy)
    elif hasattr(present, "STATE") or hasattr(present, "state_dict"):
        alone = policy and hasattr(present, "POLICY")
        (load_policy_state if alone else load)(present, saved)
    else:
        return saved.copy() if isinstance(saved, np.ndarray) else saved
    return present


def _restore_tensor(present: Tensor, saved: Tensor) -> Tensor:
    if not present.requires_grad:
        return saved.to(present.device, copy=True)
    with torch.no_grad():  # an optimizer holds it
        return present.copy_(saved)


def _restore_items(present: Any, saved: list[Any], policy: bool) -> Any:
    if len(present) == len(saved):
        saved = [_restore(*pair, policy) for pair in zip(present, saved, strict=True)]
    if isinstance(present, list):
        return saved
    return type(present)(*saved) if hasattr(present, "_fields") else tuple(saved)


def _parts_learned(
    owner: Any, names: Iterable[str], path: str, policy: bool
) -> Iterator[tuple[str, Tensor]]:
    for name in names:
        yield from _learned(attrgetter(name)(owner), f"{path}{name}", policy)


def _learned(value: Any, path: str, policy: bool) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, nn.Module):
        yield from ((f"{path}.{name}", p.detach()) for name, p in value.named_parameters())
    elif isinstance(value, Tensor):
        if value.requires_grad or (policy and value.is_floating_point()):
            yield path, value.detach()
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _learned(item, f"{path}.{key}", policy)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _learned(item, f"{path}.{index}", policy)
    elif hasattr(value, "STATE"):
        names = getattr(value, "POLICY", value.STATE) if policy else value.STATE
        yield from _parts_learned(value, names, f"{path}.", policy)
