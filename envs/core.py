"""The protocol of batched environment cores, and their step with autoreset.

A core is a set of rules on tensors, on any device, and holds no episode: `reset(n, generator)`
gives a state, `step(state, actions)` a new one. `advance` adds SAME_STEP autoreset, for learners
that stay on the device; `envs.adapters` wraps any core in Gymnasium's interfaces, so a new
environment implements its rules once and registers in one line.

A state is a `NamedTuple` of tensors whose first axis is the batch. Rules never modify the
state they are given.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from semigradient import validate
from semigradient.envs.options import check_names, made
from semigradient.errors import UserError, require
from semigradient.registry import load

State = Any
"""A `NamedTuple` of tensors (B, …)."""


class Step(NamedTuple):
    """Result of one step of B environments."""

    state: State
    reward: Tensor  # (B,) float64
    terminated: Tensor  # (B,) bool
    truncated: Tensor  # (B,) bool


class Core(Protocol):
    """Rules of an environment, on batches of tensors.

    Attributes:
        device: where its tensors live.
        single_observation_space: space of one observation.
        single_action_space: space of one action.
        protocol: how scores are to be interpreted; saved with every run.

    A core whose observations need a network of their own names it, as in `registry.NETWORKS`, in
    the attribute `network`. One whose pictures show what went before says in `remembers` how many
    states, and its `render` receives them, the newest last. One whose best expected return (and
    that of policies of interest) is known has `references`, returns by name, for reports.
    """

    device: torch.device
    single_observation_space: spaces.Box
    single_action_space: spaces.Space
    protocol: dict[str, Any]

    def reset(self, n: int, generator: torch.Generator | None = None, **options: Any) -> State:
        """`n` fresh episodes; `options` are those of Gymnasium's reset."""
        ...

    def step(self, state: State, actions: Tensor, generator: torch.Generator | None = None) -> Step:
        """Act once in every episode."""
        ...

    def observe(self, state: State) -> Tensor:
        """Observations (B, *observation) in memory of their own."""
        ...

    def info(self, state: State) -> dict[str, Tensor]:
        """Further information about the episodes: tensors (B, …)."""
        ...

    def render(self, state: State) -> list[np.ndarray]:
        """RGB frames (H, W, 3) uint8, one per episode."""
        ...


class Advance(NamedTuple):
    """One step with SAME_STEP autoreset.

    `state` and `obs` are those of the next episode where one ended; `last_state` is the state
    before any reset. `final_obs` (k, *observation) are the last observations of the k episodes
    that ended, in environments `ended` (k,).
    """

    state: State
    obs: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    last_state: State
    ended: Tensor
    final_obs: Tensor


def advance(core: Core, state: State, actions: Tensor, generator: torch.Generator) -> Advance:
    """Act once in every episode and begin a new one where one ended.

    The number of ended episodes decides how much is drawn, so a GPU is synchronised once per step.
    """
    last, reward, terminated, truncated = core.step(state, actions, generator)
    obs = core.observe(last)
    ended = (terminated | truncated).nonzero().squeeze(1)
    final_obs = obs.index_select(0, ended)
    state = last
    if len(ended):
        fresh = core.reset(len(ended), generator)
        pairs = zip(last, fresh, strict=True)
        state = type(last)(*(old.index_copy(0, ended, new) for old, new in pairs))
        obs.index_copy_(0, ended, core.observe(fresh))
    return Advance(state, obs, reward, terminated, truncated, last, ended, final_obs)


def resolve(core: Core | str, options: Mapping[str, Any], device: Any = "cpu") -> Core:
    """The core itself, or what the options "module:Class" make of keyword arguments.

    Raises:
        UserError: an option that there is not, a value that is not accepted, a device that is not
            there, or whatever the maker raises.
    """
    if not isinstance(core, str):
        if options:
            raise TypeError(f"options {sorted(options)} need the core's options, not a core")
        return core
    check_names(options)
    name = name_of(core)
    chosen = validate.build(options_at(core), options, f"option of {name}")
    return made(chosen, device, name)


def options_at(location: str) -> Any:
    """The class of options at "module:Class"."""
    try:
        cls = load(location)
    except (ImportError, AttributeError, ValueError) as problem:
        raise UserError(
            f"core={location!r}: {validate.first_line(problem)}; accepted is module:Options"
        ) from problem
    is_valid = dataclasses.is_dataclass(cls) and hasattr(cls, "make")
    require(
        is_valid, f"core={location!r}: must be a dataclass of options with a method make(device)"
    )
    return cls


def name_of(location: str) -> str:
    """The id under which a core is registered; its location, if it is not."""
    for env_id, spec in gymnasium.registry.items():
        if spec.kwargs.get("core") == location:
            return env_id
    return location
