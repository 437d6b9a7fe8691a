"""Path consistency against plain loops, an exact solution, and the sampler it must become."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from semigradient import agents, optim
from semigradient.agents.pcl import PCL, inconsistency
from semigradient.envs import make_vector
from semigradient.envs.music.toy_chorale import toy_joint
from semigradient.errors import UserError
from semigradient.training.agent import AgentContext
from semigradient.training.evaluation import evaluate

TOY = "semigradient/ToyChorale-v0"


def build(
    env_id: str = TOY, num_envs: int = 8, lr: float = 1e-2, steps: int = 9_000, **config: Any
) -> PCL:
    torch.manual_seed(0)
    chosen = optim.config_class("adam")(lr=lr)
    setup = AgentContext(
        envs=make_vector(env_id, num_envs, 0),
        device=torch.device("cpu"),
        seed=0,
        total_steps=steps,
        optimizer=chosen,
    )
    return agents.agent_class("pcl")(agents.config_class("pcl")(**config), setup)


def plainly(
    value: Tensor, log_prob: Tensor, reward: Tensor, ends: tuple[Tensor, Tensor], gamma: float
) -> list[float]:
    """One path after another, at temperature ½."""
    terminated, truncated = ends
    errors = []
    for column in range(value.shape[1]):
        total, factor, place = 0.0, 1.0, 0
        while place < len(value) - 1:
            if truncated[place, column] and not terminated[place, column]:
                break
            gain = reward[place, column] - 0.5 * log_prob[place, column]
            total, factor, place = total + factor * float(gain), factor * gamma, place + 1
            if terminated[place - 1, column]:
                factor = 0.0
                break
        errors.append(total + factor * float(value[place, column]) - float(value[0, column]))
    return errors


def test_the_inconsistency_is_that_of_plain_loops() -> None:
    random = torch.Generator().manual_seed(0)
    value, log_prob, reward = torch.randn(3, 6, 100, generator=random, dtype=torch.float64)
    terminated, truncated = torch.rand(2, 6, 100, generator=random) < 0.12
    errors = inconsistency(value, log_prob, reward, terminated, truncated, 0.9, 0.5)
    expected = plainly(value, log_prob, reward, (terminated, truncated), 0.9)
    torch.testing.assert_close(errors, torch.tensor(expected, dtype=torch.float64))
    assert bool((truncated[0] & ~terminated[0]).any())


def test_the_ancestral_sampler_is_consistent_on_every_path() -> None:
    joint, agent = toy_joint(), build(path_length=9, learning_starts=10**9, num_envs=6)
    for _ in range(40):
        agent.iterate()
    paths = agent.memory.sample(100, 9, torch.Generator().manual_seed(0))
    known = paths.obs[:, :, 2:, :, 0] > 0.5
    pitches = paths.obs[:, :, :2].argmax(-1)
    log_p = joint.conditionals(pitches.flatten(0, 1), known.flatten(0, 1))
    missing = (~known).flatten(2).sum(2).double()
    chosen = log_p.flatten(1).gather(1, paths.action.flatten()[:, None]).view(missing.shape)
    value, log_prob = torch.lgamma(missing + 1), chosen - missing.log()
    ends = (paths.terminated, paths.truncated)
    error = inconsistency(value, log_prob, paths.reward.double(), *ends, 1.0, 1.0)
    assert float(error.abs().max()) < 1e-5  # rewards are kept in single precision
    wrong = inconsistency(value * 0.99, log_prob, paths.reward.double(), *ends, 1.0, 1.0)
    assert float(wrong.abs().max()) > 1e-2


def test_paths_are_consecutive_steps_also_when_the_memory_is_full() -> None:
    agent = build(path_length=4, buffer_size=8 * 11, learning_starts=10**9)
    seen: list[dict[str, Any]] = []
    step, envs = agent.stepper.step, agent.setup.envs

    def remember(actions: np.ndarray) -> Any:
        seen.append({"obs": agent.stepper.obs.copy(), "action": actions.copy()})
        return step(actions)

    agent.stepper.step = remember  # type: ignore[method-assign]
    for _ in range(30):
        agent.iterate()
    paths = agent.memory.sample(200, 4, torch.Generator().manual_seed(1))
    stacked = np.stack([row["obs"] for row in seen])
    actions = np.stack([row["action"] for row in seen])
    for column in range(200):
        path = paths.obs[:, column].numpy()
        fits = [
            (time, env)
            for time in range(30 - 11, 30 - 4)
            for env in range(envs.num_envs)
            if np.array_equal(stacked[time : time + 5, env], path)
            and np.array_equal(actions[time : time + 5, env], paths.action[:, column])
        ]
        assert fits


@pytest.mark.parametrize(
    ("unified", "steps"),
    [
        (False, 9_000),
        # One network for both is there later: -4.7 to -5.0 after 9,000 steps, by the seed.
        pytest.param(True, 15_000, marks=pytest.mark.slow),
    ],
)
def test_the_toy_is_learned(unified: bool, steps: int) -> None:
    agent = build(
        num_envs=32,
        lr=4e-3,
        steps=steps,
        path_length=6,
        hidden=(128, 128),
        activation="relu",
        batch_size=128,
        gradient_steps=2,
        learning_starts=500,
        schedule="linear",
        unified=unified,
    )
    while agent.progress.steps < steps:
        agent.iterate()
    obs, infos = agent.setup.envs.reset()
    _, value = agent.evaluate(torch.from_numpy(obs), torch.from_numpy(infos["action_mask"]))
    assert value[0].item() == pytest.approx(math.log(720), rel=0.05)
    returns = evaluate(agent.policy(False), make_vector(TOY, 100, 5), 1000).returns
    assert returns.mean() == pytest.approx(-toy_joint().entropy(), abs=0.25)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0: must be > 0"),
        ({"gamma": 1.5}, "gamma=1.5: must be in"),
        ({"path_length": 0}, "path_length=0: must be ≥ 1"),
        ({"buffer_size": 5}, "buffer_size=5: must be > path_length=10"),
        ({"activation": "relax"}, "activation='relax': accepted are"),
    ],
)
def test_bad_hyperparameters_are_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(**config)


def test_actions_must_be_discrete() -> None:
    with pytest.raises(UserError, match="pcl accepts Discrete"):
        build("semigradient/Pendulum-v0")
