"""What an agent is to the rest of the toolkit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from semigradient.envs import ExactVector
from semigradient.training.timers import Timers

Policy = Callable[[np.ndarray, "np.ndarray | None"], np.ndarray]
"""Actions (B, *action) for observations (B, *observation) and optional masks (B, A)."""


@dataclass
class Setup:
    """What an agent is given besides its own config.

    Attributes:
        envs: the training environments.
        device: where networks and memories live.
        seed: root of the agent's generators.
        total_steps: environment steps of the whole run, for schedules.
        make_optimizer: gives the chosen optimizer over the given parameters.
        compile: compile whole updates with `torch.compile`.
        learning: false for evaluation, where no replay memory is needed.
        timers: seconds by phase.
    """

    envs: ExactVector
    device: torch.device
    seed: int
    total_steps: int
    make_optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    compile: bool = False
    learning: bool = True
    timers: Timers = field(default_factory=Timers)


class Agent(Protocol):
    """Anything that `train.py` can train.

    Attributes:
        setup: what it was built with.
        timers: seconds by phase.
        exact: whether the last `load_state_dict` could restore the environments exactly.
    """

    setup: Setup
    timers: Timers

    @property
    def exact(self) -> bool:
        """Whether a loaded state continues exactly."""
        ...

    @property
    def steps(self) -> int:
        """Environment interactions so far."""
        ...

    def iterate(self) -> Mapping[str, float | Tensor]:
        """Collect and learn once; scalars to log (0-dim tensors are read when logged)."""
        ...

    def policy(self, deterministic: bool) -> Policy:
        """A policy for evaluation: no gradient, no exploration unless asked."""
        ...

    def pop_episodes(self) -> list[tuple[float, int]]:
        """(return, length) of the training episodes that ended since the last call."""
        ...

    def named_parameters(self) -> Iterable[tuple[str, Tensor]]:
        """Everything learned, for the check that it is finite."""
        ...

    def policy_state(self) -> dict[str, Any]:
        """The small part of the state that `policy` needs."""
        ...

    def load_policy_state(self, state: dict[str, Any]) -> None:
        """Take back what `policy_state` gave."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that makes the next `iterate` identical."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Come back to a saved instant."""
        ...


def generator(seed: int, stream: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for one purpose (`stream`) of a run."""
    entropy = np.random.SeedSequence((seed, stream)).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(entropy >> np.uint64(1)))


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's state with string keys, as checkpoints want it."""
    state = optimizer.state_dict()
    return {
        "state": {str(key): value for key, value in state["state"].items()},
        "param_groups": [
            {key: list(v) if isinstance(v, tuple) else v for key, v in group.items()}
            for group in state["param_groups"]
        ],
    }


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take back what `optimizer_state` gave."""
    per_parameter = {
        int(key) if key.isdigit() else key: value for key, value in state["state"].items()
    }
    groups = [
        {k: tuple(v) if isinstance(v, list) and k != "params" else v for k, v in group.items()}
        for group in state["param_groups"]
    ]
    optimizer.load_state_dict({"state": per_parameter, "param_groups": groups})
    # Files hold tensors in plain order. Averages must lie in memory as their parameters do:
    # another order takes other instructions, which round differently.
    for parameter, entries in optimizer.state.items():
        for name, value in entries.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                entries[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


class LearningRate:
    """The learning rates of a new optimizer, constant or falling linearly to 0 over the run."""

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: str) -> None:
        self.optimizer, self.schedule = optimizer, schedule
        self.base = [group["lr"] for group in optimizer.param_groups]

    def set(self, step: int, total_steps: int) -> float:
        """Write the rates of `step` into the optimizer; returns the first group's."""
        factor = remaining(step, total_steps) if self.schedule == "linear" else 1.0
        for group, base in zip(self.optimizer.param_groups, self.base, strict=True):
            group["lr"] = base * factor
        return self.base[0] * factor


def remaining(step: int, total_steps: int) -> float:
    """Share of the run that is still to come, in [0, 1]."""
    return max(0.0, 1 - step / total_steps)


def maybe_compile(function: Callable[..., Any], enabled: bool) -> Callable[..., Any]:
    """`torch.compile` a pure tensor function of static shapes when asked to."""
    return torch.compile(function, dynamic=False) if enabled else function
