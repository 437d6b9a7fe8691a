"""What every environment registered here keeps, alone and as a vector."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env, data_equivalence

from semigradient import envs
from semigradient.envs.adapters import CoreEnv, CoreVector
from semigradient.envs.core import Core
from semigradient.errors import UserError
from semigradient.training import checkpoint
from support.smallest import ENV_OPTIONS, env_cases, filled

STEPS = 25
# What the checkers advise, and not what they demand.
ADVICE = "ignore:.*(bound|symmetric|normalized|infinity|minimal resolution).*"

pytestmark = pytest.mark.filterwarnings(ADVICE)
each_environment = pytest.mark.parametrize("case", env_cases(), ids=lambda case: case[0][13:])
each_core = pytest.mark.parametrize(
    "case", [case for case in env_cases() if case[0] in envs.OURS], ids=lambda case: case[0][13:]
)
Case = tuple[str, dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scores")


def single(case: Case, folder: Path, **more: Any) -> Any:
    env_id, options = case
    with extras():
        return gymnasium.make(env_id, **filled(options, folder), **more).unwrapped


def vector(case: Case, folder: Path, count: int, seed: int = 3) -> Any:
    env_id, options = case
    with extras():
        return envs.make_vector(env_id, count, seed, **filled(options, folder))


@contextlib.contextmanager
def extras() -> Iterator[None]:
    """Skip what needs a package of another extra."""
    try:
        yield
    except UserError as problem:
        if "is not installed" in str(problem):
            pytest.skip(str(problem))
        raise


MUJOCO_DRAWS = {"semigradient/Ant-v0", "semigradient/HalfCheetah-v0"}
"""Environments whose pictures are MuJoCo's own, and need a graphics library of the system."""


@each_environment
def test_gymnasium_s_checker_passes(case: Case, folder: Path) -> None:
    draws = case[0] not in MUJOCO_DRAWS
    env = single(case, folder, render_mode="rgb_array" if draws else None)
    check_env(env, skip_render_check=not draws)
    env.reset(seed=0)
    if not draws:
        return
    frame = env.render()
    assert (frame.dtype, frame.ndim, frame.shape[2]) == (np.uint8, 3, 3)
    assert max(frame.shape) >= 256


@each_core
def test_a_vector_of_one_is_the_single_environment(case: Case, folder: Path) -> None:
    alone, many = single(case, folder), vector(case, folder, 1)
    assert isinstance(alone, CoreEnv)
    assert alone.observation_space == many.single_observation_space
    assert alone.action_space == many.single_action_space
    alone.reset(seed=0)
    many.reset()
    many.action_space.seed(0)
    for _ in range(STEPS):
        actions = many.action_space.sample()
        alone.state = copy.deepcopy(many.state)
        alone.generator.set_state(many.generator.get_state())
        obs, reward, terminated, truncated, info = alone.step(actions[0])
        shown, *rest, infos = many.step(actions)
        over = terminated or truncated
        last, facts = (infos["final_obs"], infos["final_info"]) if over else (shown, infos)
        np.testing.assert_array_equal(obs, last[0])
        assert [reward, terminated, truncated] == [value[0] for value in rest]
        for key, value in info.items():
            np.testing.assert_array_equal(np.asarray(value, facts[key].dtype), facts[key][0])


@each_core
def test_environments_of_a_vector_do_not_touch_each_other(case: Case, folder: Path) -> None:
    many = vector(case, folder, 3)
    assert isinstance(many, CoreVector)
    core: Core = many.core
    many.reset()
    many.action_space.seed(0)
    for _ in range(STEPS):
        state, actions = many.state, torch.as_tensor(many.action_space.sample())
        together = [core.step(state, actions, torch.Generator().manual_seed(k)) for k in (0, 1)]
        if not same_steps(core, *together):
            return  # chance decides, and it is drawn for all at once
        for row in range(3):
            one = type(state)(*(value[row : row + 1] for value in state))
            apart = core.step(one, actions[row : row + 1], torch.Generator().manual_seed(0))
            assert same_steps(core, apart, rows(together[0], row))
        many.step(actions.numpy())


def rows(step: Any, row: int) -> Any:
    """One row of what a core returned."""
    state, *rest = step
    one = type(state)(*(value[row : row + 1] for value in state))
    return type(step)(one, *(value[row : row + 1] for value in rest))


def same_steps(core: Core, one: Any, other: Any) -> bool:
    pairs = zip((core.observe(one.state), *one[1:]), (core.observe(other.state), *other[1:]))  # noqa: B905
    return all(torch.allclose(a.double(), b.double(), atol=1e-6) for a, b in pairs)


@each_environment
@pytest.mark.parametrize("count", [1, 3])
def test_a_vector_resumes_in_mid_episode_through_a_file(
    case: Case, count: int, folder: Path, tmp_path: Path
) -> None:
    many = vector(case, folder, count)
    many.reset()
    many.action_space.seed(0)
    for _ in range(STEPS // 3):
        many.step(many.action_space.sample())
    checkpoint.save(tmp_path, 0, {"envs": many.state_dict()}, {})
    other = vector(case, folder, count, seed=9)
    other.reset()
    assert other.load_state_dict(checkpoint.load(tmp_path, {}).state["envs"]) is True
    for _ in range(STEPS):
        actions = many.action_space.sample()
        ours = copy.deepcopy(list(many.step(actions)))
        assert data_equivalence(ours, list(other.step(actions)), exact=True)


@each_core
def test_the_same_seed_gives_the_same_episodes(case: Case, folder: Path) -> None:
    runs = []
    for _ in range(2):
        many = vector(case, folder, 2)
        many.action_space.seed(0)
        run = [list(many.reset(seed=4))]
        run += [copy.deepcopy(list(many.step(many.action_space.sample()))) for _ in range(STEPS)]
        runs.append(run)
        assert all(many.observation_space.contains(step[0]) for step in run)
    assert data_equivalence(*runs, exact=True)


GAMES = [env_id for env_id in envs.OURS if "envs.games." in envs.OURS[env_id]]


@pytest.mark.parametrize("env_id", GAMES)
def test_pettingzoo_s_checkers_pass(env_id: str) -> None:
    from pettingzoo.test import parallel_api_test, parallel_seed_test

    parallel_api_test(envs.make_parallel(env_id), num_cycles=200)
    parallel_seed_test(lambda: envs.make_parallel(env_id), num_cycles=50)


def test_only_games_are_parallel() -> None:
    for env_id in envs.OURS.keys() - set(GAMES):
        for options in ENV_OPTIONS.get(env_id, [{}])[:1]:
            if "source" not in options:
                with pytest.raises(UserError, match="is no game of two players"):
                    envs.make_parallel(env_id, **options)


def test_the_table_of_options_names_registered_environments() -> None:
    assert set(ENV_OPTIONS) <= {env_id for env_id, _ in env_cases()}
