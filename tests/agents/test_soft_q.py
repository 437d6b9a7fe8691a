"""Soft Q-learning and soft actor-critic against closed forms and exact soft optima."""

from __future__ import annotations

import math
from collections.abc import Mapping

import gymnasium
import numpy as np
import pytest
import torch

from semigradient.agents.soft_q import (
    Config,
    SoftQ,
    actor_loss,
    log_softmax,
    soft_value,
    temperature_loss,
)
from semigradient.domains.flows.tabular import soft_optimum
from semigradient.envs.constructions.building import Building
from semigradient.envs.constructions.construction import tabulate
from semigradient.envs.constructions.hypergrid import HyperGrid, HyperGridOptions
from semigradient.errors import UserError
from semigradient.training.replay import Batch
from support.problems import build

SMALL = HyperGridOptions(height=5, r0=0.1, reward="uniform")
LEARNS = {
    "temperature": 0.5,
    "entropy_share": 0.0,
    "gamma": 1.0,
    "train_every": 32,
    "gradient_steps": 2,
    "learning_starts": 200,
    "target_rate": 0.1,
    "hidden": (64,),
    "schedule": "linear",
    "buffer_size": 10_000,
}


class Cells(HyperGrid):
    """A grid whose cells share no feature."""

    def __init__(self) -> None:
        super().__init__(SMALL)
        self.width = self.size

    def features(self, states: torch.Tensor) -> torch.Tensor:
        return torch.eye(self.size)[states]


gymnasium.register(
    "test/Cells-v0",
    entry_point="semigradient.envs.adapters:CoreEnv",
    vector_entry_point="semigradient.envs.adapters:CoreVector",
    kwargs={"core": Building(Cells(), {})},
)


def learned(agent: str, env: str, steps: int, config: Mapping[str, object]) -> SoftQ:
    """The agent after so many steps."""
    learner: SoftQ = build(agent, env, {**LEARNS, **config}, num_envs=32, total=steps)
    while learner.progress.steps < steps:
        learner.iterate()
    return learner


def test_the_soft_value_of_a_softmax_is_a_log_sum() -> None:
    q = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    legal = torch.tensor([[True, True, False, True]]).expand(5, 4)
    for alpha in (0.3, 1.0, 4.0):
        value = soft_value(q, log_softmax(q / alpha, legal), torch.tensor(alpha))
        want = alpha * (q / alpha).masked_fill(~legal, -torch.inf).logsumexp(1)
        assert torch.allclose(value, want)


def test_the_actor_is_stationary_at_the_softmax_only() -> None:
    q, alpha = torch.tensor([[1.0, -0.5, 2.0]]), torch.tensor(0.7)
    at = (q / alpha).clone().requires_grad_()
    actor_loss(q, log_softmax(at, None), alpha).sum().backward()
    assert at.grad is not None
    assert float(at.grad.abs().max()) < 1e-6
    away = torch.zeros_like(q).requires_grad_()
    actor_loss(q, log_softmax(away, None), alpha).sum().backward()
    assert away.grad is not None
    assert float(away.grad.abs().max()) > 0.1


def test_the_temperature_rises_where_entropy_is_wanted() -> None:
    log_alpha = torch.zeros((), requires_grad=True)
    temperature_loss(log_alpha, torch.tensor([0.2]), torch.tensor([0.5])).sum().backward()
    assert log_alpha.grad is not None
    assert float(log_alpha.grad) == pytest.approx(-0.3)  # descent raises it


@pytest.mark.parametrize("agent", ["soft-q", "sac-discrete"])
def test_a_grid_of_cells_that_share_no_feature_has_the_exact_soft_optimum(agent: str) -> None:
    learner = learned(agent, "test/Cells-v0", 6000, {})
    table = tabulate(Cells())
    states = torch.arange(table.size)
    log_policy = learner.log_policy(table.features(states).numpy(), table.legal(states).numpy())
    reward = table.log_reward(states).exp()
    exact = table.reach(soft_optimum(table, reward, 0.5))[1]
    blind = table.reach(soft_optimum(table, torch.zeros_like(reward), 0.5))[1]
    gap, wrong = (
        (table.reach(log_policy)[1] - reference).abs().sum() / 2 for reference in (exact, blind)
    )
    assert float(gap) < 0.05
    assert float(wrong) > 0.1


@pytest.mark.parametrize("agent", ["soft-q", "sac-discrete"])
def test_contexts_of_one_step_are_told_apart(agent: str) -> None:
    learner = learned(agent, "test/Contexts-v0", 4000, {"temperature": 0.4})
    legal = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 1], [1, 0, 1, 1]]).bool()
    reward = torch.eye(3, 4)
    exact = (reward / 0.4).masked_fill(~legal, -torch.inf).softmax(1)
    found = learner.log_policy(np.eye(3, dtype=np.float32), legal.numpy()).exp()
    torch.testing.assert_close(found, exact, atol=0.05, rtol=0)


@pytest.mark.parametrize("agent", ["soft-q", "sac-discrete"])
def test_both_cells_of_a_corridor_are_learned(agent: str) -> None:
    alpha = 0.4
    learner = learned(agent, "test/TwoSteps-v0", 4000, {"temperature": alpha})
    value = alpha * math.log(1 + math.exp(1 / alpha))  # of the second cell
    exact = torch.tensor([[0.0, value], [0.0, 1.0]]).div(alpha).softmax(1)
    found = learner.log_policy(np.eye(2, dtype=np.float32)).exp()
    torch.testing.assert_close(found, exact, atol=0.05, rtol=0)


