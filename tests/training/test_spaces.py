"""Every space that agents claim: training, continuing bit for bit, evaluation, a loaded policy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import semigradient
from semigradient.errors import UserError
from semigradient.training import checkpoint, parts
from semigradient.training.agent import Agent
from semigradient.training.build import build
from semigradient.training.command import make_command
from support.spaces import Spaced
from support.states import differences

NAME = "test/Spaced-v0"
VECTOR = spaces.Box(-1, 1, (2,), np.float32)
_VALUES: dict[str, Any] = {"learning_starts": 8, "buffer_size": 64, "batch_size": 4}
QUICK: dict[str, Any] = {"steps": 100, "preset": "none", "hidden": (8,), "threads": 1}
SMALLEST: dict[str, dict[str, Any]] = {
    "dqn": {**_VALUES, "train_every": 4, "target_update_every": 8, "num_envs": 2},
    "soft-q": {**_VALUES, "train_every": 4, "num_envs": 2},
    "sac-discrete": {**_VALUES, "train_every": 4, "num_envs": 2},
    "pcl": {**_VALUES, "path_length": 3, "num_envs": 2},
    "ppo": {"rollout_steps": 4, "batch_size": 4, "epochs": 1, "num_envs": 2},
    "a2c": {"rollout_steps": 4, "num_envs": 2},
    "reinforce": {"num_envs": 2},
}
CHOICES = spaces.Discrete(3, start=-1)
OBSERVATIONS = {
    "number": spaces.Box(-1, 1, (), np.float32),
    "discrete": spaces.Discrete(4, start=2),
    "multidiscrete": spaces.MultiDiscrete([[2, 3], [2, 2]]),
    "multibinary": spaces.MultiBinary([2, 2]),
    "tuple": spaces.Tuple([spaces.Discrete(3), VECTOR]),
    "dict": spaces.Dict({"a": VECTOR, "b": spaces.Dict({"c": spaces.MultiBinary(2)})}),
    "picture in a dict": spaces.Dict(
        {"see": spaces.Box(0, 255, (7, 7, 3), np.uint8), "way": spaces.Discrete(4)}
    ),
    "grid": spaces.Box(0, 10, (7, 7, 3), np.uint8),
    "small picture": spaces.Box(0, 255, (15, 15, 1), np.uint8),
    "grey": spaces.Box(0, 255, (14, 16), np.uint8),
    "reals": spaces.Box(0, 1, (13, 13, 3), np.float32),
}
ACTIONS: dict[str, tuple[spaces.Space, list[str]]] = {
    "start": (CHOICES, list(SMALLEST)),
    "multidiscrete": (spaces.MultiDiscrete([[2, 3]], start=[[1, 0]]), ["dqn", "ppo", "reinforce"]),
    "multibinary": (spaces.MultiBinary(3), ["dqn", "ppo", "a2c", "reinforce"]),
    "box": (spaces.Box(-2, 5, (2, 1), np.float64), ["ppo", "a2c", "reinforce"]),
    "whole": (spaces.Box(0, 10, (2,), np.int32), ["ppo", "reinforce"]),
    "scalar": (spaces.Box(0, 1, (), np.float32), ["ppo", "a2c"]),
    "dict": (spaces.Dict({"a": CHOICES, "b": spaces.MultiBinary(1)}), ["dqn", "ppo"]),
}
_OTHERS = {"dict": ["ppo", "sac-discrete", "pcl", "reinforce"], "grid": ["ppo"]}
OF_OBSERVATIONS = [
    (space, CHOICES, agent)
    for name, space in OBSERVATIONS.items()
    for agent in ("dqn", *_OTHERS.get(name, []))
]
OF_ACTIONS = [(VECTOR, space, agent) for space, agents in ACTIONS.values() for agent in agents]


@pytest.fixture
def _spaces(request: pytest.FixtureRequest) -> Iterator[None]:
    """The id of an environment of the case's two spaces."""
    observation, action, _ = request.getfixturevalue("case")
    kwargs = {"observation": observation, "action": action}
    gymnasium.register(NAME, entry_point=Spaced, kwargs=kwargs)
    yield
    del gymnasium.registry[NAME]


def _iterate(agent: Agent) -> list[float]:
    return [float(value) for _ in range(6) for value in agent.iterate().values()]


@pytest.mark.usefixtures("_spaces")
@pytest.mark.parametrize("case", [*OF_OBSERVATIONS, *OF_ACTIONS])
def test_each_space_trains_and_continues_bit_for_bit(case: Any, tmp_path: Path) -> None:
    name = case[2]
    command = make_command(name, NAME, **QUICK, **SMALLEST[name])
    agent = build(command)
    _iterate(agent)
    checkpoint.save(tmp_path / "run", 0, {"agent": parts.state(agent)}, {})
    policy = {"policy": parts.policy_state(agent)}
    checkpoint.save(tmp_path / "policy", 0, policy, {})
    other = build(command)
    parts.load(other, checkpoint.load(tmp_path / "run", {}).state["agent"])
    assert other.progress.exact
    assert _iterate(agent) == pytest.approx(_iterate(other), rel=0, abs=0, nan_ok=True)
    assert differences(parts.state(agent), parts.state(other)) == []


@pytest.mark.usefixtures("_spaces")
@pytest.mark.parametrize(
    "case",
    [
        (OBSERVATIONS["tuple"], ACTIONS["box"][0], "ppo"),
        (OBSERVATIONS["picture in a dict"], ACTIONS["multidiscrete"][0], "dqn"),
    ],
)
def test_a_run_is_evaluated_loaded_and_acts(case: Any, tmp_path: Path) -> None:
    settings = {"steps": 16, "eval_episodes": 2, "eval_every": 8, "run_dir": str(tmp_path / "run")}
    name = case[2]
    semigradient.train(name, NAME, **{**QUICK, **settings}, **SMALLEST[name])
    run = semigradient.load(tmp_path / "run")
    envs = run.env(num_envs=3)
    obs, _ = envs.reset()
    actions = run.policy(obs)
    assert envs.action_space.contains(actions)
    np.testing.assert_allclose(run.policy(obs[1]), actions[1], rtol=1e-5)
    envs.step(actions)
    assert run.evaluate(episodes=2).lengths.tolist() == [5, 5]
    env = gymnasium.make(NAME, disable_env_checker=True)
    own, _ = env.reset(seed=envs.seed_of(0, 0))
    action = run.act(own)
    assert env.action_space.contains(action)
    np.testing.assert_equal(action, envs.forms[1](actions[0]))  # as the vector's first one acted
    with pytest.raises(UserError, match="an observation"):
        run.act({"no": "key"})


@pytest.mark.usefixtures("_spaces")
@pytest.mark.parametrize(
    "case",
    [
        (VECTOR, VECTOR, "dqn"),
        (VECTOR, VECTOR, "sac-discrete"),
        (VECTOR, spaces.MultiDiscrete([2, 3]), "sac-discrete"),
        (VECTOR, spaces.MultiBinary(2), "pcl"),
    ],
)
def test_other_spaces_are_refused_in_a_line(case: Any) -> None:
    name = case[2]
    with pytest.raises(UserError, match="action space") as caught:
        build(make_command(name, NAME, preset="none", **SMALLEST[name]))
    assert "\n" not in str(caught.value)
