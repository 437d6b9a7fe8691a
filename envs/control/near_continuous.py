"""Environments that discretise one differential equation at any time step.

`NearContinuous` is a core (see `envs.core`) over some `Physics`: it adds the clock, the time
limit and the arguments that all of them share. Physics define how a state moves when an action is
held for `dt` seconds, and its reward per second. C. Tallec, PhD thesis, 2019,
§8.2 and appendix A.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from semigradient.envs.clock import Clock
from semigradient.envs.core import Step
from semigradient.envs.options import Options
from semigradient.errors import require
from semigradient.validate import NonNegative, Positive

Actions = Literal["continuous", "discrete"]


@dataclass(frozen=True)
class TimedOptions(Options):
    """Time options of near-continuous environments."""

    dt: Positive = 0.1
    """Seconds of one step."""
    time_limit: NonNegative = 10.0
    """Seconds after which an episode is cut off; 0: never."""

    def check(self) -> None:
        """An episode has at least one step."""
        Clock(self.dt, self.dt, self.time_limit)

    def timed(self, physics: Physics, device: str) -> NearContinuous:
        """The core of a differential equation."""
        return NearContinuous(physics, self.dt, self.time_limit, device)


class Flow(NamedTuple):
    """Result of holding an action for `dt` seconds."""

    x: Tensor  # (B, d) float64
    density: Tensor  # (B,) float64: reward per second
    terminated: Tensor  # (B,) bool


class Physics(Protocol):
    """A controlled differential equation on states x (B, d) float64.

    Attributes:
        observation_space: of one environment.
        action_space: of one environment.
        reference_dt: its usual time step.
        settings: its own options, for the protocol.
    """

    observation_space: spaces.Box
    action_space: spaces.Space
    reference_dt: float
    settings: dict[str, Any]

    def start(self, n: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        """Initial states (n, d)."""
        ...

    def flow(self, x: Tensor, action: Tensor, dt: float) -> Flow:
        """Hold `action` (B, *action) for `dt` seconds."""
        ...

    def observe(self, x: Tensor) -> Tensor:
        """Observations (B, *observation) float32."""
        ...

    def frame(self, x: np.ndarray) -> np.ndarray:
        """RGB frame (H, W, 3) uint8 of one state (d,)."""
        ...


class PhysicalState(NamedTuple):
    """Running episodes."""

    x: Tensor  # (B, d) float64: state of the differential equation
    steps: Tensor  # (B,) int64: since the beginning of the episode


class NearContinuous:
    """A batched core over `physics` at one time step; reward is a density, per second.

    Information: `time`, the seconds since the episode began. `reset` accepts `state`: (d,) or
    (B, d), the physical states to begin in.

    Args:
        physics: the differential equation.
        dt: seconds of one step.
        time_limit: seconds after which an episode is truncated; 0: never.
        device: where the tensors live.
    """

    def __init__(
        self, physics: Physics, dt: float, time_limit: float = 10.0, device: str = "cpu"
    ) -> None:
        self.physics = physics
        self.clock = Clock(dt, physics.reference_dt, time_limit)
        self.device = torch.device(device)
        self.single_observation_space = physics.observation_space
        self.single_action_space = physics.action_space
        self.protocol: dict[str, Any] = {**self.clock.protocol(), **physics.settings}

    def reset(
        self,
        n: int,
        generator: torch.Generator | None = None,
        state: Any = None,
    ) -> PhysicalState:
        """Begin `n` episodes, in random states or in those given."""
        x = self.physics.start(n, generator, self.device)
        if state is not None:
            given = torch.as_tensor(state, dtype=x.dtype, device=self.device)
            is_valid = given.shape in (x.shape, x.shape[1:])
            require(is_valid, f"state of shape {tuple(given.shape)}: must be {tuple(x.shape[1:])}")
            x = given.expand_as(x).clone()
        return PhysicalState(x, torch.zeros(n, dtype=torch.int64, device=self.device))

    def step(
        self, state: PhysicalState, actions: Tensor, generator: torch.Generator | None = None
    ) -> Step:
        """Hold the actions for one time step."""
        x, density, terminated = self.physics.flow(state.x, actions, self.clock.dt)
        steps = state.steps + 1
        limit = self.clock.limit
        truncated = (steps >= limit) & ~terminated if limit else torch.zeros_like(terminated)
        return Step(PhysicalState(x, steps), density, terminated, truncated)

    def observe(self, state: PhysicalState) -> Tensor:
        """(B, *observation) float32."""
        return self.physics.observe(state.x)

    def info(self, state: PhysicalState) -> dict[str, Tensor]:
        """Seconds since the beginning."""
        return {"time": state.steps * self.clock.dt}

    def render(self, state: PhysicalState) -> list[np.ndarray]:
        """RGB frames."""
        return [self.physics.frame(x) for x in state.x.cpu().numpy()]


def uniform(
    n: int, half_width: Tensor, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """(n, d) uniform in [-half_width, half_width]."""
    drawn = torch.rand(
        (n, len(half_width)), dtype=torch.float64, generator=generator, device=device
    )
    return (2 * drawn - 1) * half_width.to(device)


def control(kind: Actions, choices: int) -> spaces.Space:
    """Continuous actions in [-1, 1], or a few discrete ones."""
    if kind == "discrete":
        return spaces.Discrete(choices)
    return spaces.Box(-1, 1, (1,), np.float32)


def force(space: spaces.Space, action: Tensor) -> Tensor:
    """Controls (B,) float64 in [-1, 1]: clipped, or evenly spaced for discrete actions."""
    if isinstance(space, spaces.Discrete):
        return action.double() * (2 / (int(space.n) - 1)) - 1
    return action[:, 0].double().clamp(-1, 1)
