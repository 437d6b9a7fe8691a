"""Classic control without velocities: Gymnasium's bit for bit, and with something missing."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence

from semigradient import envs
from semigradient.envs.classic import ClassicVector
from semigradient.envs.sync import SyncVector
from semigradient.errors import UserError

POSITIONS = {"CartPole": [0, 2], "Pendulum": [0, 1], "Acrobot": [0, 1, 2, 3], "MountainCar": [0]}
"""Numbers of Gymnasium's observations that are positions, by its documentation."""

OPTIONS: dict[str, dict[str, Any]] = {
    "CartPole": {"sutton_barto_reward": True},
    "Pendulum": {"g": 9.0},
    "Acrobot": {"max_episode_steps": 60},
    "MountainCar": {"goal_velocity": 0.03},
}
each_id = pytest.mark.parametrize("env_id", envs.POSITION_ONLY)


def short(env_id: str) -> str:
    return env_id.removeprefix("semigradient/PositionOnly").removesuffix("-v0")


@each_id
@pytest.mark.parametrize("changed", [False, True])
def test_all_but_the_observation_is_gymnasium_s(env_id: str, changed: bool) -> None:
    options = OPTIONS[short(env_id)] if changed else {}
    ours = gymnasium.make(env_id, **options)
    theirs = gymnasium.make(envs.POSITION_ONLY[env_id], **options)
    columns = POSITIONS[short(env_id)]
    whole, space = theirs.observation_space, ours.observation_space
    assert ours.action_space == theirs.action_space
    np.testing.assert_array_equal(space.low, whole.low[columns])  # type: ignore[attr-defined]
    np.testing.assert_array_equal(space.high, whole.high[columns])  # type: ignore[attr-defined]
    ours.action_space.seed(0)
    for seed in range(5):
        seen, whole = ours.reset(seed=seed)[0], theirs.reset(seed=seed)[0]
        for _ in range(1000):
            assert seen in space
            np.testing.assert_array_equal(seen, whole[columns])
            action = ours.action_space.sample()
            seen, *mine = ours.step(action)
            whole, *other = theirs.step(action)
            assert mine == other
            np.testing.assert_array_equal(ours.unwrapped.state, theirs.unwrapped.state)  # type: ignore[attr-defined]
            if mine[1] or mine[2]:
                break
        assert mine[1] or mine[2]
    assert ours.spec is not None
    assert theirs.spec is not None
    assert ours.spec.max_episode_steps == theirs.spec.max_episode_steps


@each_id
@pytest.mark.parametrize("count", [1, 3])
def test_the_vector_is_one_array_and_equals_copies(env_id: str, count: int) -> None:
    ours = envs.make_vector(env_id, count, 5)
    assert isinstance(ours, ClassicVector)
    theirs = SyncVector(envs.check_id(env_id), count, 5)
    assert ours.single_observation_space == theirs.single_observation_space
    assert data_equivalence(ours.reset(), theirs.reset(), exact=True)
    ours.action_space.seed(1)
    ends = 0
    for _ in range(550):
        actions = ours.action_space.sample()
        step, copies = ours.step(actions), theirs.step(actions)
        assert data_equivalence(list(step), list(copies), exact=True)
        assert step[0].flags.c_contiguous
        ends += int((step[2] | step[3]).sum())
    assert ends > 0


@each_id
def test_states_that_differ_in_velocities_alone_look_the_same(env_id: str) -> None:
    """No function of the present observation can tell them apart, and they move apart."""
    many: Any = envs.make_vector(env_id, 2, 0)
    rules = many.episodes.rules
    positions = rules.draw(np.random.default_rng(0), 100)
    half = len(positions) // 2
    hidden = slice(1, None, 2) if short(env_id) == "CartPole" else slice(half, None)
    positions = positions / 2  # far from where an episode ends or a car stops
    one, other = positions.copy(), positions.copy()
    other[hidden] *= -1
    assert (one != other).any(0).all()
    np.testing.assert_array_equal(rules.observe(one), rules.observe(other))
    space = many.single_action_space
    actions = np.ones((100, *space.shape), space.dtype)
    rules.step(one, actions)
    rules.step(other, actions)
    assert (rules.observe(one) != rules.observe(other)).any(1).all()


def test_a_step_shows_no_velocity_of_the_cart_pole() -> None:
    """Through `gymnasium.make`: whatever the velocities, all of these arrive at position 0."""
    env: Any = gymnasium.make("semigradient/PositionOnlyCartPole-v0")
    core, seen, later = env.unwrapped, [], []
    for speed, spin in ((0.5, -1.0), (-0.25, 0.75), (2.0, 0.0)):
        env.reset(seed=0)
        core.state = np.array([-core.tau * speed, speed, -core.tau * spin, spin])
        seen.append(env.step(0)[0])
        later.append(env.step(0)[0])
    np.testing.assert_array_equal(seen, np.zeros((3, 2)))
    assert len({tuple(obs) for obs in later}) == 3


def test_one_remembered_observation_balances_the_pole() -> None:
    """The controller that knows velocities also works on differences; without them it falls."""

    def lengths(memory: float) -> np.ndarray:
        many = envs.make_vector("semigradient/PositionOnlyCartPole-v0", 20, 0)
        before, _ = many.reset()
        obs, ages, done = before, np.zeros(20), np.zeros(20, bool)
        while not done.all():
            rates = memory * (obs - before) / 0.02
            actions = obs[:, 1] + rates @ [0.5, 1] > 0
            before = obs
            obs, _, terminated, truncated, _ = many.step(actions.astype(np.int64))
            ages += ~done
            done |= terminated | truncated
        return ages

    assert (lengths(1.0) == 500).all()
    assert lengths(0.0).max() < 100


@each_id
def test_it_is_drawn_as_gymnasium_s(env_id: str) -> None:
    frames = []
    for name in (env_id, envs.POSITION_ONLY[env_id]):
        env = gymnasium.make(name, render_mode="rgb_array")
        env.reset(seed=3)
        frames.append(env.render())
        env.close()
    np.testing.assert_array_equal(*frames)
    many = envs.make_vector(env_id, 2, 0, render=True)
    many.reset()
    assert len(many.frames()) == 2
    many.close()


def test_only_gymnasium_s_options_are_taken() -> None:
    with pytest.raises(UserError, match="'base'"):
        envs.make_vector("semigradient/PositionOnlyCartPole-v0", 1, 0, base="Acrobot-v1")
