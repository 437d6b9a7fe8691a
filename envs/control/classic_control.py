"""Pendulum and cart-pole at any time step, as batched tensor cores.

At their usual steps they are Gymnasium's `Pendulum-v1` and `CartPole-v1`, to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import pi
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from semigradient.envs.control.near_continuous import (
    Actions,
    Flow,
    NearContinuous,
    TimedOptions,
    control,
    force,
    uniform,
)
from semigradient.validate import Positive

Integrator = Literal["gymnasium", "published"]


class Pendulum:
    """`semigradient/Pendulum-v0`: swing a pendulum up and keep it there.

    ## Action space
    `actions="continuous"` (the default): `Box(-1, 1, (1,))`, the torque over 2. `"discrete"`:
    `Discrete(2)`, the torques -2 and 2.

    ## Observation space
    `Box((3,), float32)`: cos θ, sin θ, θ̇; θ = 0 is upright.

    ## Rewards
    Density -(θ² + 0.1 θ̇² + 0.001 u²), θ in [-π, π), before the step.

    ## Dynamics
    θ̈ = 15 sin θ + 3u with unit mass and length and g = 10; the speed is clipped at 8, before the
    angle moves as in Gymnasium, or after (`integrator="published"`, as Gym's first version).

    ## Starting state
    θ uniform in [-π, π], θ̇ in [-1, 1].

    ## Episode end
    Truncated after `time_limit` (10) seconds. Trained without limit in the published experiments:
    `time_limit=0`.

    ## Version history
    v0: first version.
    """

    reference_dt = 0.05
    _MAX_SPEED = 8.0

    def __init__(
        self, actions: Actions = "continuous", integrator: Integrator = "gymnasium"
    ) -> None:
        high = np.array([1, 1, self._MAX_SPEED], np.float32)
        self.observation_space: spaces.Box = spaces.Box(-high, high, dtype=np.float32)
        self.action_space = control(actions, 2)
        self._clip_last = integrator == "published"
        self.settings: dict[str, Any] = {"actions": actions, "integrator": integrator}

    def start(self, n: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        """(n, 2): angle and speed."""
        return uniform(n, torch.tensor([pi, 1.0], dtype=torch.float64), generator, device)

    def flow(self, x: Tensor, action: Tensor, dt: float) -> Flow:
        """Semi-implicit Euler: the speed first, then the angle."""
        angle, speed = x.unbind(1)
        torque = 2 * force(self.action_space, action)
        wrapped = torch.remainder(angle + pi, 2 * pi) - pi
        cost = wrapped.square() + 0.1 * speed.square() + 0.001 * torque.square()
        faster = speed + (15 * torch.sin(angle) + 3 * torque) * dt
        clipped = faster.clamp(-self._MAX_SPEED, self._MAX_SPEED)
        moved = angle + (faster if self._clip_last else clipped) * dt
        return Flow(
            torch.stack([moved, clipped], 1), -cost, torch.zeros_like(cost, dtype=torch.bool)
        )

    def observe(self, x: Tensor) -> Tensor:
        """(B, 3)."""
        angle, speed = x.unbind(1)
        return torch.stack([torch.cos(angle), torch.sin(angle), speed], 1).float()

    def frame(self, x: np.ndarray) -> np.ndarray:
        """Gymnasium's picture."""
        return _picture("Pendulum-v1", x)


class CartPole:
    """`semigradient/CartPole-v0`: balance a pole on a cart.

    ## Action space
    `Discrete(2)`: push with -10 or 10.

    ## Observation space
    `Box((4,), float32)`: position, velocity, angle, angular velocity.

    ## Rewards
    Density 1 while the pole stands: 500 is the largest scaled return of 10 seconds.

    ## Dynamics
    Gymnasium's, by explicit Euler steps.

    ## Starting state
    Uniform in [-0.05, 0.05]⁴.

    ## Episode end
    Terminated beyond 2.4 or 12 degrees, truncated after `time_limit` (10) seconds.

    ## Version history
    v0: first version.
    """

    reference_dt = 0.02
    _X, _ANGLE = 2.4, 12 * 2 * pi / 360
    _MASS, _POLE_MASS, _HALF_LENGTH, _GRAVITY, _FORCE = 1.1, 0.1, 0.5, 9.8, 10.0

    def __init__(self) -> None:
        high = np.array([2 * self._X, np.inf, 2 * self._ANGLE, np.inf], np.float32)
        self.observation_space: spaces.Box = spaces.Box(-high, high, dtype=np.float32)
        self.action_space: spaces.Space = spaces.Discrete(2)
        self.settings: dict[str, Any] = {}

    def start(self, n: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        """(n, 4)."""
        return uniform(n, torch.full((4,), 0.05, dtype=torch.float64), generator, device)

    def flow(self, x: Tensor, action: Tensor, dt: float) -> Flow:
        """Explicit Euler; Barto, Sutton and Anderson's equations without friction."""
        _, _, angle, spin = x.unbind(1)
        push = force(self.action_space, action) * self._FORCE
        sine, cosine = torch.sin(angle), torch.cos(angle)
        lever = self._POLE_MASS * self._HALF_LENGTH
        pull = (push + lever * spin.square() * sine) / self._MASS
        inertia = self._HALF_LENGTH * (4 / 3 - self._POLE_MASS * cosine.square() / self._MASS)
        turn = (self._GRAVITY * sine - cosine * pull) / inertia
        acceleration = pull - lever * turn * cosine / self._MASS
        rates = torch.stack([x[:, 1], acceleration, spin, turn], 1)
        moved = x + dt * rates
        fallen = (moved[:, 0].abs() > self._X) | (moved[:, 2].abs() > self._ANGLE)
        return Flow(moved, torch.ones_like(angle), fallen)

    def observe(self, x: Tensor) -> Tensor:
        """(B, 4)."""
        return x.float()

    def frame(self, x: np.ndarray) -> np.ndarray:
        """Gymnasium's picture."""
        return _picture("CartPole-v1", x)


@lru_cache(maxsize=2)
def _renderer(env_id: str) -> Any:
    env = gymnasium.make(env_id, render_mode="rgb_array").unwrapped
    env.reset(seed=0)
    return env


def _picture(env_id: str, x: np.ndarray) -> np.ndarray:
    env = _renderer(env_id)
    env.state = x
    return env.render()


@dataclass(frozen=True)
class PendulumOptions(TimedOptions):
    """Options of the pendulum."""

    dt: Positive = Pendulum.reference_dt
    """Seconds of one step."""
    actions: Actions = "continuous"
    """Torques in [-2, 2] (continuous), or the two extremes (discrete)."""
    integrator: Integrator = "gymnasium"
    """Clip the speed before the angle moves (gymnasium), or after it (published)."""

    def make(self, device: str = "cpu") -> NearContinuous:
        """The core of `semigradient/Pendulum-v0`."""
        return self.timed(Pendulum(self.actions, self.integrator), device)


@dataclass(frozen=True)
class CartPoleOptions(TimedOptions):
    """Options of the cart-pole."""

    dt: Positive = CartPole.reference_dt
    """Seconds of one step."""

    def make(self, device: str = "cpu") -> NearContinuous:
        """The core of `semigradient/CartPole-v0`."""
        return self.timed(CartPole(), device)
