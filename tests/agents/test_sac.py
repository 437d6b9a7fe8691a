"""SAC for continuous actions: densities, targets and losses against independent references."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from semigradient.agents.sac import SAC, Config, actor_loss, soft_target, squashed, temperature_loss
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


def test_densities_are_the_slopes_of_the_distribution_function(float64: None) -> None:
    mean, log_std = torch.tensor([[0.3, -1.0]]), torch.tensor([[-0.5, 0.4]])
    noise = torch.linspace(-2, 2, 9)[:, None] * torch.tensor([[1.0, -0.7]])
    shape = noise.shape
    action, log_prob = squashed(mean.expand(shape), log_std.expand(shape), noise)
    normal = Normal(mean, log_std.exp())

    def below(bound: torch.Tensor) -> torch.Tensor:
        return normal.cdf(torch.atanh(bound))

    step = 1e-6
    density = (below(action + step) - below(action - step)) / (2 * step)
    torch.testing.assert_close(log_prob, density.log().sum(1), atol=1e-6, rtol=1e-6)


def test_densities_far_out_are_finite_and_exact() -> None:
    noise = torch.tensor([[0.0]])
    for mean in (-40.0, 12.0, 40.0):
        action, log_prob = squashed(torch.tensor([[mean]]), torch.tensor([[-1.0]]), noise)
        # 1 - tanh² u = 4 e^(-2|u|) for large |u|.
        expected = 1 - 0.5 * math.log(2 * math.pi) - (math.log(4) - 2 * abs(mean))
        assert float(log_prob) == pytest.approx(expected, rel=1e-5)
        assert float(action) == pytest.approx(math.copysign(1, mean))


def test_targets_and_losses_by_hand() -> None:
    values = torch.tensor([[3.0, 1.0], [2.0, 4.0]])
    log_prob, alpha = torch.tensor([0.5, -1.0]), torch.tensor(0.2)
    reward, discount = torch.tensor([1.0, 2.0]), torch.tensor([0.9, 0.0])
    target = soft_target(reward, discount, values, log_prob, alpha)
    torch.testing.assert_close(target, torch.tensor([1 + 0.9 * (2 - 0.1), 2.0]))
    assert actor_loss(values, log_prob, alpha) == pytest.approx(((0.1 - 2) + (-0.2 - 1)) / 2)


def test_the_temperature_rises_where_entropy_is_wanted() -> None:
    log_alpha = torch.tensor(0.3, requires_grad=True)
    log_prob = torch.tensor([2.0, 0.0], requires_grad=True)  # an entropy of -1
    temperature_loss(log_alpha, log_prob, -0.25).backward()
    assert log_alpha.grad is not None
    assert float(log_alpha.grad) == pytest.approx(-0.75)  # descent raises it
    assert log_prob.grad is None


def reference(agent: SAC, batch: Any, noises: tuple[np.ndarray, np.ndarray]) -> Any:
    """Losses of critics and of the policy, in numpy and torch's distributions."""
    alpha = math.exp(float(agent.log_temperature.detach()))

    def sample(obs: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, log_std = np.split(perceptron(actor_layers(agent.actor), obs), 2, 1)
        base = Normal(*(torch.from_numpy(each) for each in (mean, np.exp(log_std))))
        law = TransformedDistribution(base, [TanhTransform(cache_size=1)])
        action = torch.tanh(torch.from_numpy(mean + np.exp(log_std) * noise))
        return action.numpy(), law.log_prob(action).sum(1).numpy()

    def values(critics: Any, obs: np.ndarray, action: np.ndarray) -> list[np.ndarray]:
        rows = np.concatenate([obs, action], 1)
        return [perceptron(critic_layers(critics, i), rows)[:, 0] for i in (0, 1)]

    obs, ahead = batch.obs.numpy(), batch.next_obs.numpy()
    action, log_prob = sample(ahead, noises[0])
    soft = np.minimum(*values(agent.target_critics, ahead, action)) - alpha * log_prob
    target = batch.reward.numpy() + batch.discount.numpy() * soft

    def critics() -> float:
        found = values(agent.critics, obs, batch.action.numpy())
        return sum(0.5 * float(np.square(each - target).mean()) for each in found)

    def policy() -> float:
        action, log_prob = sample(obs, noises[1])
        smaller = np.minimum(*values(agent.critics, obs, action))
        return float((alpha * log_prob - smaller).mean())

    return critics, policy, lambda: sample(obs, noises[1])[1]


def test_a_step_is_the_gradients_of_the_published_losses(float64: None) -> None:
    config = {"hidden": (4,), "batch_size": 6, "target_rate": 0.25, "temperature": 0.4}
    agent: SAC = build("sac", "test/Wide-v0", config, optimizer="sgd", rates={"lr": 1.0})
    in_double(agent, "actor", "critics", "target_critics")
    batch, random = random_batch(), torch.Generator().set_state(agent.sampling.get_state())
    noises = tuple(agent.collector.noise(6, random).numpy() for _ in range(2))
    critics, policy, log_prob = reference(agent, batch, noises)  # type: ignore[arg-type]
    expected = {"critics": [slope(critics, p) for p in agent.critics.parameters()]}
    before = {
        name: [p.detach().clone() for p in getattr(agent, name).parameters()]
        for name in ("actor", "critics")
    }
    old_target, old_alpha = parameters(agent.target_critics), agent.log_temperature.detach().clone()
    move = agent.optimizers["actor"].step

    def step() -> None:
        """Measured where the policy moves: with the critics as they are by then."""
        expected["actor"] = [slope(policy, p) for p in agent.actor.parameters()]
        expected["alpha"] = [torch.tensor(-float(log_prob().mean()) + 2.0)]
        move()

    agent.optimizers["actor"].step = step  # type: ignore[method-assign, assignment]
    agent._learn(batch)
    for name, old in before.items():
        moved = zip(old, expected[name], getattr(agent, name).parameters(), strict=True)
        for one, gradient, new in moved:
            torch.testing.assert_close(one - new.detach(), gradient, atol=1e-7, rtol=1e-5)
    # The loss of log α is -log α (log π + wanted), wanted one nat less than 0 for each of two.
    torch.testing.assert_close(old_alpha - agent.log_temperature.detach(), expected["alpha"][0])
    blended = 0.75 * old_target + 0.25 * parameters(agent.critics)
    torch.testing.assert_close(parameters(agent.target_critics), blended)


def test_a_kept_temperature_is_kept() -> None:
    config = {**SMALL, "temperature": 0.3, "adjust_temperature": False}
    agent: SAC = build("sac", "test/Wide-v0", config)
    for _ in range(5):
        agent._learn(random_batch())
    assert float(agent.log_temperature.detach().exp()) == pytest.approx(0.3)


def test_it_finds_the_wanted_action_and_the_wanted_entropy() -> None:
    config = {**SMALL, "train_every": 2, "entropy_per_dimension": -0.75, "temperature": 0.1}
    agent: SAC = build("sac", "test/Wide-v0", config, total=1600)
    entropies = []
    while agent.progress.steps < 1600:
        scalars = agent.iterate()
        entropies.append(float(scalars.get("entropy", 0.0)))
    obs = np.random.default_rng(0).uniform(-0.8, 0.8, (200, 2)).astype(np.float32)
    unit = (agent.policy(True)(obs, None) - [1, 550]) / [2, 50]
    assert np.abs(unit - obs).mean() < 0.06
    assert np.mean(entropies[-100:]) == pytest.approx(-1.5, abs=0.15)


@pytest.mark.parametrize("terminates", [False, True])
def test_a_time_limit_is_no_end(terminates: bool) -> None:
    config = {**SMALL, "gamma": 0.5, "temperature": 1e-6, "adjust_temperature": False}
    agent: SAC = build("sac", "test/Payday-v0", config, terminates=terminates)
    while agent.progress.steps < 1600:
        value = float(agent.iterate().get("value", 0.0))
    # Always the same to see, a fifth of all transitions ends: v = 1 + .5 (.8 v).
    assert value == pytest.approx(1 / (1 - 0.4) if terminates else 2.0, abs=0.1)


def test_bad_input_is_named() -> None:
    with pytest.raises(UserError, match=r"temperature=0\.0: must be positive"):
        Config(temperature=0.0)
    with pytest.raises(UserError, match=r"entropy_per_dimension=1\.0: must be at most log 2"):
        Config(entropy_per_dimension=1.0)
    with pytest.raises(UserError, match=r"Discrete.*accepted is a Box of real numbers"):
        build("sac", "CartPole-v1", {})
