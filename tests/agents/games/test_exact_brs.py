"""Exact best response shaping: what it learns, and what it needs for that."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from semigradient import make_agent
from semigradient.domains.games.coin_values import CoinValues
from semigradient.envs import make_vector
from semigradient.errors import UserError

VALUES, HORIZON = CoinValues(), 50


def trained(agent: str, updates: int, **options: Any) -> Any:
    learner: Any = make_agent(
        agent, "semigradient/CoinGame-v0", seed=0, steps=max(1, updates), **options
    )
    for _ in range(updates):
        learner.iterate()
    return learner


def per_step(learner: Any) -> tuple[float, float, float]:
    """Return of the agent and of its best response, and of the agent with itself."""
    policy = learner.probabilities()
    agent, response = VALUES.best_response(policy, HORIZON).start / HORIZON
    return (
        float(agent),
        float(response),
        float(VALUES.pair(policy, policy, HORIZON).start[0] / HORIZON),
    )


def test_with_self_play_the_best_response_is_to_cooperate() -> None:
    agent, response, alone = per_step(trained("brs-sp-exact", 40, lookahead=12))
    # Cooperation pays 0.349. Measured: 0.33, 0.35, 0.34; without memory the agent keeps 0.1.
    assert agent > 0.25
    assert response < 0.4
    assert alone > 0.3


def test_without_self_play_it_exploits_its_best_response_and_does_not_cooperate_with_itself() -> (
    None
):
    agent, response, alone = per_step(trained("brs-exact", 40, lookahead=12))
    # Measured: 0.38, 0.17, 0.01. Without the gradient through the reply all three are 0.
    assert agent > 0.25
    assert response < 0.25
    assert abs(alone) < 0.05


def test_a_step_ascends_the_objective_by_its_exact_gradient() -> None:
    learner = trained("brs-sp-exact", 0, lookahead=4, optim="sgd", optim_options={"lr": 1e-3})
    logits = learner.network.logits

    def objective() -> torch.Tensor:
        policy = learner._policy()
        reply = VALUES.best_response(policy, 4, 0.96, 1.0).start[0]
        return reply + VALUES.pair(policy, policy, 4, 0.96).start[0]

    (gradient,) = torch.autograd.grad(objective(), logits)
    expected = logits.detach() + 1e-3 * gradient
    learner.iterate()
    torch.testing.assert_close(logits.detach(), expected)


def test_the_temperature_falls_geometrically_to_its_end() -> None:
    learner: Any = make_agent("brs-exact", "semigradient/CoinGame-v0", steps=3, lookahead=1)
    temperatures = [learner.iterate()["temperature"] for _ in range(4)]
    np.testing.assert_allclose(temperatures, [1.0, 0.2**0.5, 0.2, 0.2])


@pytest.mark.parametrize("hidden", [0, 8])
def test_without_memory_the_policy_is_the_same_for_all_memories(hidden: int) -> None:
    learner: Any = make_agent(
        "brs-exact", "semigradient/CoinGame-v0", steps=1, lookahead=2, memory=False, hidden=hidden
    )
    learner.iterate()
    rows = learner.probabilities().view(-1, 4, 4)
    assert torch.equal(rows, rows[:, :1].expand_as(rows))


def test_the_policy_of_observations_is_the_player() -> None:
    learner = trained("brs-sp-exact", 2, lookahead=2)
    envs = make_vector("semigradient/CoinGame-v0", 5, 0, horizon=8)
    learner.game.horizon = 8
    act, player = learner.policy(deterministic=True), learner.player(deterministic=True)
    obs, _ = envs.reset()
    memory = torch.zeros(5, 1)
    for _ in range(8):
        expected, memory = player.act(envs.state, 0, memory, None)
        actions = act(obs)
        assert actions.tolist() == expected.tolist()
        obs, *_ = envs.step(actions)


def test_other_environments_are_refused() -> None:
    with pytest.raises(UserError, match="brs-exact plays semigradient/CoinGame-v0"):
        make_agent("brs-exact", "CartPole-v1")
    with pytest.raises(UserError, match=r"^initial_scale=0.5: is for a table, hidden=0"):
        make_agent("brs-exact", "semigradient/CoinGame-v0", hidden=8, initial_scale=0.5)
