"""An environment of any spaces, that refuses actions of others, and one that misbehaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

LENGTH = 5


class Spaced(gymnasium.Env):
    """Episodes of five steps; observations are drawn from the space, by the seed of the reset.

    Reward: 1 where the first number of the action is the smallest that there is. Whatever it is
    given it overwrites, and what it returns it overwrites at the next step.
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(
        self, observation: spaces.Space, action: spaces.Space, render_mode: str | None = None
    ) -> None:
        self.observation_space, self.action_space = observation, action
        self.render_mode = render_mode
        self.given: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.time = 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        assert self.action_space.contains(action), action
        self.given.append(action)
        reward = float(np.ravel(first_of(action))[0] == lowest(self.action_space))
        if isinstance(action, np.ndarray):
            action[...] = 99
        self.time += 1
        return self._observation(), reward, self.time == LENGTH, False, {}

    def render(self) -> np.ndarray:
        return np.zeros((64, 64, 3), np.uint8)

    def _observation(self) -> Any:
        if isinstance(getattr(self, "last", None), np.ndarray) and self.last.shape:
            self.last[...] = 0
        self.last = self.observation_space.sample()
        return self.last


def first_of(action: Any) -> Any:
    """The first number of a nested action."""
    while isinstance(action, (dict, tuple)):
        action = next(iter(action.values())) if isinstance(action, dict) else action[0]
    return action


def lowest(space: Any) -> float:
    """The smallest first number of a space of actions."""
    while isinstance(space, (spaces.Dict, spaces.Tuple)):
        inner = space.spaces
        space = next(iter(inner.values())) if isinstance(inner, dict) else inner[0]
    if isinstance(space, spaces.Box):
        return float(space.low.flat[0])
    start = getattr(space, "start", 0)
    return float(np.ravel(start)[0])


@contextmanager
def registered(name: str, entry_point: Any, **kwargs: Any) -> Iterator[str]:
    """An id for as long as it is needed."""
    gymnasium.register(name, entry_point=entry_point, kwargs=kwargs)
    try:
        yield name
    finally:
        del gymnasium.registry[name]
