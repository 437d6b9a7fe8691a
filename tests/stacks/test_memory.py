"""Replay memories of runs that learn as one against those of the same runs by themselves."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import semigradient
from semigradient.errors import UserError
from semigradient.stacks.stack import Stack
from semigradient.training import parts
from semigradient.training.replay import Batch
from support.spaces import registered

SEEDS = (0, 3, 4)
SETTINGS: dict[str, Any] = {
    "learning_starts": 20,
    "batch_size": 8,
    "hidden": (8,),
    "preset": "none",
}


def agents(env: str = "CartPole-v1", **options: Any) -> list[Any]:
    return [semigradient.make_agent("dqn", env, seed=s, **SETTINGS, **options) for s in SEEDS]


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("buffer_size", [40, 1000])
def test_members_draw_from_their_own_memories_by_their_own_generators(
    buffer_size: int, n: int
) -> None:
    alone, members = (
        agents(num_envs=2, buffer_size=buffer_size, n_step=n, epsilon_end=1.0) for _ in range(2)
    )
    stack = Stack(members)
    for _ in range(60):
        stack.iterate()
        for agent in alone:
            agent.iterate()
    whole = stack._whole
    drawn = next(iter(whole.memory.samples(2, 8, whole.sampling, 0.9, n)))
    assert drawn.obs.shape == (3, 16, 4)
    for index, (agent, member) in enumerate(zip(alone, members, strict=True)):
        stack.settle(index)
        (own,) = agent.memory.samples(2, 8, agent.sampling, 0.9, n)
        for ours, theirs in zip(drawn, own, strict=True):
            assert ours is theirs is None or torch.equal(ours[index], theirs)
        ours, theirs = (parts.state(each.memory)["ring"] for each in (member, agent))
        assert ours.keys() == theirs.keys()
        for name, rows in theirs.items():
            np.testing.assert_array_equal(ours[name], rows)
        assert len(member.memory) == len(agent.memory)


def test_minibatches_of_a_stack_are_parts_of_each_run() -> None:
    rows = torch.arange(24.0).view(3, 8)
    halves = list(Batch(rows[..., None], rows, rows, rows, rows, None).split(4))
    assert [half.obs.shape for half in halves] == [(3, 4, 1)] * 2
    assert torch.equal(torch.cat([half.reward for half in halves], 1), rows)


class Parted(gymnasium.Env):
    """Two choices side by side; masks come with the second observation."""

    observation_space = spaces.Box(-9, 9, (3,), np.float32)
    action_space = spaces.MultiDiscrete([2, 3])

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return self.np_random.normal(size=3).astype(np.float32), {}

    def step(self, action: np.ndarray) -> Any:
        self.time += 1
        legal = (np.arange(2) != self.time % 3, np.arange(3) != self.time % 3)
        obs = self.np_random.normal(size=3).astype(np.float32)
        reward = float(action.sum() + obs[0])
        return obs, reward, self.time == 6, False, {"action_mask": legal}


def test_choices_side_by_side_with_masks_that_come_late() -> None:
    with registered("test/Parted-v0", Parted):
        alone, members = (agents("test/Parted-v0", num_envs=2, n_step=2) for _ in range(2))
        stack = Stack(members)
        for _ in range(60):
            stack.iterate()
            for agent in alone:
                agent.iterate()
        for index, (agent, member) in enumerate(zip(alone, members, strict=True)):
            stack.settle(index)
            ours, theirs = parts.learned(member), parts.learned(agent)
            for name, tensor in theirs.items():
                torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-4)
            fresh = agents("test/Parted-v0", num_envs=2, n_step=2)[index]
            parts.load(fresh, parts.state(member))
            legal = fresh.memory.ring.fields["next_mask"]
            assert torch.equal(legal, agent.memory.ring.fields["next_mask"])


def test_members_at_different_steps_are_refused() -> None:
    members = agents()
    members[1].iterate()
    with pytest.raises(UserError, match="seeds=3: the memories are at different steps"):
        Stack(members)
