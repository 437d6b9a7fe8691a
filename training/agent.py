"""What an agent is to the rest of the toolkit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from semigradient import optim
from semigradient.envs import ExactVector
from semigradient.errors import UserError
from semigradient.optim import promises
from semigradient.optim.configs import OptimizerConfig
from semigradient.optim.temporal_difference import wants_temporal_difference
from semigradient.training.timers import Timers

Policy = Callable[[np.ndarray, "np.ndarray | None"], np.ndarray]
"""Actions (B, *action) for observations (B, *observation) and optional masks (B, A)."""


def forget(policy: Policy, rows: np.ndarray | None = None) -> None:
    """Tell a policy that new episodes begin, in rows (B,) bool or everywhere.

    A policy that remembers has a method `forget(rows)`; for all others there is nothing to do.
    """
    told = getattr(policy, "forget", None)
    if told is not None:
        told(rows)


@dataclass
class AgentContext:
    """What an agent is given besides its own config.

    Attributes:
        envs: the training environments.
        device: where networks and memories live.
        seed: root of the agent's generators.
        total_steps: environment steps that schedules span, as a rule the whole run.
        optimizer: hyperparameters of the chosen optimizer; see `make_optimizer`.
        compile: compile whole updates with `torch.compile`.
        learning: false for evaluation, where no replay memory is needed.
        timers: seconds by phase.
        run_steps: environment steps at which the run ends; 0 where there is no run.
    """

    envs: ExactVector
    device: torch.device
    seed: int
    total_steps: int
    optimizer: OptimizerConfig
    compile: bool = False
    learning: bool = True
    timers: Timers = field(default_factory=Timers)
    run_steps: int = 0

    def make_optimizer(
        self, params: Iterable[Any], temporal_differences: bool = False
    ) -> torch.optim.Optimizer:
        """Build the chosen optimizer.

        Args:
            params: tensors or parameter groups.
            temporal_differences: whether each minibatch will be shown to it, as an optimizer that
                knows that targets move wants (`optim/temporal_difference.py`).

        Raises:
            UserError: the optimizer wants temporal differences, and the agent has none.
        """
        optimizer = optim.make(self.optimizer, params)
        if not self.learning:
            promises.take(optimizer)  # it never steps
        if wants_temporal_difference(optimizer) and not temporal_differences:
            raise UserError(
                f"--optim: {type(optimizer).__name__} learns from temporal differences, and this "
                "agent has none to show (docs/off_diagonal.md lists those that have)"
            )
        return optimizer


class Progress(Protocol):
    """How far training is: a `EnvStepper`, or a `Count` where no environment is stepped."""

    @property
    def steps(self) -> int:
        """Environment interactions so far."""
        ...

    @property
    def exact(self) -> bool:
        """Whether a loaded state continues exactly."""
        ...

    def pop_episodes(self) -> list[tuple[float, int]]:
        """(return, length) of the training episodes that ended since the last call."""
        ...


class Count:
    """Progress of an agent that counts its own steps; a loaded state always continues exactly.

    Attributes:
        steps: so far, in the agent's own unit.
    """

    exact = True

    def __init__(self) -> None:
        self.steps = 0
        self._episodes: list[Tensor] = []  # (k, 2): return and length

    def note(self, returns: Tensor, lengths: Tensor) -> None:
        """Add episodes (k,) that ended; read from the device only by `pop_episodes`."""
        self._episodes.append(torch.stack([returns.double(), lengths.double()], 1))

    def pop_episodes(self) -> list[tuple[float, int]]:
        """(return, length) of the episodes noted since the last call."""
        ended, self._episodes = self._episodes, []
        return [(value, int(length)) for part in ended for value, length in part.tolist()]

    def state_dict(self) -> dict[str, Any]:
        """Steps and the pending episodes."""
        nothing = torch.zeros((0, 2), dtype=torch.float64)
        episodes = torch.cat([nothing, *(part.cpu() for part in self._episodes)])
        return {"steps": self.steps, "episodes": episodes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state."""
        self.steps, self._episodes = state["steps"], [state["episodes"]]


class Agent(Protocol):
    """Anything that `train.py` can train.

    A class without an optimizer sets `HAS_OPTIMIZER = False`, and --optim is refused.
    An agent whose state is more than its parts may also define `state_dict` and
    `load_state_dict`, or `policy_state` and `load_policy_state`, instead of `STATE` and
    `POLICY`; `training.parts` prefers them.

    Attributes:
        setup: what it was built with.
        timers: seconds by phase.
    """

    setup: AgentContext
    timers: Timers

    @property
    def STATE(self) -> tuple[str, ...]:  # noqa: N802
        """Attributes that make the next `iterate` identical, saved by kind: `training.parts`."""
        ...

    @property
    def POLICY(self) -> tuple[str, ...]:  # noqa: N802
        """Those that `policy` needs."""
        ...

    @property
    def progress(self) -> Progress:
        """Steps so far, whether a loaded state is exact, and the episodes that ended."""
        ...

    def iterate(self) -> Mapping[str, float | Tensor]:
        """Collect and learn once; scalars to log (0-dim tensors are read when logged)."""
        ...

    def policy(self, deterministic: bool) -> Policy:
        """A policy for evaluation, without gradients; it explores unless `deterministic`."""
        ...


def generator(seed: int, stream: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for one purpose (`stream`) of a run."""
    entropy = np.random.SeedSequence((seed, stream)).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(entropy >> np.uint64(1)))


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's state with string keys, as checkpoints require."""
    state = optimizer.state_dict()
    return {
        "state": {str(key): value for key, value in state["state"].items()},
        "param_groups": [
            {key: list(v) if isinstance(v, tuple) else v for key, v in group.items()}
            for group in state["param_groups"]
        ],
    }


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load what `optimizer_state` gave."""
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

    def of(self, optimizer: torch.optim.Optimizer) -> LearningRate:
        """The same rates for another optimizer with groups like these."""
        other = copy.copy(self)
        other.optimizer = optimizer
        return other

    def set(self, step: int, total_steps: int) -> float:
        """Write the rates of `step` into the optimizer; returns the first group's."""
        factor = remaining(step, total_steps) if self.schedule == "linear" else 1.0
        for group, base in zip(self.optimizer.param_groups, self.base, strict=True):
            group["lr"] = base * factor
        return self.base[0] * factor


def remaining(step: int, total_steps: int) -> float:
    """Remaining share of the run, in [0, 1]."""
    return max(0.0, 1 - step / total_steps)
