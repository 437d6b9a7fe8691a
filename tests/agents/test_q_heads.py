"""Rows of action values: one choice or several, of which masks say what is legal."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from semigradient.agents.q_heads import SideBySide, q_head
from semigradient.training.build import build
from semigradient.training.command import make_command
from support.spaces import registered

Q = torch.tensor([[1.0, 2.0, 5.0, 4.0, 3.0], [2.0, 1.0, 0.0, 0.0, 9.0]])
LEGAL = torch.tensor([[True, False, False, True, True], [True, True, True, True, False]])


def test_each_choice_is_among_its_own_legal_actions() -> None:
    head = SideBySide([2, 3])
    assert head.greedy(Q).tolist() == [[1, 0], [0, 2]]
    assert head.greedy(Q, LEGAL).tolist() == [[0, 1], [0, 0]]
    other = 10 * torch.arange(10.0).view(2, 5)
    assert head.bootstrap(Q, other).tolist() == [[10, 20], [50, 90]]
    assert head.bootstrap(Q, other, LEGAL).tolist() == [[0, 30], [50, 70]]


def test_exploring_draws_every_legal_action_and_no_other() -> None:
    head, rng = SideBySide([2, 3]), np.random.default_rng(0)
    drawn = np.stack([head.uniform(rng, 2, LEGAL.numpy()) for _ in range(200)])
    assert {tuple(row) for row in drawn[:, 0].tolist()} == {(0, 1), (0, 2)}
    assert {tuple(row) for row in drawn[:, 1].tolist()} == {
        (first, second) for first in (0, 1) for second in (0, 1)
    }
    assert drawn[:, 1, 0].mean() == pytest.approx(0.5, abs=0.1)


def test_zeros_and_ones_are_choices_between_two() -> None:
    head = q_head(spaces.MultiBinary(3))
    assert (head.outputs, head.choices, head.is_single) == (6, 3, False)
    action = torch.tensor([[1, 0, 1]], dtype=torch.int8)
    assert head.values(torch.arange(6.0)[None], action).tolist() == [[1, 2, 5]]


class Parted(gymnasium.Env):
    """Two choices, of whose actions one is forbidden at each step; refuses what is."""

    observation_space = spaces.Box(0, 9, (1,), np.float32)
    action_space = spaces.MultiDiscrete([2, 3], start=[1, 0])

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return self._see()

    def step(self, action: np.ndarray) -> Any:
        first, second = self._masks()
        assert first[action[0] - 1], action
        assert second[action[1]], action
        self.time += 1
        obs, info = self._see()
        return obs, float(action.sum()), self.time == 6, False, info

    def _masks(self) -> tuple[np.ndarray, np.ndarray]:
        return np.arange(2) != self.time % 3, np.arange(3) != self.time % 3

    def _see(self) -> Any:
        return np.array([self.time], np.float32), {"action_mask": self._masks()}


@pytest.mark.parametrize(
    ("agent", "settings"),
    [
        ("dqn", {"learning_starts": 20, "batch_size": 8, "epsilon_fraction": 0.3}),
        ("ppo", {"rollout_steps": 8, "batch_size": 8, "epochs": 1}),
        ("a2c", {}),
        ("reinforce", {}),
    ],
)
def test_no_agent_takes_what_is_forbidden(agent: str, settings: Any) -> None:
    options = {"preset": "none", "hidden": (8,), "num_envs": 2, "steps": 200, **settings}
    with registered("test/Parted-v0", Parted):
        made: Any = build(make_command(agent, "test/Parted-v0", **options))
        while made.progress.steps < 200:
            made.iterate()
        obs, infos = made.setup.envs.reset()
        for explore in (True, False):
            act = made.policy(not explore)
            for _ in range(8):
                obs, *_, infos = made.setup.envs.step(act(obs, infos["action_mask"]))
