"""Small graphs of states, and flows that are exact on them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from semigradient.domains.flows.estimates import Estimates
from semigradient.domains.flows.objectives import OBJECTIVES, Batch, Penalty, Rules
from semigradient.domains.flows.trajectories import (
    Trajectories,
    forward,
    uniform,
    uniform_draws,
)
from semigradient.envs.constructions.construction import Flows, Table
from semigradient.nets.flow_network import FlowOutputs
from semigradient.reproductions.gflownet.flow_runs import small_grid


def random_graph(seed: int, size: int = 14, actions: int = 4) -> Table:
    """A random acyclic graph with repeated edges; some states may stop, dead ends are complete."""
    rng = np.random.default_rng(seed)
    child = np.full((size, actions + 1), -1)
    for state in range(size - 1):
        for action in range(actions):
            if rng.random() < 0.6 or action == 0:
                child[state, action] = rng.integers(state + 1, min(size, state + 5))
        if rng.random() < 0.6 or state == 0:
            child[state, -1] = state
    log_reward = torch.from_numpy(rng.normal(size=size))
    return Table(torch.from_numpy(child), log_reward, torch.eye(size))


def tree(seed: int) -> Table:
    """A random tree of depth 4 with branching 1 to 4, whose leaves are the objects."""
    rng = np.random.default_rng(seed)
    rows, layer = [[-1] * 5], [0]
    for _ in range(4):
        following = []
        for state in layer:
            for action in range(rng.integers(1, 5)):
                rows[state][action] = len(rows)
                following.append(len(rows))
                rows.append([-1] * 5)
        layer = following
    log_reward = torch.from_numpy(rng.normal(size=len(rows)))
    return Table(torch.tensor(rows), log_reward, torch.zeros(len(rows), 1))


def uneven_backward(table: Table, seed: int = 0) -> Tensor:
    """A full-support backward policy: (S, K) log P_B."""
    drawn = torch.Generator().manual_seed(seed)
    real = table.parents(torch.arange(table.size)).real
    logits = torch.randn(real.shape, generator=drawn, dtype=torch.float64)
    return logits.masked_fill(~real, -1e30).log_softmax(1)


def exact(table: Table, flows: Flows, log_backward: Tensor | None, name: str) -> Estimates:
    """What a network would say that knows the flows."""
    edge, state = flows.edge.clamp(min=1e-300).log(), flows.state.clamp(min=1e-300).log()
    if name.startswith("fl-"):
        state = state - table.log_reward(torch.arange(table.size))

    def network(features: Tensor) -> FlowOutputs:
        return FlowOutputs(edge, log_backward, state)

    return Estimates(table, network, None, "uniform" if log_backward is None else "learned")


def penalty(
    table: Table, name: str, paths: Trajectories, flows: Flows, log_backward: Tensor | None
) -> Penalty:
    at = exact(table, flows, log_backward, name)
    reward = table.log_reward(torch.arange(table.size))
    return OBJECTIVES[name](Batch(paths, at, reward, flows.state[0].log()), Rules())


def sample(table: Table, count: int = 64, seed: int = 0) -> Trajectories:
    draws = uniform_draws(table, count, torch.Generator().manual_seed(seed))
    return forward(table, uniform(table), draws)


def graphs() -> dict[str, Table]:
    return {
        "edge": small_grid("edge"),
        "exit_only": small_grid("exit_only"),
        "random": random_graph(0),
        "tree": tree(0),
    }