@pytest.mark.parametrize("agent", ["soft-q", "sac-discrete"])
def test_an_update_descends_the_published_losses_at_the_sampled_state(
    agent: str, float64: None
) -> None:
    """Plain loops over samples and legal actions, of the outputs of the networks."""
    config = {"entropy_share": 0.6, "hidden": (8,), "batch_size": 6, "target_rate": 0.5}
    rates = {"lr": 1.0}
    learner: SoftQ = build(agent, "test/Contexts-v0", config, optimizer="sgd", rates=rates)
    learner.networks.double()
    learner.targets.double()
    with torch.no_grad():
        learner.log_temperature.fill_(-0.3)
        for parameter in learner.targets.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    batch = random_batch()
    before = [parameter.detach().clone() for parameter in learner._learned]
    expected = torch.autograd.grad(published_loss(learner, batch), learner._learned)
    learner._learn(batch)
    for old, gradient, new in zip(before, expected, learner._learned, strict=True):
        torch.testing.assert_close(old - new, gradient)


def random_batch() -> Batch:
    """Six transitions, each with masks of its own before and after."""
    legal = torch.rand(2, 6, 4) < 0.5
    legal[:, :, 0] = True
    return Batch(
        obs=torch.randn(6, 3),
        action=torch.zeros(6, dtype=torch.int64),
        reward=torch.randn(6),
        discount=torch.tensor([0.9, 0.9, 0.0, 0.9, 0.0, 0.9]),
        next_obs=torch.randn(6, 3),
        next_mask=legal[0],
        mask=legal[1],
    )


def published_loss(learner: SoftQ, batch: Batch) -> torch.Tensor:
    """Christodoulou 2019, eq. 4, 10 to 12, sample by sample; the halves of eq. 4 are added."""
    one, two = learner._critics()
    log_alpha = learner.log_temperature
    alpha, network = log_alpha.detach().exp(), learner.config.actor == "network"
    assert batch.mask is not None
    assert batch.next_mask is not None

    def policy(
        obs: torch.Tensor, legal: torch.Tensor, q: torch.Tensor
    ) -> tuple[list[int], torch.Tensor]:
        actions = legal.nonzero()[:, 0].tolist()
        preferences = learner.networks["actor"](obs[None])[0] if network else q / alpha
        weights = [preferences[a].exp() for a in actions]
        return actions, torch.stack([w / sum(weights) for w in weights])

    def smaller(critics: torch.nn.ModuleList, obs: torch.Tensor) -> torch.Tensor:
        first, second = critics
        return torch.minimum(first(obs[None])[0], second(obs[None])[0]).detach()

    total = torch.zeros(())
    for i in range(6):
        obs, ahead = batch.obs[i], batch.next_obs[i]
        q_ahead, q_here = smaller(learner.targets, ahead), smaller(learner._critics(), obs)
        actions, probabilities = policy(ahead, batch.next_mask[i], q_ahead)
        value = sum(
            p.detach() * (q_ahead[a] - alpha * p.detach().log())
            for a, p in zip(actions, probabilities, strict=True)
        )
        y = batch.reward[i] + batch.discount[i] * value
        for critic in (one, two):
            total = total + 0.5 * (critic(obs[None])[0, batch.action[i]] - y) ** 2
        actions, probabilities = policy(obs, batch.mask[i], q_here)
        if network:
            pairs = zip(actions, probabilities, strict=True)
            total = total + sum(p * (alpha * p.log() - q_here[a]) for a, p in pairs)
        wanted = 0.6 * math.log(len(actions))
        terms = (p.detach() * -log_alpha * (p.detach().log() + wanted) for p in probabilities)
        total = total + sum(terms)
    return total / 6


@pytest.mark.parametrize("agent", ["soft-q", "sac-discrete"])
def test_the_temperature_finds_the_wanted_entropy(agent: str) -> None:
    config = {**LEARNS, "temperature": 0.3, "entropy_share": 0.5, "hidden": (32,)}
    learner: SoftQ = build(agent, "test/Contexts-v0", config, num_envs=32)
    entropies: list[float] = []
    while learner.progress.steps < 4000:
        scalars = learner.iterate()
        entropies.append(float(scalars["entropy"]) if "entropy" in scalars else 0.0)
    target = 0.5 * math.log(3)  # three of four actions are legal
    assert sum(entropies[-20:]) / 20 == pytest.approx(target, abs=0.05)


def test_bad_input_is_named() -> None:
    with pytest.raises(UserError, match=r"temperature=0\.0: must be positive"):
        Config(temperature=0.0)
    with pytest.raises(UserError, match=r"entropy_share=1\.0: must be in"):
        Config(entropy_share=1.0)
    with pytest.raises(UserError, match="soft Q-learning accepts Discrete"):
        build("sac-discrete", "Pendulum-v1", {})


def test_the_memory_keeps_the_legal_actions_of_the_sampled_state() -> None:
    learner: SoftQ = build("sac-discrete", "test/Contexts-v0", {"buffer_size": 64})
    for _ in range(8):
        learner.iterate()
    batch = learner.memory.sample(50, learner.sampling, 0.9)
    assert batch.mask is not None
    expected = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 1], [1, 0, 1, 1]]).bool()
    torch.testing.assert_close(batch.mask, expected[batch.obs.argmax(1)])
    assert batch.mask.gather(1, batch.action[:, None]).all()
