"""Gymnasium's classic control with its velocities hidden: observations are positions only.

Dynamics, rewards, limits and first states are Gymnasium's, bit for bit, since each class is
Gymnasium's own and shows a part of what that observes. The state is no longer observed: a policy
needs two observations to tell a velocity.

The names are those of POPGym (S. Morad et al. 2023), whose cart-pole shows the same two numbers
with other limits and rewards.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control import AcrobotEnv, CartPoleEnv, MountainCarEnv, PendulumEnv


class PositionOnly(gymnasium.Env[Any, Any]):
    """Shows a part of what the next class observes, in memory of its own.

    Attributes:
        SHOWN: which numbers of the observation are positions.
    """

    SHOWN: ClassVar[slice]

    def narrow(self) -> None:
        """Declare the bounds of what is shown."""
        whole: Any = self.observation_space
        low, high = whole.low[self.SHOWN], whole.high[self.SHOWN]
        self.observation_space = spaces.Box(low, high, dtype=np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode as Gymnasium does."""
        obs, info = super().reset(seed=seed, options=options)
        return obs[self.SHOWN].copy(), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Act; only the observation differs from Gymnasium's."""
        obs, *rest = super().step(action)
        return obs[self.SHOWN].copy(), *rest


class PositionOnlyCartPole(PositionOnly, CartPoleEnv):
    """`semigradient/PositionOnlyCartPole-v0`: `CartPole-v1`; observation (2,): position, angle."""

    SHOWN = slice(0, None, 2)

    def __init__(self, sutton_barto_reward: bool = False, render_mode: str | None = None) -> None:
        super().__init__(sutton_barto_reward, render_mode)
        self.narrow()


class PositionOnlyPendulum(PositionOnly, PendulumEnv):
    """`semigradient/PositionOnlyPendulum-v0`: `Pendulum-v1`; observation (2,): cos θ, sin θ.

    The reward, -(θ² + 0.1 θ̇² + 0.001 u²), depends on what is hidden.
    """

    SHOWN = slice(2)

    def __init__(self, render_mode: str | None = None, g: float = 10.0) -> None:
        super().__init__(render_mode, g)
        self.narrow()


class PositionOnlyAcrobot(PositionOnly, AcrobotEnv):
    """`semigradient/PositionOnlyAcrobot-v0`: `Acrobot-v1`; cosine and sine of both angles (4,)."""

    SHOWN = slice(4)

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.narrow()


class PositionOnlyMountainCar(PositionOnly, MountainCarEnv):
    """`semigradient/PositionOnlyMountainCar-v0`: `MountainCar-v0`; observation (1,): position."""

    SHOWN = slice(1)

    def __init__(self, render_mode: str | None = None, goal_velocity: float = 0) -> None:
        super().__init__(render_mode, goal_velocity)
        self.narrow()
