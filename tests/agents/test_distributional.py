"""Distributional Q-learning and prioritised replay in DQN, against exact references."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from semigradient.agents.dqn import DQN
from semigradient.agents.dqn_config import Config
from semigradient.agents.q_distributions import Categorical51, Quantiles, rows_of
from semigradient.errors import UserError
from support.problems import DQN as SETTINGS
from support.problems import build

CPU = torch.device("cpu")
VALUES = {**SETTINGS, "loss": "huber"}


def projected(
    returns: list[Fraction], chances: list[Fraction], atoms: int, low: int, high: int
) -> list[Fraction]:
    """Algorithm 1 of Bellemare et al. 2017 with exact numbers, return by return."""
    step = Fraction(high - low, atoms - 1)
    mass = [Fraction(0)] * atoms
    for value, chance in zip(returns, chances, strict=True):
        place = (min(max(value, Fraction(low)), Fraction(high)) - low) / step
        below, above = place.__floor__(), place.__ceil__()
        if below == above:
            mass[below] += chance
        else:
            mass[below] += chance * (above - place)
            mass[above] += chance * (place - below)
    return mass


@pytest.mark.parametrize(("atoms", "low", "high"), [(51, -10, 10), (5, 0, 2), (2, -1, 1)])
def test_projection_equals_the_published_algorithm(
    atoms: int, low: int, high: int, float64: None
) -> None:
    rng = np.random.default_rng(atoms)
    law = Categorical51(atoms, low, high, CPU)
    rows, expected = [], []
    for discount in (Fraction(9, 10), Fraction(0), Fraction(1)):
        reward = Fraction(int(rng.integers(-80, 80)), 10)
        weights = [Fraction(int(w)) for w in rng.integers(1, 9, size=atoms)]
        chances = [w / sum(weights) for w in weights]
        step = Fraction(high - low, atoms - 1)
        returns = [reward + discount * (low + i * step) for i in range(atoms)]
        expected.append([float(m) for m in projected(returns, chances, atoms, low, high)])
        rows.append(([float(r) for r in returns], [float(c) for c in chances]))
    found = law.project(*(torch.tensor([row[i] for row in rows]) for i in (0, 1)))
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-12, rtol=0)
    torch.testing.assert_close(found.sum(1), torch.ones(3))


def test_categorical_losses_and_means_by_hand(float64: None) -> None:
    law = Categorical51(3, -1.0, 1.0, CPU)
    outputs = torch.tensor([[0.0, 0.0, 0.0, 1.0, 2.0, 3.0]])
    chances = np.exp([1.0, 2.0, 3.0]) / np.exp([1.0, 2.0, 3.0]).sum()
    expected = torch.tensor([[0.0, chances[2] - chances[0]]])
    torch.testing.assert_close(law.means(outputs), expected)
    chosen = rows_of(outputs, torch.tensor([1]), 3)
    torch.testing.assert_close(chosen, outputs[:, 3:])
    # All of the successor's mass at 1: the target is 0.5 + 0.25, three quarters of the way.
    following = torch.tensor([[-1e9, -1e9, 0.0]])
    loss = law.losses(chosen, torch.tensor([0.5]), torch.tensor([0.25]), following)
    torch.testing.assert_close(
        loss, torch.tensor([-(0.25 * np.log(chances[1]) + 0.75 * np.log(chances[2]))])
    )


def test_quantile_losses_by_loops(float64: None) -> None:
    law = Quantiles(4, CPU)
    chosen, following = torch.randn(3, 4) * 2, torch.randn(3, 4) * 2
    reward, discount = torch.randn(3), torch.tensor([0.9, 0.0, 0.5])
    found = law.losses(chosen, reward, discount, following)
    for row in range(3):
        total = 0.0
        for i in range(4):
            level = (2 * i + 1) / 8
            for j in range(4):
                target = float(reward[row] + discount[row] * following[row, j])
                error = target - float(chosen[row, i])
                huber = 0.5 * error**2 if abs(error) <= 1 else abs(error) - 0.5
                total += abs(level - (error < 0)) * huber / 4
        assert float(found[row]) == pytest.approx(total)
    assert law.means(torch.arange(8.0)[None]).tolist() == [[1.5, 5.5]]


def test_quantiles_rest_at_the_quantiles_of_returns_and_nowhere_else(float64: None) -> None:
    law, normal = Quantiles(5, CPU), torch.distributions.Normal(0.0, 100.0)
    reward, none = normal.icdf((torch.arange(1000) + 0.5) / 1000), torch.zeros(1000)

    def slope(move: float) -> torch.Tensor:
        theta = (normal.icdf(law.levels) + move).expand(1000, 5).requires_grad_()
        losses = law.losses(theta, reward, none, torch.zeros(1000, 5))
        return torch.autograd.grad(losses.mean(), theta)[0].sum(0)

    torch.testing.assert_close(slope(0.0), torch.zeros(5), atol=2e-3, rtol=0)
    # A level that is too high by as much leaves that share of the returns below it.
    for move in (-30.0, 30.0):
        expected = normal.cdf(normal.icdf(law.levels) + move) - law.levels
        torch.testing.assert_close(slope(move), expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("kind", ["c51", "quantile"])
def test_an_update_is_of_the_greedy_action_by_means_over_legal_ones(
    kind: str, double: bool
) -> None:
    config = {**VALUES, "distribution": kind, "atoms": 5, "v_min": -1.0, "v_max": 1.0}
    agent: DQN = build("dqn", "test/Contexts-v0", {**config, "double": double})
    law = agent.distribution
    assert law is not None
    with torch.no_grad():
        for parameter in agent.target.parameters():
            parameter.add_(torch.randn_like(parameter))
    while agent.progress.steps < 60:
        agent.iterate()
    batch = agent.memory.sample(30, agent.sampling, 0.9)
    assert batch.next_mask is not None
    found, value, errors = agent._loss_and_values(batch)
    with torch.no_grad():
        ahead = agent.target(batch.next_obs)
        chooser = law.means(agent.network(batch.next_obs) if double else ahead)
        losses, values = [], []
        for i in range(30):
            legal = batch.next_mask[i].nonzero()[:, 0].tolist()
            best = max(legal, key=lambda a, i=i: float(chooser[i, a]))
            outputs = agent.network(batch.obs[i : i + 1]).view(4, 5)[batch.action[i]][None]
            after = ahead[i].view(4, 5)[best][None]
            row = slice(i, i + 1)
            losses.append(law.losses(outputs, batch.reward[row], batch.discount[row], after))
            values.append(law.means(outputs))
    torch.testing.assert_close(errors, torch.cat(losses))
    torch.testing.assert_close(found.detach(), torch.cat(losses).mean())
    torch.testing.assert_close(value, torch.cat(values).mean())


@pytest.mark.parametrize(
    "config",
    [
        {"distribution": "c51", "v_min": -0.5, "v_max": 1.5, "atoms": 11},
        {"distribution": "quantile", "atoms": 8},
        {"replay": "prioritised", "loss": "mse"},
        {
            "distribution": "c51",
            "v_min": -0.5,
            "v_max": 1.5,
            "atoms": 11,
            "replay": "prioritised",
        },
    ],
    ids=lambda config: "-".join(map(str, config.values())),
)
def test_both_cells_of_a_corridor_are_valued(config: dict[str, Any]) -> None:
    chosen = {**VALUES, "schedule": "linear", "gradient_steps": 2, **config}
    agent = build("dqn", "test/TwoSteps-v0", chosen, total=600, rates={"lr": 2e-2})
    while agent.progress.steps < 600:
        agent.iterate()
    found = agent._values(np.eye(2, dtype=np.float32))
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.9], [0.0, 1.0]]), atol=0.1, rtol=0)


def test_priorities_are_the_errors_of_the_update_and_weights_scale_it(float64: None) -> None:
    config = {**SETTINGS, "replay": "prioritised", "batch_size": 8}
    agent: DQN = build("dqn", "test/Clock-v0", config, optimizer="sgd", rates={"lr": 1e-3})
    while agent.progress.steps < 36:
        agent.iterate()
    agent.network.double()
    agent.target.double()
    batch = agent.memory.sample(8, agent.sampling, 0.9)._replace(row=torch.arange(8))
    weight = torch.rand(8)
    batch = batch._replace(weight=weight, obs=torch.rand(8, 6), next_obs=torch.rand(8, 6))
    batch = batch._replace(reward=torch.randn(8))
    prediction = agent.network(batch.obs).gather(1, batch.action[:, None]).squeeze(1)
    target = batch.reward + batch.discount * agent.target(batch.next_obs).max(1).values
    by_hand = (weight * 0.5 * (prediction - target.detach()) ** 2).mean()
    expected = torch.autograd.grad(by_hand, agent._parameters)
    agent._learn(batch)
    for gradient, parameter in zip(expected, agent._parameters, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    errors = (prediction - target).abs().detach().numpy()
    np.testing.assert_allclose(agent.memory.tree.leaves[:8], (errors + 1e-6) ** 0.6)


@pytest.mark.parametrize("name", ["corrected-momentum", "corrected-adam", "oracle-momentum"])
def test_optimizers_that_know_targets_see_the_importance_weights(name: str) -> None:
    config = {**SETTINGS, "replay": "prioritised", "target": "none", "max_grad_norm": 0.0}
    config |= {"batch_size": 8, "hidden": (4,)}
    agent: DQN = build("dqn", "test/TwoSteps-v0", config, optimizer=name)
    shown, learned = agent._temporal_difference, agent._learn
    weights: list[Any] = []

    def learn(batch: Any, *more: Any) -> Any:
        weights.append([batch.weight])
        return learned(batch, *more)

    def show(*arguments: Any) -> Any:
        found = shown(*arguments)
        weights[-1].append(found.weight)
        return found

    agent._learn, agent._temporal_difference = learn, show  # type: ignore[method-assign]
    while agent.progress.steps < 80:
        agent.iterate()
    assert any(float(expected.min()) < 0.9 for expected, _ in weights)
    for expected, found in weights:
        torch.testing.assert_close(found, expected)


def test_what_does_not_go_together_is_refused_in_one_line() -> None:
    for config, message in (
        ({"distribution": "c51", "dueling": True}, "dueling=True: not with distribution='c51'"),
        ({"distribution": "c51", "loss": "mse"}, "loss='mse': distribution='c51' has a loss"),
        ({"distribution": "c51", "v_min": 2.0, "v_max": 2.0}, "v_min must be below v_max"),
        ({"distribution": "quantile", "atoms": 1}, "atoms=1: must be ≥ 2"),
        ({"distribution": "c52"}, "unknown distribution 'c52'"),
        ({"priority_exponent": 2.0}, r"priority_exponent=2\.0: must be in"),
    ):
        with pytest.raises(UserError, match=message):
            Config(**config)  # type: ignore[arg-type]
    quantiles = {**VALUES, "distribution": "quantile"}
    with pytest.raises(UserError, match="learns from temporal differences") as refused:
        build("dqn", "test/Clock-v0", quantiles, optimizer="corrected-momentum")
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="distribution='quantile': accepts Discrete actions"):
        build("dqn", "test/Echo-v0", quantiles, kind="pairs")
