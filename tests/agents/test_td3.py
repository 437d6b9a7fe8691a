"""TD3: its targets and losses against plain numpy and finite differences, and what it learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from semigradient.agents.td3 import TD3, Config, clipped_double_q, critic_loss, smoothed
from semigradient.errors import UserError
from support.continuous import (
    SMALL,
    actor_layers,
    critic_layers,
    in_double,
    perceptron,
    random_batch,
    slope,
)
from support.problems import build, parameters


def small(**config: Any) -> TD3:
    """In double precision, with rates of one: a step is the gradient."""
    chosen = {"hidden": (4,), "batch_size": 6, "target_rate": 0.25, **config}
    agent: TD3 = build("td3", "test/Wide-v0", chosen, optimizer="sgd", rates={"lr": 1.0})
    in_double(agent, "actor", "critics", "target_actor", "target_critics")
    return agent


def test_target_actions_are_smoothed_by_clipped_noise() -> None:
    action = torch.tensor([[0.0, 0.9, -0.2], [0.5, -0.95, 0.1]])
    noise = torch.tensor([[1.0, 1.0, -9.0], [-0.5, -1.0, 4.0]])
    expected = torch.tensor([[0.2, 1.0, -0.7], [0.4, -1.0, 0.6]])
    torch.testing.assert_close(smoothed(action, noise, 0.2, 0.5), expected)


def test_the_target_takes_the_smaller_critic_and_stops_at_ends() -> None:
    values = torch.tensor([[3.0, 1.0, 5.0], [2.0, 4.0, 7.0]])
    target = clipped_double_q(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.9, 0.5, 0.0]), values)
    torch.testing.assert_close(target, torch.tensor([2.8, 2.5, 3.0]))
    assert critic_loss(values, torch.tensor([2.0, 2.0, 5.0])) == pytest.approx((2 + 8) / 3)


def published_target(agent: TD3, batch: Any, noise: np.ndarray) -> np.ndarray:
    """Algorithm 1's y, in numpy."""
    ahead = batch.next_obs.numpy()
    action = np.tanh(perceptron(actor_layers(agent.target_actor), ahead))
    action = np.clip(action + np.clip(0.2 * noise, -0.5, 0.5), -1, 1)
    rows = np.concatenate([ahead, action], 1)
    critics = [perceptron(critic_layers(agent.target_critics, i), rows)[:, 0] for i in (0, 1)]
    return batch.reward.numpy() + batch.discount.numpy() * np.minimum(*critics)


def test_a_step_of_the_critics_is_the_gradient_of_the_published_loss(float64: None) -> None:
    agent, batch = small(), random_batch()
    noise = agent.collector.noise(6, copy_of(agent.smoothing)).numpy()
    target = published_target(agent, batch, noise)
    rows = torch.cat([batch.obs, batch.action], 1).numpy()

    def values() -> list[np.ndarray]:
        return [perceptron(critic_layers(agent.critics, i), rows)[:, 0] for i in (0, 1)]

    def loss() -> float:
        return sum(float(np.square(each - target).mean()) for each in values())

    gradients = [slope(loss, p) for p in agent.critics.parameters()]
    before = [p.detach().clone() for p in agent.critics.parameters()]
    expected = (loss(), float(np.mean(values())))
    waiting = ("actor", "target_actor", "target_critics")
    kept = [parameters(getattr(agent, name)) for name in waiting]
    assert [float(each) for each in agent._learn(batch)] == pytest.approx(expected)
    for old, gradient, new in zip(before, gradients, agent.critics.parameters(), strict=True):
        torch.testing.assert_close(old - new.detach(), gradient, atol=1e-7, rtol=1e-5)
    # The policy and the targets wait for the next step.
    for name, old_parameters in zip(waiting, kept, strict=True):
        assert torch.equal(parameters(getattr(agent, name)), old_parameters), name


def test_every_second_step_moves_the_policy_along_the_first_critic_and_the_targets(
    float64: None,
) -> None:
    agent, batch = small(), random_batch()
    agent._learn(batch)
    gradients: list[torch.Tensor] = []
    move = agent.optimizers["actor"].step

    def step() -> None:
        """Measured where the policy moves: with the critics as they are by then."""
        gradients.extend(slope(loss, p) for p in agent.actor.parameters())
        move()

    def loss() -> float:
        action = np.tanh(perceptron(actor_layers(agent.actor), batch.obs.numpy()))
        rows = np.concatenate([batch.obs.numpy(), action], 1)
        return -float(perceptron(critic_layers(agent.critics, 0), rows).mean())

    agent.optimizers["actor"].step = step  # type: ignore[method-assign, assignment]
    before = [p.detach().clone() for p in agent.actor.parameters()]
    names = ("actor", "critics")
    targets = [parameters(getattr(agent, f"target_{name}")) for name in names]
    agent._learn(batch)
    assert len(gradients) == len(before)
    for old, gradient, new in zip(before, gradients, agent.actor.parameters(), strict=True):
        torch.testing.assert_close(old - new.detach(), gradient, atol=1e-7, rtol=1e-5)
    for name, old in zip(names, targets, strict=True):
        expected = 0.75 * old + 0.25 * parameters(getattr(agent, name))
        torch.testing.assert_close(parameters(getattr(agent, f"target_{name}")), expected)


def copy_of(random: torch.Generator) -> torch.Generator:
    return torch.Generator().set_state(random.get_state())


@pytest.mark.parametrize(("delay", "moves"), [(1, 6), (3, 2)])
def test_the_delay_of_the_policy(delay: int, moves: int) -> None:
    agent: TD3 = build("td3", "test/Wide-v0", {**SMALL, "policy_delay": delay})
    batch, count = random_batch(), 0
    for _ in range(6):
        old = parameters(agent.actor)
        agent._learn(batch)
        count += not torch.equal(old, parameters(agent.actor))
    assert count == moves


def test_exploration_noise_is_of_its_size_and_evaluation_has_none() -> None:
    agent: TD3 = build("td3", "test/Wide-v0", {**SMALL, "exploration_noise": 0.2})
    with torch.no_grad():
        for parameter in agent.actor.parameters():
            parameter.zero_()
    obs = np.zeros((4000, 2), np.float32)
    unit = (agent.policy(False)(obs, None) - [1, 550]) / [2, 50]
    np.testing.assert_allclose(unit.std(0), 0.2, rtol=0.05)
    np.testing.assert_allclose(agent.policy(True)(obs, None), [[1, 550]] * 4000)


def test_it_finds_the_wanted_action_between_any_bounds() -> None:
    agent: TD3 = build("td3", "test/Wide-v0", {**SMALL, "train_every": 2}, total=1600)
    while agent.progress.steps < 1600:
        scalars = agent.iterate()
    obs = np.random.default_rng(0).uniform(-0.8, 0.8, (200, 2)).astype(np.float32)
    unit = (agent.policy(True)(obs, None) - [1, 550]) / [2, 50]
    assert np.abs(unit - obs).mean() < 0.05
    assert scalars["updates"] == (1600 - 64) // 2


def test_bad_input_is_named() -> None:
    for field, value in (("policy_delay", 0), ("target_noise", -1.0), ("exploration_noise", -0.1)):
        with pytest.raises(UserError, match=f"{field}={value}: must be ≥"):
            Config(**{field: value})
    with pytest.raises(UserError, match=r"Discrete.*accepted is a Box of real numbers"):
        build("td3", "CartPole-v1", {})
    with pytest.raises(UserError, match="learns from temporal differences"):
        build("td3", "Pendulum-v1", {}, optimizer="corrected-momentum")
