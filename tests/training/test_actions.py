"""Real-valued actions of a policy in units of the environment's box."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from semigradient.training.action_box import BoxScale
from semigradient.training.build import build
from semigradient.training.command import make_command
from support.spaces import registered

INF = np.inf


@pytest.mark.parametrize(
    ("low", "high", "actions", "scaled"),
    [
        ([-1, -1], [1, 1], [[0.3, -2.0]], [[0.3, -1.0]]),
        ([500, 500], [600, 600], [[0.0, 0.5]], [[550.0, 575.0]]),
        ([0, -10], [1, 10], [[-1.0, 0.2]], [[0.0, 2.0]]),
        ([0, -INF], [2, INF], [[0.5, 7.0]], [[1.5, 7.0]]),
        ([0, -INF], [INF, 3], [[-0.5, 7.0]], [[0.0, 3.0]]),
        ([-3.4e38, 4], [3.4e38, 4], [[2.0, 9.0]], [[2.0, 4.0]]),
    ],
)
def test_each_dimension_has_its_own_interval(
    low: list[float], high: list[float], actions: Any, scaled: Any
) -> None:
    box = spaces.Box(np.array(low, np.float32), np.array(high, np.float32))
    result = BoxScale(box)(np.array(actions, np.float32))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, scaled, rtol=1e-6)


def test_a_unit_box_is_left_alone_to_the_last_bit() -> None:
    actions = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    scale = BoxScale(spaces.Box(-1, 1, (3,), np.float32))
    assert scale.is_unit
    np.testing.assert_array_equal(scale(actions), np.clip(actions, -1, 1))


class Target(gymnasium.Env):
    """One step; reward: minus the squared distance from a target, in half ranges of its box."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, low: float, high: float) -> None:
        self.action_space = spaces.Box(low, high, (2,), np.float32)
        self.half = (high - low) / 2
        self.target = low + np.array([0.3, 0.8]) * (high - low)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> Any:
        error = (action - self.target) / self.half
        return np.zeros(1, np.float32), -float(np.square(error).sum()), True, False, {}


@pytest.mark.parametrize(("agent", "settings"), [("ppo", {"batch_size": 32}), ("reinforce", {})])
def test_what_is_learned_does_not_depend_on_the_units(agent: str, settings: Any) -> None:
    """The same numbers in [500, 600] as in [-1, 1], up to rounding."""
    outputs = []
    for low, high in ((-1.0, 1.0), (500.0, 600.0)):
        with registered("test/Target-v0", Target, low=low, high=high):
            steps = {} if agent == "reinforce" else {"rollout_steps": 8}
            options = {
                "steps": 4000,
                "num_envs": 8,
                "preset": "none",
                "hidden": (8,),
                **steps,
                **settings,
            }
            made: Any = build(make_command(agent, "test/Target-v0", **options))
            for _ in range(20):
                made.iterate()
            action = made.policy(True)(np.zeros((1, 1), np.float32))
            outputs.append((action - (low + high) / 2) / ((high - low) / 2))
            assert torch.isfinite(torch.from_numpy(action)).all()
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-3)
    assert np.abs(outputs[0]).max() > 0.01  # it moved
