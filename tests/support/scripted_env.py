"""An environment that does what a test wants, at the instant that it wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

NAME = "Scripted-v0"
SMALL = (
    "--agent dqn --preset none --hidden 4 --learning-starts 8 --train-every 8 --batch-size 4 "
    f"--buffer-size 64 --env {NAME} --steps 64 --eval-every 0 --checkpoint-every 16 "
    "--log-every 16 --eval-episodes 2"
).split()


class Scripted(gymnasium.Env[np.ndarray, int]):
    """Reward 1 a step; episodes of ten steps, or without end.

    Attributes:
        number: how many were made before it; the first is the one that is trained on.
        steps: so far, in all episodes.
    """

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)
    made = 0
    ends = True
    script: Callable[[Scripted], None] = staticmethod(lambda env: None)

    def __init__(self, render_mode: str | None = None) -> None:
        self.number, self.steps = Scripted.made, 0
        Scripted.made += 1

    @property
    def is_evaluated(self) -> bool:
        """Whether it is one of those that evaluations make."""
        return self.number > 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        Scripted.script(self)
        obs = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return obs, 1.0, Scripted.ends and self.steps % 10 == 0, False, {}


@contextmanager
def scripted(script: Callable[[Scripted], None], ends: bool = True) -> Iterator[None]:
    """Register the environment, with what it does at every step."""
    gymnasium.register(NAME, entry_point=Scripted)
    Scripted.made, Scripted.ends, Scripted.script = 0, ends, staticmethod(script)
    try:
        yield
    finally:
        del gymnasium.registry[NAME]
