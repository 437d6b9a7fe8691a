"""Exact optima on tables: path bias, correction, and values of the uniform policy on trees."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from semigradient.domains.flows.tabular import soft_optimum, soft_return, uniform_values
from semigradient.envs.constructions.construction import Table, tabulate
from semigradient.envs.constructions.hypergrid import HyperGridOptions
from semigradient.reproductions.gflownet.flow_theory import (
    bias_errors,
    equivalence_error,
    random_tree,
)


@pytest.mark.parametrize("rule", ["edge", "exit_only"])
def test_entropy_biases_by_the_number_of_paths(rule: str) -> None:
    table = tabulate(HyperGridOptions(3, 7, rule, r0=0.1).rules())  # type: ignore[arg-type]
    blind, told = bias_errors(table)
    assert blind < 1e-12
    assert told < 1e-12
    assert float((table.path_biased() - table.distribution()).abs().sum()) > 0.5


def test_a_cold_agent_takes_the_best_object() -> None:
    table = tabulate(HyperGridOptions(2, 5, reward="uniform").rules())
    reward = table.log_reward(torch.arange(table.size)).exp()
    law = table.reach(soft_optimum(table, reward, 1e-3))[1]
    best = table.objects[reward[table.objects].argmax()]
    assert float(law[best]) > 0.999


def test_values_are_flows_on_trees_and_not_elsewhere() -> None:
    rng = np.random.default_rng(1)
    trees = [random_tree(rng) for _ in range(20)]
    assert max(equivalence_error(tree) for tree in trees) < 1e-10
    assert max(tree.size for tree in trees) > 30


def test_uniform_values_by_hand() -> None:
    # 0 → 1 or 2; 1 may stop or go on to 3; 2 and 3 are complete.
    child = torch.tensor([[1, 2, -1], [3, -1, 1], [-1, -1, -1], [-1, -1, -1]])
    table = Table(child, torch.zeros(4), torch.eye(4))
    q = uniform_values(table, torch.tensor([9.0, 4.0, 1.0, 2.0]))
    assert q[1, [0, 2]].tolist() == [2, 4]
    assert q[0, :2].tolist() == [3, 1]


def test_soft_returns_by_hand() -> None:
    child = torch.tensor([[1, 2, -1], [3, -1, 1], [-1, -1, -1], [-1, -1, -1]])
    table = Table(child, torch.zeros(4), torch.eye(4))
    reward, alpha = torch.tensor([9.0, 4.0, 1.0, 2.0]), 2.0
    uniform = torch.full((4, 3), 0.5).log()
    # Half of the time to 2, paid 1; else to 1, where 2 or 4 is paid.
    assert soft_return(table, uniform, reward, 0.0) == pytest.approx(2.0)
    expected = 2.0 + alpha * 1.5 * math.log(2)
    assert soft_return(table, uniform, reward, alpha) == pytest.approx(expected)
    value = alpha * math.log(math.exp(1) + math.exp(2))
    best = alpha * math.log(math.exp(value / alpha) + math.exp(0.5))
    optimum = soft_optimum(table, reward, alpha)
    assert soft_return(table, optimum, reward, alpha) == pytest.approx(best)
