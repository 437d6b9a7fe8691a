"""What sampled trajectories, or all of them, say about log Z and about a policy.

With the weight w(τ) = R(x)^β P_B(τ | x) / P_F(τ) of a trajectory τ that ends in x, Z = E[w] over
P_F, and

    ELBO = E_{P_F}[log w] ≤ log Z ≤ E_{p(x) P_B(τ | x)}[log w] = EUBO

for any backward policy, with equality on both sides where the policy is exact (Malkin et al. 2023,
"GFlowNets and variational inference"; Blessing et al. 2024, "Beyond ELBOs", for the upper bound).
On a table both are sums over edges; elsewhere trajectories of P_F estimate all three, the upper
bound with their own weights: EUBO = E_{P_F}[w log w] / E_{P_F}[w].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from semigradient.domains.flows.estimates import Estimates
from semigradient.domains.flows.trajectories import Trajectories
from semigradient.envs.constructions.construction import Table

Look = Callable[[Tensor], Estimates]
_BLOCK = 8192


class Bounds(NamedTuple):
    """Around log Z, in nats."""

    elbo: float
    log_z: float
    eubo: float


@torch.no_grad()
def exact_bounds(table: Table, look: Look, log_policy: Tensor, exponent: float) -> Bounds:
    """Of a policy and a backward policy on a table.

    Args:
        table: of the construction.
        look: estimates at increasing states, which say P_B.
        log_policy: (S, A) log P_F.
        exponent: β.
    """
    states = torch.arange(table.size, device=table.device)
    into, log_backward = table.parents(states), backward_table(table, look)
    visited, reached = table.reach(log_policy)
    log_policy = log_policy.double()
    policy = log_policy.exp().masked_fill(~table.legal(states), 0.0)
    flows = table.shares(log_backward, exponent)
    target = table.distribution(exponent)

    def mean(edge: Tensor, ends: Tensor) -> float:
        """E[log w] of the probabilities of edges (S, A) and of objects (S,)."""
        ratio = log_backward - log_policy[into.state, into.action]
        weight = edge[into.state, into.action]
        inner = torch.where(into.real & (weight > 0), weight * ratio, 0.0).sum()
        stop = torch.where(edge[:, -1] > 0, -edge[:, -1] * log_policy[:, -1], 0.0).sum()
        return float(inner + stop + (ends * exponent * table.log_reward(states))[ends > 0].sum())

    forwards = mean(visited[:, None] * policy, reached)
    return Bounds(forwards, table.log_partition(exponent), mean(flows.edge, target))


@torch.no_grad()
def backward_table(table: Table, look: Look) -> Tensor:
    """Log P_B (S, K) float64 of the edges into every state."""
    parts = []
    for states in torch.arange(table.size, device=table.device).split(_BLOCK):
        parts.append(look(states).log_parents(states, table.parents(states)).double())
    return torch.cat(parts)


@torch.no_grad()
def log_ratios(look: Look, paths: Trajectories, block: int = 256) -> Tensor:
    """Log P_B(τ | x) - log P_F(τ) of trajectories: (B,) float64."""
    found = []
    for rows in torch.arange(len(paths.length), device=paths.length.device).split(block):
        state, action = paths.state[:, rows], paths.action[:, rows]
        part = Trajectories(state, action, paths.length[rows])
        at = look(state.unique())
        starts, actions, ends = state[:-1].flatten(), action.flatten(), state[1:].flatten()
        gain = at.log_backward(starts, actions, ends) - at.log_forward(starts, actions)
        found.append(torch.where(part.valid, gain.view(action.shape).double(), 0.0).sum(0))
    return torch.cat(found)


def sampled_bounds(log_weights: Tensor) -> Bounds:
    """Estimates from log w (n,) of trajectories of P_F."""
    log_z = log_weights.logsumexp(0) - math.log(len(log_weights))
    share = log_weights.softmax(0)
    upper = torch.where(share > 0, share * log_weights, 0.0).sum()
    return Bounds(float(log_weights.mean()), float(log_z), float(upper))
