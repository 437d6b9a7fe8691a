"""Vectors stepped as one: every member is what it is alone."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence

from semigradient.envs import make_vector
from semigradient.envs.classic import ClassicVector
from semigradient.envs.joined import Joined
from semigradient.errors import UserError

IDS = ["CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Acrobot-v1", "Pendulum-v1"]
K = 3


def vectors(env_id: str, count: int, **options: Any) -> list[ClassicVector]:
    made = []
    for seed in range(K):
        envs = make_vector(env_id, count, seed, **options)
        assert isinstance(envs, ClassicVector)
        made.append(envs)
    return made


def draw(envs: ClassicVector, steps: int) -> np.ndarray:
    """Actions (steps, K, B, *action)."""
    envs.action_space.seed(0)
    return np.array([[envs.action_space.sample() for _ in range(K)] for _ in range(steps)])


def same(ours: Any, theirs: Any) -> None:
    assert data_equivalence(ours, theirs, exact=True)


def step_both(joined: Joined, alone: list[ClassicVector], actions: np.ndarray) -> int:
    """Step both and compare; how many episodes ended."""
    *arrays, infos = joined.step(actions)
    apart = [envs.step(row) for envs, row in zip(alone, actions, strict=True)]
    ended = [(terminated | truncated).sum() for _, _, terminated, truncated, _ in apart]
    for index, (*expected, facts) in enumerate(apart):
        same([array[index] for array in arrays], expected)
        if facts:
            same({key: value[index] for key, value in infos.items()}, facts)
        elif infos:
            assert not infos["final_obs"][index].any()
            assert not infos["_final_obs"][index].any()
        member, other = joined.members[index], alone[index]
        same(member.state_dict(), other.state_dict())
    assert bool(infos) == any(ended)
    return sum(ended)


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("count", [1, 4])
def test_members_are_as_if_stepped_alone(env_id: str, count: int) -> None:
    options = {"max_episode_steps": 60}
    alone, members = vectors(env_id, count, **options), vectors(env_id, count, **options)
    for envs in (*alone, *members):
        envs.reset()
    for chosen in draw(alone[0], 7)[:, 0]:  # one is ahead of the others
        same(alone[0].step(chosen), members[0].step(chosen))
    joined, ended = Joined(members), 0
    assert joined.shape == (K, count)
    for actions in draw(alone[0], 200):
        ended += step_both(joined, alone, actions)
    assert ended > K * count


@pytest.mark.parametrize("env_id", IDS)
def test_members_can_act_reset_and_resume_by_themselves(env_id: str) -> None:
    alone, members = vectors(env_id, 2), vectors(env_id, 2)
    joined = Joined(members)
    for envs in (*alone, *members):
        envs.reset()
    actions = draw(alone[0], 120)
    for chosen in actions[:40]:
        step_both(joined, alone, chosen)
    saved = copy.deepcopy(members[1].state_dict())
    same(members[0].step(actions[40, 0]), alone[0].step(actions[40, 0]))
    same(members[2].reset(), alone[2].reset())
    for chosen in actions[41:80]:
        step_both(joined, alone, chosen)
    for envs in (members[1], alone[1]):
        assert envs.load_state_dict(saved) is True
    for chosen in actions[80:]:
        step_both(joined, alone, chosen)
    resumed = vectors(env_id, 2)[1]
    assert resumed.load_state_dict(members[1].state_dict()) is True
    for chosen in actions[:50, 1]:
        same(resumed.step(chosen), members[1].step(chosen))


def test_a_vector_belongs_to_the_last_that_it_was_joined_in() -> None:
    alone, members = vectors("CartPole-v1", 2), vectors("CartPole-v1", 2)
    for envs in (*alone, *members):
        envs.reset()
    before, actions = Joined(members), draw(alone[0], 30)
    for chosen in actions[:10]:
        step_both(before, alone, chosen)
    after = Joined(members[1:])
    with pytest.raises(UserError, match="joined anew"):
        before.step(actions[10])
    for chosen in actions[10:, 1:]:
        step_both(after, alone[1:], chosen)


def test_what_cannot_be_joined() -> None:
    def made(env_id: str = "CartPole-v1", count: int = 2, **options: Any) -> Any:
        return make_vector(env_id, count, 0, **options)

    one = made()
    wrong = [
        ([], "at least one"),
        ([one, one], "twice"),
        ([one, made(count=3)], "num_envs=2 and .*num_envs=3"),
        ([one, made("CartPole-v0")], "CartPole-v1.*500.*CartPole-v0.*200"),
        ([one, made(sutton_barto_reward=True)], "sutton_barto_reward"),
        ([one, made(render=True)], "copies"),
    ]
    for members, words in wrong:
        with pytest.raises(UserError, match=words):
            Joined(members)
    one.reset()
    joined = Joined([one, made()])
    joined.members[1].reset()
    with pytest.raises(UserError, match=r"must have shape \(2, 2\), not \(2,\)"):
        joined.step(np.array([0, 1]))
    with pytest.raises(UserError, match="whole numbers"):
        joined.step(np.array([[0, 1], [0, 2]]))
