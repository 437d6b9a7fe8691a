"""Gymnasium's classic control on one array: bit for bit what copies of its environments give."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.utils.env_checker import data_equivalence

from semigradient.envs import ExactVector, check_id, make_vector
from semigradient.envs.classic import ClassicVector
from semigradient.envs.control import gymnasium_classic
from semigradient.envs.failures import EnvironmentFailureError
from semigradient.envs.sync import SyncVector
from semigradient.errors import UserError
from semigradient.training import checkpoint

CASES: list[tuple[str, dict[str, Any]]] = [
    ("CartPole-v0", {}),
    ("CartPole-v1", {}),
    ("CartPole-v1", {"sutton_barto_reward": True}),
    ("CartPole-v1", {"max_episode_steps": 12}),
    ("MountainCar-v0", {}),
    ("MountainCar-v0", {"goal_velocity": 0.03}),
    ("MountainCarContinuous-v0", {"max_episode_steps": 150}),
    ("MountainCarContinuous-v0", {"goal_velocity": 0.03}),
    ("Acrobot-v1", {"max_episode_steps": 100}),
    ("Pendulum-v1", {}),
    ("Pendulum-v1", {"g": 9}),
]
each_case = pytest.mark.parametrize(("env_id", "options"), CASES)


def pair(env_id: str, count: int, options: dict[str, Any]) -> tuple[ClassicVector, SyncVector]:
    ours = make_vector(env_id, count, 5, **options)
    assert isinstance(ours, ClassicVector)
    return ours, SyncVector(check_id(env_id), count, 5, **options)


def draw(envs: ExactVector, steps: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Actions (B, *action): drawn, also out of bounds, and later such that swing up or balance."""
    rng, space = np.random.default_rng(seed), envs.single_action_space
    for step in range(steps):
        if isinstance(space, spaces.Discrete):
            drawn: Any = rng.integers(space.n, size=envs.num_envs)
        else:
            drawn = rng.uniform(1.5 * space.low, 1.5 * space.high, (envs.num_envs, 1))
        is_free = rng.random(drawn.shape) < (0.05 if step > steps // 3 else 1.0)
        yield np.where(is_free, drawn, good(envs).reshape(drawn.shape))


def good(envs: ExactVector) -> np.ndarray:
    """Actions (B,) with which episodes are long, or reach their goal."""
    obs = envs.last_obs
    if "CartPole" in envs.protocol["env"]:
        return (obs @ [0, 0.5, 1, 1] > 0).astype(int)
    pushes = 2 * (obs[:, -1] > 0)
    return pushes if isinstance(envs.single_action_space, spaces.Discrete) else 1.1 * (pushes - 1)


def same(ours: Any, theirs: Any) -> None:
    assert data_equivalence(list(ours), list(theirs), exact=True)


@each_case
def test_the_rules_are_gymnasium_s(env_id: str, options: dict[str, Any]) -> None:
    """Against `gymnasium.make`, with no code of ours in between."""
    envs = make_vector(env_id, 3, 1, **options)
    assert isinstance(envs, ClassicVector)
    plain = [gymnasium.make(env_id, **options) for _ in range(3)]
    obs, _ = envs.reset()
    resets = [0, 0, 0]

    def fresh(index: int) -> Any:
        resets[index] += 1
        return plain[index].reset(seed=envs.seed_of(index, resets[index] - 1))[0]

    np.testing.assert_array_equal(obs, [fresh(index) for index in range(3)])
    for actions in draw(envs, 4000):
        obs, reward, terminated, truncated, infos = envs.step(actions)
        for index, env in enumerate(plain):
            action = actions[index] if actions.ndim == 1 else np.float32(actions[index])
            seen, *rest, _ = env.step(action)
            assert rest == [reward[index], terminated[index], truncated[index]]
            assert seen.dtype == obs.dtype
            if terminated[index] or truncated[index]:
                np.testing.assert_array_equal(infos["final_obs"][index], seen)
                seen = fresh(index)
            np.testing.assert_array_equal(obs[index], seen)
    np.testing.assert_array_equal(envs.resets, resets)


@each_case
@pytest.mark.parametrize("count", [1, 3, 8])
def test_it_is_the_vector_of_copies(env_id: str, options: dict[str, Any], count: int) -> None:
    ours, theirs = pair(env_id, count, options)
    for name in ("single_observation_space", "single_action_space", "observation_space"):
        assert getattr(ours, name) == getattr(theirs, name)
    for name in ("action_space", "metadata", "protocol", "spec", "render_mode", "is_repeatable"):
        assert getattr(ours, name) == getattr(theirs, name)
    same(ours.reset(), theirs.reset())
    ends = np.zeros(2)
    for actions in draw(ours, 6000 // count):
        step = ours.step(actions)
        same(step, theirs.step(actions))
        assert step[0].flags.c_contiguous
        np.testing.assert_array_equal(ours.last_obs, theirs.last_obs)
        ends += step[2].sum(), step[3].sum()
    assert ends[0] > 2 or "Pendulum" in env_id or "12" in str(options)
    assert ends[1] > 2 or "Continuous" in env_id
    np.testing.assert_array_equal(ours.resets, theirs.resets)
    same(ours.reset(), theirs.reset())
    same(ours.reset(seed=8), theirs.reset(seed=8))
    assert ours.seed == theirs.seed == 8


@each_case
@pytest.mark.parametrize("kind", [ClassicVector, SyncVector])
def test_a_saved_state_goes_on(
    env_id: str, options: dict[str, Any], kind: type, tmp_path: Any
) -> None:
    """Also that of the copies, as runs of earlier versions have it, and that of a first step."""
    saved, ours = (
        next(envs for envs in pair(env_id, 3, options) if isinstance(envs, made))
        for made in (kind, ClassicVector)
    )
    saved.reset()
    ours.reset(seed=99)
    actions = draw(saved, 700)
    for stop in (1, 172, 200):
        for chosen in itertools.islice(actions, stop):
            saved.step(chosen)
        checkpoint.save(tmp_path, stop, {"envs": saved.state_dict()}, {})
        arrays = ours.episodes.state, ours.episodes.ages
        assert ours.load_state_dict(checkpoint.load(tmp_path, {}).state["envs"]) is True
        assert arrays[0] is ours.episodes.state
        assert arrays[1] is ours.episodes.ages
        np.testing.assert_array_equal(ours.last_obs, saved.last_obs)
        assert ours.seed == 5
    for chosen in actions:
        same(ours.step(chosen), saved.step(chosen))
    np.testing.assert_array_equal(ours.resets, saved.resets)


def test_what_cannot_be_resumed_starts_afresh() -> None:
    ours, theirs = pair("CartPole-v1", 3, {})
    ours.reset()
    theirs.reset()
    state = theirs.state_dict()
    state["last_obs"] += 1
    assert ours.load_state_dict(state) is False
    np.testing.assert_array_equal(ours.episodes.ages, 0)
    np.testing.assert_array_equal(ours.resets, 2)
    # The other way round: copies cannot be put into a state.
    assert theirs.load_state_dict(ours.state_dict()) is False
    np.testing.assert_array_equal(theirs.resets, 3)
    wider = make_vector("CartPole-v1", 1, 5)
    wider.reset()
    state = ours.state_dict() | {"state": wider.state_dict()["state"]}
    assert ours.load_state_dict(state) is False


@each_case
def test_wrong_actions_are_refused_in_the_same_words(env_id: str, options: dict[str, Any]) -> None:
    ours, theirs = pair(env_id, 2, options)
    ours.reset()
    theirs.reset()
    before = copy.deepcopy(ours.state_dict())
    for wrong in ([0], [[0.0], [np.nan]], [0, 7], [-1, 0], [0.5, 0.5], [None, 1], [[9], [np.inf]]):
        words = []
        for envs in (ours, theirs):
            with pytest.raises(UserError) as problem:
                envs.step(np.array(wrong))
            words.append(str(problem.value))
        assert words[0] == words[1]
    same(before.items(), ours.state_dict().items())


def test_an_infinite_force_fails_in_the_same_words() -> None:
    ours, theirs = pair("MountainCarContinuous-v0", 3, {})
    actions, words = np.array([[0.0], [-1e300], [1e300]]), []
    for envs in (ours, theirs):
        envs.reset()
        with np.errstate(over="ignore"), pytest.raises(EnvironmentFailureError) as problem:
            envs.step(actions)
        words.append(str(problem.value))
    assert words[0] == words[1]
    assert "non-finite reward -inf (environment 1 of 3" in words[0]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("env_id", ["CartPole-v1", "MountainCar-v0", "Acrobot-v1"])
def test_small_integers_are_actions_too(env_id: str, count: int) -> None:
    ours, theirs = pair(env_id, count, {})
    same(ours.reset(), theirs.reset())
    for kind in (np.uint8, np.int8, np.int32):
        for number in (0, 1):
            actions = np.full(count, number, kind)
            same(ours.step(actions), theirs.step(actions))


@pytest.fixture
def register() -> Iterator[Any]:
    added: list[str] = []

    def add(**points: Any) -> str:
        added.append(f"test/Classic{len(added)}-v0")
        gymnasium.register(added[-1], **points)
        return added[-1]

    yield add
    for env_id in added:
        gymnasium.registry.pop(env_id)


class Slower(CartPoleEnv):
    """An environment of somebody else's."""


def test_everything_else_is_stepped_as_copies(register: Any) -> None:
    point = "gymnasium.envs.classic_control.cartpole:CartPoleEnv"
    flattened = gymnasium.wrappers.FlattenObservation(gymnasium.make("CartPole-v1")).spec
    assert flattened is not None
    cases: list[tuple[str, dict[str, Any]]] = [
        (register(entry_point=Slower), {}),
        (register(entry_point=point, additional_wrappers=flattened.additional_wrappers), {}),
        (register(entry_point=point, kwargs={"render_mode": "rgb_array"}), {}),
        ("CartPole-v1", {"render": True}),
        ("CartPole-v1", {"sutton_barto_reward": "yes"}),
        ("MountainCarContinuous-v0", {"goal_velocity": 0.07}),
        ("Pendulum-v1", {"g": np.float32(9)}),
        ("Pendulum-v1", {"g": np.inf}),
    ]
    for env_id, options in cases:
        envs = make_vector(env_id, 2, 0, **options)
        assert type(envs) is SyncVector
        envs.close()
    assert isinstance(make_vector(register(entry_point=point), 2, 0), ClassicVector)
    with pytest.raises(UserError, match="sutton"):
        make_vector("CartPole-v1", 2, 0, sutton_reward=True)
    with pytest.raises(UserError, match="max_episode_steps"):
        make_vector("CartPole-v1", 2, 0, max_episode_steps=0)


def test_frames_need_render() -> None:
    envs = make_vector("CartPole-v1", 2, 0)
    envs.reset()
    with pytest.raises(UserError, match="render=True"):
        envs.frames()


@pytest.mark.parametrize("what", ["step", "reward", "end", "state", "precision"])
def test_a_gymnasium_with_other_rules_is_noticed(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = CartPoleEnv.step

    def step(self: Any, action: Any) -> Any:
        if what == "state":
            self.position = self.__dict__.pop("state")
        obs, reward, terminated, truncated, info = right(self, action)
        if what == "step":
            obs[0] = np.nextafter(obs[0], np.float32(9))
        reward += what == "reward"
        if what == "precision":
            self.state[3] = np.nextafter(self.state[3], 0)
        return obs, reward, terminated != (what == "end"), truncated, info

    monkeypatch.setattr(CartPoleEnv, "step", step)
    gymnasium_classic.agrees.cache_clear()
    try:
        assert type(make_vector("CartPole-v1", 2, 0)) is SyncVector
    finally:
        gymnasium_classic.agrees.cache_clear()
