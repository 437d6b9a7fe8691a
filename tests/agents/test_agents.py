"""Agents on problems whose answer is known, and their state."""

from __future__ import annotations

import copy
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from semigradient.agents import dqn
from semigradient.envs import make_vector
from semigradient.nets.q_network import QNetwork
from semigradient.training import parts
from semigradient.training.evaluation import evaluate
from support.problems import A2C, DQN, PPO, Minefield, build, parameters

# The last bit of error goes with the learning rate.
FALLING = {**DQN, "schedule": "linear"}
VARIANTS = {
    "dqn": ("dqn", FALLING, 500),
    "ddqn": ("ddqn", FALLING, 500),
    "dueling": ("dqn", {**FALLING, "dueling": True}, 500),
    "n-step": ("dqn", {**FALLING, "n_step": 3}, 350),
    "ema": ("dqn", {**FALLING, "target": "ema", "target_rate": 0.1}, 600),
    "no target": ("dqn", {**FALLING, "target": "none"}, 600),
    "ppo": ("ppo", PPO, 20),
    "a2c": ("a2c", A2C, 250),
}


def values(agent: Any, obs: np.ndarray) -> np.ndarray:
    """Values (m,) or action values (m, A) that an agent has learned."""
    with torch.no_grad():
        rows = torch.from_numpy(obs.astype(np.float32))
        if isinstance(agent, dqn.DQN):
            return agent.network(rows).numpy()
        return agent.network.value(rows).numpy()


@pytest.mark.parametrize("variant", VARIANTS)
def test_truncation_bootstraps(variant: str) -> None:
    name, config, iterations = VARIANTS[variant]
    agent = build(name, "test/Clock-v0", config, total=4 * iterations)
    for _ in range(iterations):
        agent.iterate()
    # The state never changes and reward 1 goes on for ever: 1 / (1 - 0.9).
    np.testing.assert_allclose(values(agent, np.eye(6)[:1]), 10, rtol=0.02)


@pytest.mark.parametrize("variant", ["dqn", "n-step", "no target", "ppo", "a2c"])
def test_termination_does_not(variant: str) -> None:
    name, config, iterations = VARIANTS[variant]
    options = {"terminates": True, "shows_time": True}
    agent = build(name, "test/Clock-v0", config, total=4 * iterations, **options)
    for _ in range(iterations):
        agent.iterate()
    learned = values(agent, np.eye(6)[:5])
    left = np.array([5, 4, 3, 2, 1])
    exact = (1 - 0.9**left) / 0.1
    np.testing.assert_allclose(learned.T, np.broadcast_to(exact, learned.T.shape), atol=0.1)


def test_truncation_uses_the_last_observation_of_the_episode() -> None:
    # The last observation is seen only where episodes are cut, so its value is never learned:
    # what the state before it is worth must follow from whatever it is.
    agent = build("a2c", "test/Clock-v0", A2C, shows_time=True)
    for _ in range(5):
        rollout = agent.collector.collect()
        cut = rollout["truncated"]
        assert cut.any()
        torch.testing.assert_close(
            rollout["next_value"][cut],
            torch.from_numpy(values(agent, np.eye(6)[5:])).expand(int(cut.sum())),
        )
        going_on = ~cut[:-1]
        torch.testing.assert_close(
            rollout["next_value"][:-1][going_on], rollout["value"][1:][going_on]
        )


MASKED = {
    "dqn": ("dqn", {**DQN, "epsilon_end": 0.2, "epsilon_fraction": 0.1}, 300),
    "ddqn": ("ddqn", {**DQN, "epsilon_end": 0.2, "epsilon_fraction": 0.1}, 300),
    "ppo": ("ppo", PPO, 10),
    "a2c": ("a2c", A2C, 60),
    "pcl": ("pcl", {"path_length": 7, "batch_size": 32, "learning_starts": 50}, 300),
}


@pytest.mark.parametrize("variant", MASKED)
def test_illegal_actions_are_never_taken(variant: str) -> None:
    name, config, iterations = MASKED[variant]
    Minefield.illegal = Minefield.taken = 0
    agent = build(name, "test/Minefield-v0", config, total=1200)
    for _ in range(iterations):
        agent.iterate()
    assert Minefield.taken >= 1000
    for deterministic in (True, False):
        envs = make_vector("test/Minefield-v0", 3, 9)
        scores = evaluate(agent.policy(deterministic), envs, 20)
        assert scores.lengths.tolist() == [7] * 20
    assert Minefield.illegal == 0
    assert all(length == 7 for _, length in agent.progress.pop_episodes())
    # Legal actions of reward 1 are nevertheless learned.
    assert (
        evaluate(agent.policy(True), make_vector("test/Minefield-v0", 3, 5), 60).returns.mean() > 3
    )


def test_masks_are_kept_beside_images() -> None:
    Minefield.illegal = 0
    config = {**DQN, "batch_size": 8, "learning_starts": 12, "buffer_size": 100, "hidden": (8,)}
    agent = build("dqn", "test/Minefield-v0", config, num_envs=2, images=True)
    while agent.updates < 3:
        agent.iterate()
    mask = agent.memory.sample(64, agent.sampling, 0.9).next_mask
    assert mask.shape == (64, 4)
    assert {1, 2, 3} <= set(mask.sum(1).tolist()) <= {1, 2, 3, 4}  # all four after a last step
    assert Minefield.illegal == 0


