"""Mountain Car under a fixed policy, with exact values.

The dynamics are those of Gymnasium's `MountainCar-v0` (a test compares them step by step), batched
over many cars, because the published experiment draws every transition from a uniform state. The
policy pushes along the velocity: left if it is negative, right otherwise.

With reward r at every step and a number of steps n(s) to the goal that simulation gives exactly,
the value is V(s) = r (1 - gamma^n(s)) / (1 - gamma).

Source: E. Bengio, PhD thesis, section 4.3.2.1; the reward -0.1 and gamma 0.95 are those of its
published code, and the only discount that fits its value network.
"""

from __future__ import annotations

import functools
from typing import Any

import gymnasium
import torch
from gymnasium.envs.classic_control import MountainCarEnv
from gymnasium.wrappers import TransformReward
from torch import Tensor

LOW, HIGH = (-1.2, -0.07), (0.6, 0.07)
REWARD = -0.1
GAMMA = 0.95
ID = "semigradient/MountainCarTenth-v0"
"""Gymnasium's environment with that reward."""
gymnasium.register(
    ID, entry_point="semigradient.reproductions.td.mountain_car:make", max_episode_steps=200
)
LONGEST = 1000
"""Maximum number of steps of an episode, beyond which an error is raised; the longest takes 172."""


def make(**options: Any) -> gymnasium.Env:
    """Gymnasium's Mountain Car with a reward of -0.1 per step."""
    return TransformReward(MountainCarEnv(**options), lambda reward: -REWARD * reward)  # type: ignore[operator]


def uniform(*shape: int, generator: torch.Generator) -> Tensor:
    """States (*shape, 2), position and velocity, uniform over the box; float64."""
    low, high = torch.tensor(LOW, dtype=torch.float64), torch.tensor(HIGH, dtype=torch.float64)
    unit = torch.rand(*shape, 2, generator=generator, dtype=torch.float64)
    return low + unit * (high - low)


def step(states: Tensor, push: Tensor | float | None = None) -> tuple[Tensor, Tensor]:
    """One step from states (..., 2): the next states and whether they are terminal (...).

    `push` is -1 (left), 0 or 1 (right), Gymnasium's action less 1; None: that of the policy.
    """
    position, velocity = states.unbind(-1)
    if push is None:
        push = torch.where(velocity < 0, -1.0, 1.0)
    velocity = velocity + 0.001 * push - 0.0025 * torch.cos(3 * position)
    velocity = velocity.clamp(LOW[1], HIGH[1])
    position = (position + velocity).clamp(LOW[0], HIGH[0])
    velocity = torch.where((position == LOW[0]) & (velocity < 0), 0.0, velocity)
    return torch.stack([position, velocity], -1), (position >= 0.5) & (velocity >= 0)


def steps_to_goal(states: Tensor) -> Tensor:
    """Steps the policy needs from states (..., 2) to the goal, (...), at least 1."""
    count = torch.zeros(states.shape[:-1], dtype=torch.int64)
    running = torch.ones_like(count, dtype=torch.bool)
    for _ in range(LONGEST):
        states, arrived = step(states)
        count += running
        running &= ~arrived
        if not running.any():
            return count
    raise RuntimeError(f"the policy has not arrived after {LONGEST} steps")


def value(states: Tensor) -> Tensor:
    """The exact value (...) of states (..., 2)."""
    return value_of_steps(steps_to_goal(states))


def value_of_steps(count: Tensor) -> Tensor:
    """The value of being `count` steps from the goal."""
    return REWARD * (1 - GAMMA ** count.double()) / (1 - GAMMA)


@functools.cache
def evaluation_states(count: int = 4096) -> tuple[Tensor, Tensor]:
    """States (count, 2), uniform over the box, with their exact values (count,)."""
    states = uniform(count, generator=torch.Generator().manual_seed(20_000_003))
    return states, value(states)
