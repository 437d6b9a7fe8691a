"""Exact solutions of reinforcement learning on a construction with enumerated states.

An agent with reward r(x) for the final object, rewards per step, and α per nat of entropy has the
optimum

    V(s) = α log Σ_a exp(Q(s, a) / α),    Q(s, a) = r_step(s, a) + V(s'),    π ∝ exp(Q / α).

With reward log R, α = 1 and no rewards per step it samples n(x) R(x), where n(x) counts the ways to
build x: it treats the graph as a tree (E. Bengio 2022, proposition 1). With the step rewards
log P_B(s | s') it samples R(x).
"""

from __future__ import annotations

import torch
from torch import Tensor

from semigradient.envs.constructions.construction import Table

_ILLEGAL = -1e30


def soft_optimum(
    table: Table, reward: Tensor, temperature: float = 1.0, step_reward: Tensor | None = None
) -> Tensor:
    """Log π (S, A) of the agent that is optimal for reward and entropy.

    Args:
        table: of the construction.
        reward: (S,) reward of each state as an object.
        temperature: α > 0.
        step_reward: (S, A) reward of each edge; default: 0.
    """
    return _evaluate(table, reward, step_reward, temperature)[1]


def uniform_values(table: Table, reward: Tensor) -> Tensor:
    """Q (S, A) of the uniform policy over legal actions, undiscounted."""
    return _evaluate(table, reward, None, 0.0)[0]


def soft_return(table: Table, log_policy: Tensor, reward: Tensor, temperature: float) -> float:
    """Expected reward of the object, plus α per nat of entropy along the way, of a policy (S, A).

    The largest of all policies' is that of `soft_optimum`.
    """
    states = torch.arange(table.size, device=table.device)
    legal = table.legal(states)
    log_policy = log_policy.double().masked_fill(~legal, _ILLEGAL)
    entropy = -(log_policy.exp() * log_policy).masked_fill(~legal, 0.0).sum(1)
    visited, ended = table.reach(log_policy)
    paid = torch.where(ended > 0, ended * reward.double(), 0.0).sum()
    return float(paid + temperature * (visited * entropy).sum())


def _evaluate(
    table: Table, reward: Tensor, step_reward: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor]:
    """Q and log π (S, A), from the objects backwards; temperature 0: of the uniform policy."""
    states = torch.arange(table.size, device=table.device)
    legal = table.legal(states)
    everything = (states.repeat_interleave(table.actions), _actions(table))
    child = table.child(*everything).view(legal.shape).clamp(min=0)
    finished, extra = table.finished(states), torch.zeros(legal.shape, dtype=torch.float64)
    extra = extra.to(table.device) if step_reward is None else step_reward.double()
    reward = reward.double()
    value = torch.where(finished, reward, 0.0)
    values = log_policy = extra
    for _ in range(table.horizon):
        # Complete objects are rewarded on arrival, others when the agent stops.
        ahead = value[child]
        ahead[:, -1] = reward
        values = (extra + ahead).masked_fill(~legal, _ILLEGAL)
        if temperature > 0:
            log_policy = (values / temperature).log_softmax(1)
        else:
            log_policy = torch.zeros_like(values).masked_fill(~legal, _ILLEGAL).log_softmax(1)
        probabilities = log_policy.exp().masked_fill(~legal, 0.0)
        gain = torch.where(legal, values - temperature * log_policy, 0.0)
        value = torch.where(finished, reward, (probabilities * gain).sum(1))
    return values, log_policy


def _actions(table: Table) -> Tensor:
    return torch.arange(table.actions, device=table.device).repeat(table.size)


def log_share_of_parents(table: Table) -> Tensor:
    """Log P_B (S, A) of every edge under uniform parents; 0 for stop."""
    states = torch.arange(table.size, device=table.device)
    everything = (states.repeat_interleave(table.actions), _actions(table))
    child = table.child(*everything).view(table.size, table.actions).clamp(min=0)
    share = -table.edges_into(child.flatten()).clamp(min=1).double().log().view(child.shape)
    share[:, -1] = 0
    return share