@pytest.mark.parametrize("name", ["dqn", "ppo", "a2c"])
def test_observations_in_double_precision_are_learned_from(name: str) -> None:
    config, iterations = {
        "dqn": ({**DQN, "gamma": 0.0}, 200),
        "ppo": ({**PPO, "gamma": 0.0}, 10),
        "a2c": ({**A2C, "gamma": 0.0}, 100),
    }[name]
    agent = build(name, "test/Precise-v0", config)
    for _ in range(iterations):
        agent.iterate()
    score = evaluate(agent.policy(True), make_vector("test/Precise-v0", 8, 3), 200)
    assert score.returns.mean() > 0.8


def test_a_network_in_double_precision_keeps_observations_so() -> None:
    network = QNetwork(spaces.Box(-1, 1, (3,)), 2, (4,), "tanh", dueling=True).double()
    obs = torch.randn(5, 3, dtype=torch.float64)
    assert network.torso(obs) is obs
    assert network(obs.float()).dtype == torch.float64
    assert network.float()(obs).dtype == torch.float32


@pytest.mark.parametrize("kind", ["multi", "box"])
@pytest.mark.parametrize("name", ["ppo", "a2c"])
def test_other_action_spaces_are_learned(name: str, kind: str) -> None:
    settings = (
        {**PPO, "gamma": 0.0, "rollout_steps": 32, "batch_size": 64, "log_std_init": -0.5}
        if name == "ppo"
        else {**A2C, "gamma": 0.0, "rollout_steps": 8, "log_std_init": -0.5}
    )
    settings["hidden"] = (32,)
    agent = build(
        name,
        "test/Echo-v0",
        settings,
        num_envs=8,
        rates={"lr": 5e-3 if name == "ppo" else 1e-2},
        kind=kind,
    )
    for _ in range(8 if name == "ppo" else 75):
        agent.iterate()
    score = evaluate(agent.policy(True), make_vector("test/Echo-v0", 8, 3, kind=kind), 80)
    # By chance 5/12 of the digits match and the error is above 0.4.
    assert score.returns.mean() > (0.95 if kind == "multi" else -0.15)


def assert_equal(a: Any, b: Any, where: str = "") -> None:
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for name in a:
            assert_equal(a[name], b[name], f"{where}.{name}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, np.ndarray):
        np.testing.assert_array_equal(a, b, err_msg=where)
    elif is_dataclass(a):
        for field in fields(a):
            assert_equal(getattr(a, field.name), getattr(b, field.name), f"{where}.{field.name}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}.{index}")
    else:
        assert a == b, where


RESUMABLE = {
    "dqn": ("dqn", {**DQN, "epsilon_end": 0.5, "n_step": 3}, 40),
    "ppo": ("ppo", {**PPO, "normalise_observations": True, "normalise_rewards": True}, 3),
    "a2c": ("a2c", {**A2C, "normalise_observations": True, "normalise_rewards": True}, 10),
}


@pytest.mark.parametrize("variant", RESUMABLE)
def test_evaluation_changes_nothing(variant: str) -> None:
    name, config, iterations = RESUMABLE[variant]
    agent = build(name, "CartPole-v1", config)
    for _ in range(iterations):
        agent.iterate()
    before, noise = copy.deepcopy(parts.state(agent)), torch.get_rng_state()
    for deterministic in (True, False):
        evaluate(agent.policy(deterministic), make_vector("CartPole-v1", 2, 5), 6)
    assert_equal(before, parts.state(agent))
    assert torch.equal(noise, torch.get_rng_state())
    first, second = (
        evaluate(agent.policy(True), make_vector("CartPole-v1", 2, 5), 6) for _ in range(2)
    )
    np.testing.assert_array_equal(first.returns, second.returns)


def test_a_momentum_that_knows_moving_targets_trains() -> None:
    config = {**DQN, "gamma": 0.99, "target": "none", "hidden": (32,), "batch_size": 32}
    config |= {"epsilon_end": 0.1, "epsilon_fraction": 0.2}
    agent = build(
        "dqn", "CartPole-v1", config, optimizer="corrected-momentum", total=2000, rates={"lr": 1e-2}
    )
    before, scalars = parameters(agent.network), {}
    while agent.updates < 300:
        scalars = agent.iterate()
    after = parameters(agent.network)
    assert torch.isfinite(after).all()
    assert not torch.equal(before, after)
    # Values of a policy that survives at all leave zero behind.
    assert float(scalars["value"]) > 1.5


@pytest.mark.slow
def test_compiled_losses_equal_eager_ones() -> None:
    config = {**DQN, "learning_starts": 0}
    eager, compiled = (
        build("dqn", "CartPole-v1", config, compile=compile) for compile in (False, True)
    )
    for _ in range(20):
        eager.iterate()
    batch = eager.memory.sample(64, eager.sampling, 0.9)
    compiled.network.load_state_dict(eager.network.state_dict())
    compiled.target.load_state_dict(eager.target.state_dict())
    eager.optimizer.zero_grad()  # of its last update
    for a, b in zip(eager._loss(batch), compiled._loss(batch), strict=True):
        torch.testing.assert_close(a, b)
    losses = eager._loss(batch)[0], compiled._loss(batch)[0]
    for loss in losses:
        loss.backward()
    for a, b in zip(eager.network.parameters(), compiled.network.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
