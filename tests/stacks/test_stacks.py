"""Runs that learn as one against the same runs by themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import semigradient
from semigradient.errors import UserError
from semigradient.nets.stacked import StackedPerceptron
from semigradient.stacks.stack import Stack
from semigradient.training import parts

_PHYSICAL: dict[str, Any] = {
    "env_options": {"dt": 0.05},
    "num_envs": 8,
    "hidden": (32, 32),
    "batch_size": 32,
    "gradient_steps": 10,
    "optim": "sgd",  # that of the papers divides by the gradient, and so rounding by rounding
    "optim_options": {"lr": 0.02},
}
_SOON = {"learning_starts": 50, "hidden": (64, 32), "batch_size": 32, "gradient_steps": 2}
CASES: dict[str, tuple[str, str, int, dict[str, Any]]] = {
    # agent, environment, iterations, options; each makes hundreds of updates
    "ppo": ("ppo", "CartPole-v1", 6, {"max_grad_norm": 0.2}),
    "ppo in minibatches": ("ppo", "CartPole-v1", 6, {"batch_size": 64, "epochs": 8}),
    "ppo of clipped values": ("ppo", "CartPole-v1", 4, {"clip_value": 0.1, "activation": "relu"}),
    "ppo of continuous actions": (
        "ppo",
        "Pendulum-v1",
        2,
        {"rollout_steps": 64, "batch_size": 32, "num_envs": 4, "normalise_rewards": True},
    ),
    "ppo with statistics": (
        "ppo",
        "Acrobot-v1",
        5,
        {"rollout_steps": 64, "batch_size": 64, "num_envs": 4, "optim": "adamw"},
    ),
    "ppo in a game": ("ppo", "semigradient/IPD-v0", 4, {"optim": "momentum"}),
    "ppo with masks": (
        "ppo",
        "semigradient/HyperGrid-v0",
        6,
        {"num_envs": 4, "rollout_steps": 16, "batch_size": 32},
    ),
    "a2c": ("a2c", "CartPole-v1", 200, {"activation": "elu"}),
    "a2c by sgd": ("a2c", "MountainCar-v0", 100, {"optim": "sgd", "normalise_advantages": True}),
    "a2c by rmsprop": ("a2c", "Acrobot-v1", 100, {"optim": "rmsprop", "hidden": (32,)}),
    "dqn": ("dqn", "CartPole-v1", 90, {"learning_starts": 100, "max_grad_norm": 0.5}),
    "ddqn of dueling networks": (  # whose memory is full and begins anew
        "ddqn",
        "CartPole-v1",
        100,
        {"dueling": True, "loss": "mse", "num_envs": 2, "buffer_size": 150, **_SOON},
    ),
    "ddqn with copied targets": (
        "ddqn",
        "Acrobot-v1",
        80,
        {"target": "hard", "target_update_every": 90, "n_step": 1, "optim": "adamw", **_SOON},
    ),
    "dqn without targets, with masks": (
        "dqn",
        "semigradient/HyperGrid-v0",
        80,
        {"target": "none", "num_envs": 4, "schedule": "linear", "layer_norm": True, **_SOON},
    ),
    "dqn with noise in physical time": (
        "dqn",
        "semigradient/Pendulum-v0",
        80,
        {
            "exploration": "ou",
            "time": "scaled",
            "max_grad_norm": 0.0,
            "env_options": {"dt": 0.05, "actions": "discrete"},
            **_SOON,
        },
    ),
    "reinforce": ("reinforce", "CartPole-v1", 100, {"num_envs": 2, "activation": "tanh"}),
    "reinforce of whole episodes": (
        "reinforce",
        "semigradient/HyperGrid-v0",
        100,
        {"num_envs": 2, "episodes_per_env": 2, "returns": "episode", "max_grad_norm": 0.1},
    ),
    "reinforce of continuous actions": (
        "reinforce",
        "Pendulum-v1",
        3,
        {"num_envs": 2, "hidden": (8,), "entropy_coefficient": 0.01},
    ),
    "dau": ("dau", "semigradient/Pendulum-v0", 12, {"normalise_observations": True, **_PHYSICAL}),
    "dau of discrete actions": (
        "dau",
        "semigradient/Pendulum-v0",
        12,
        {**_PHYSICAL, "env_options": {"dt": 0.05, "actions": "discrete"}, "bootstrap_at": "state"},
    ),
    "ddpg": ("ddpg", "semigradient/Pendulum-v0", 12, {"target_rate": 0.1, **_PHYSICAL}),
    "ddpg without targets": (
        "ddpg",
        "semigradient/Pendulum-v0",
        12,
        {"target_rate": 1.0, "exploration": "epsilon", "layer_norm": False, **_PHYSICAL},
    ),
}
SEEDS = (0, 1, 7)
_MORE = ["reinforce", "dau", "ddpg", "ddqn with copied targets", "dqn without targets, with masks"]


def made(name: str, seeds: tuple[int, ...] = SEEDS) -> tuple[list[Any], int]:
    """Agents of the seeds, and how often they iterate."""
    agent, env, iterations, options = CASES[name]
    agents: list[Any] = [semigradient.make_agent(agent, env, seed=s, **options) for s in seeds]
    return agents, iterations


def distance(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


@pytest.mark.parametrize("name", CASES)
def test_a_seed_of_a_stack_is_the_same_seed_alone_to_rounding(name: str) -> None:
    alone, iterations = made(name)
    stack = Stack(made(name)[0])
    before = [{key: t.clone() for key, t in parts.learned(agent).items()} for agent in alone]
    for _ in range(iterations):
        together = stack.iterate()
        one_by_one = [agent.iterate() for agent in alone]
    for agent, member, start, ours, theirs in zip(
        alone, stack.members, before, together, one_by_one, strict=True
    ):
        moved = distance(parts.learned(agent), start)
        assert distance(parts.learned(agent), parts.learned(member)) < 1e-2 * moved
        assert member.progress.steps == agent.progress.steps
        episodes = np.array(agent.progress.pop_episodes()).reshape(-1, 2)
        np.testing.assert_allclose(
            np.array(member.progress.pop_episodes()).reshape(-1, 2), episodes, rtol=1e-4
        )
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            assert float(ours[key]) == pytest.approx(float(value), rel=1e-2, abs=1e-3), key


def test_the_seeds_of_a_stack_differ() -> None:
    stack = Stack(made("ppo")[0])
    stack.iterate()
    first, second, _ = (parts.learned(member) for member in stack.members)
    assert distance(first, second) > 0.01


@pytest.mark.parametrize("name", ["ppo with statistics", "a2c", "dqn", *_MORE])
def test_a_member_that_is_settled_goes_on_alone(name: str) -> None:
    alone, _ = made(name)
    stack = Stack(made(name)[0])
    for _ in range(50 if "dqn" in name else 2):
        stack.iterate()
        for agent in alone:
            agent.iterate()
    stack.settle(1)
    (fresh,), _ = made(name, SEEDS[1:2])
    parts.load(fresh, parts.state(stack.members[1]))
    fresh.iterate()
    alone[1].iterate()
    assert distance(parts.learned(fresh), parts.learned(alone[1])) < 1e-4


@pytest.mark.parametrize("name", ["ppo", "ppo with statistics", "ppo with masks", "a2c", *_MORE])
def test_a_stack_of_loaded_members_goes_on_exactly(name: str) -> None:
    whole = Stack(made(name)[0])
    for _ in range(40 if "dqn" in name else 1):
        whole.iterate()
    states = []
    for index, member in enumerate(whole.members):
        whole.settle(index)
        states.append(copied(parts.state(member)))
    members, _ = made(name)
    for member, state in zip(members, states, strict=True):
        parts.load(member, state)
    again = Stack(members)
    for _ in range(10 if "dqn" in name else 2):
        whole.iterate(), again.iterate()
    for member, other in zip(whole.members, again.members, strict=True):
        assert distance(parts.learned(member), parts.learned(other)) == 0


def copied(state: Any) -> Any:
    """A state in memory of its own."""
    if isinstance(state, dict):
        return {key: copied(value) for key, value in state.items()}
    if isinstance(state, Tensor):
        return state.clone()
    return state.copy() if isinstance(state, np.ndarray | list) else state


def test_policies_of_members_are_those_of_their_networks() -> None:
    stack = Stack(made("ppo")[0])
    stack.iterate()
    obs = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    member = stack.members[2]
    (copy,), _ = made("ppo", SEEDS[2:])
    copy.network.load_state_dict(member.network.state_dict())
    np.testing.assert_array_equal(member.policy(True)(obs, None), copy.policy(True)(obs, None))


def test_each_seed_is_clipped_by_its_own_gradient() -> None:
    alone, _ = made("a2c")
    members, _ = made("a2c")
    for agents in (alone, members):
        for agent in agents:
            agent.config.__dict__["max_grad_norm"] = 1e-3
    stack = Stack(members)
    for _ in range(3):
        stack.iterate()
        for agent in alone:
            agent.iterate()
    for agent, member in zip(alone, members, strict=True):
        assert distance(parts.learned(agent), parts.learned(member)) < 1e-6


@pytest.mark.parametrize(
    ("agent", "env", "options", "words"),
    [
        ("ppo", "CartPole-v1", {"optim": "corrected-momentum"}, "CorrectedMomentum"),
        ("ppo", "semigradient/Glimpse-v0", {}, "no stacked form"),
        ("ppo", "CartPole-v1", {"target_kl": 0.01}, "target_kl"),
        ("soft-q", "CartPole-v1", {}, "SoftQ"),
        ("dqn", "CartPole-v1", {"replay": "prioritised"}, "PrioritisedReplay has no stacked form"),
        ("dqn", "CartPole-v1", {"distribution": "c51"}, "distribution='c51' has no stacked form"),
        ("dqn", "CartPole-v1", {"target": "none", "optim": "corrected-momentum"}, "Corrected"),
        ("dqn", "semigradient/Glimpse-v0", {}, "no stacked form"),
        ("reinforce", "CartPole-v1", {"schedule": "linear"}, "schedule='linear'"),
    ],
)
def test_what_has_no_stacked_form_is_refused_in_one_line(
    agent: str, env: str, options: dict[str, Any], words: str
) -> None:
    members = [semigradient.make_agent(agent, env, seed=seed, **options) for seed in (0, 1)]
    with pytest.raises(UserError, match=words) as refused:
        Stack(members)
    assert "\n" not in str(refused.value)
    assert "seeds=2" in str(refused.value)


def test_the_tangent_of_many_numbers_is_the_tangent() -> None:
    weight = torch.nn.Parameter(torch.eye(1024)[None] * 3)
    bias = torch.nn.Parameter(torch.zeros(1, 1024))
    net = StackedPerceptron(["tanh"], [weight], [bias])
    rows = torch.randn(1, 64, 1024)
    torch.testing.assert_close(net(rows), torch.tanh(3 * rows), rtol=0, atol=2e-7)
