"""Objectives of flow networks against exact flows, hand-computed gradients and each other."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from semigradient.domains.flows.estimates import Estimates
from semigradient.domains.flows.losses import (
    detailed_balance,
    flow_matching,
    reduce_edges,
    sub_trajectory_balance,
    trajectory_balance,
)
from semigradient.domains.flows.objectives import OBJECTIVES, Batch, Penalty, Rules
from semigradient.domains.flows.trajectories import Trajectories
from semigradient.envs.constructions.construction import Flows, Table
from semigradient.reproductions.gflownet.flow_runs import small_grid, tabular_flow_matching
from support.flow_tables import exact, graphs, penalty, random_graph, sample, tree, uneven_backward

# Exact flows


def test_the_flows_of_the_small_grid_are_the_published_ones() -> None:
    def cell(x: int, y: int) -> int:
        return x + 3 * y

    edge = small_grid("edge")
    flows = edge.flows()
    expected = {(0, 0): 29, (1, 0): 12.5, (0, 1): 15.5, (1, 1): 15}
    expected |= {(2, 0): 3, (0, 2): 5, (2, 1): 5, (1, 2): 6}
    for (x, y), flow in expected.items():
        assert float(flows.state[cell(x, y)]) == pytest.approx(flow, abs=1e-10)
    assert flows.edge[0].tolist() == pytest.approx([12.5, 15.5, 1.0], abs=1e-10)
    assert len(edge.objects) == 8
    assert math.exp(edge.log_partition()) == pytest.approx(29, abs=1e-10)

    free = small_grid("exit_only")
    flows = free.flows()
    expected = {(0, 0): 36, (1, 0): 63 / 4, (0, 1): 77 / 4, (1, 1): 13, (2, 0): 29 / 4}
    expected |= {(0, 2): 39 / 4, (2, 1): 17 / 2, (1, 2): 19 / 2, (2, 2): 7}
    for (x, y), flow in expected.items():
        assert float(flows.state[cell(x, y)]) == pytest.approx(flow, abs=1e-10)


# Without state flows, every state must be able to stop.
CASES = [
    (name, graph)
    for name in OBJECTIVES
    for graph in (("edge", "exit_only") if name == "modified-db" else graphs())
]


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize(("name", "graph"), CASES)
def test_every_objective_vanishes_at_exact_flows_only(name: str, graph: str, learned: bool) -> None:
    table = graphs()[graph]
    log_backward = uneven_backward(table) if learned else None
    flows, paths = table.flows(log_backward), sample(table)
    assert float(penalty(table, name, paths, flows, log_backward).by_trajectory().max()) < 1e-20

    noise = torch.Generator().manual_seed(1)
    jitter = (0.3 * torch.randn(flows.edge.shape, generator=noise, dtype=torch.float64)).exp()
    wrong = Flows(flows.state, flows.edge * jitter)
    assert float(penalty(table, name, paths, wrong, log_backward).by_trajectory().mean()) > 1e-3


def test_exact_flows_sample_in_proportion_to_the_reward_whatever_the_backward_policy() -> None:
    for seed in range(5):
        table = random_graph(seed)
        for log_backward in (None, uneven_backward(table, seed)):
            flows = table.flows(log_backward, exponent=2.0)
            policy = (flows.edge / flows.edge.sum(1, keepdim=True).clamp(min=1e-300)).log()
            visited, ended = table.reach(policy)
            p = table.distribution(2.0)
            assert float((ended - p).abs().max()) < 1e-12
            # Proposition 2: the chance to come by is the flow's share.
            share = flows.state / flows.state[0]
            assert float((visited - share)[table.reachable].abs().max()) < 1e-12


def test_on_trees_the_value_of_random_actions_is_the_flow() -> None:
    """Proposition 4: Q of the uniform policy, for rewards times the number of choices."""
    for seed in range(5):
        table = tree(seed)
        flow = table.flows().state.tolist()
        reward = table._log_reward.exp().tolist()

        def choices(state: int, graph: Table = table) -> list[int]:
            return [c for c in graph._child[state, :-1].tolist() if c >= 0]

        worst = 0.0

        def value(state: int, above: float) -> float:
            """V of the uniform policy, where `above` is the product of choices so far."""
            kids = choices(state)
            if not kids:
                return reward[state] * above  # noqa: B023
            f = above * len(kids)
            q = [value(kid, f) for kid in kids]
            for kid, each in zip(kids, q, strict=True):
                nonlocal worst
                worst = max(worst, abs(each - flow[kid] * f))  # noqa: B023
            return sum(q) / len(q)

        value(0, 1.0)
        assert worst < 1e-10


def test_forgetting_parallel_edges_vanishes_elsewhere() -> None:
    """A zero of flow matching with some parents left out is no sampler of R / Z."""
    table = random_graph(3)
    blind = Table(table._child, table._log_reward, table._features, multiplicity=False)
    assert blind.in_degree < table.in_degree
    loss, gap = tabular_flow_matching(table, 1.0, seed=0)
    assert loss < 1e-12
    assert gap < 1e-6
    loss, gap = tabular_flow_matching(blind, 1.0, seed=0)
    assert loss < 1e-12
    assert gap > 0.05


# Numbers and identities


@pytest.mark.parametrize(
    ("epsilon", "delta", "loss", "up", "down"),
    [
        (0.0, 0.405465, 0.164402, [0.270310, 0.540620], -0.405465),
        (1.0, 0.287682, 0.082761, [0.143841, 0.287682], -0.191788),
    ],
)
def test_gradients_of_flow_matching(
    epsilon: float, delta: float, loss: float, up: list[float], down: float
) -> None:
    parents = torch.tensor([0.0, math.log(2)], dtype=torch.float64, requires_grad=True)
    children = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    log_epsilon = math.log(epsilon) if epsilon else -math.inf
    residual = flow_matching(parents.logsumexp(0), children.logsumexp(0), log_epsilon)
    residual.square().backward()
    truth = math.log((3 + epsilon) / (2 + epsilon))
    assert residual.item() == pytest.approx(truth, abs=1e-10)
    assert truth == pytest.approx(delta, abs=1e-6)
    assert residual.item() ** 2 == pytest.approx(loss, abs=1e-6)
    ins = [2 * truth * flow / (3 + epsilon) for flow in (1, 2)]
    assert parents.grad.tolist() == pytest.approx(ins, abs=1e-10)
    assert ins == pytest.approx(up, abs=1e-6)
    assert children.grad.tolist() == pytest.approx([-2 * truth / (2 + epsilon)] * 2, abs=1e-10)
    assert children.grad[0].item() == pytest.approx(down, abs=1e-6)


def random_batch(t: int = 6, b: int = 5) -> dict[str, Tensor]:
    drawn = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=drawn, dtype=torch.float64)

    length = torch.tensor([6, 1, 2, 5, 3])
    return {"flow": normal(t + 1, b), "pf": normal(t, b), "pb": normal(t, b), "length": length}


def test_sub_trajectories_against_a_plain_loop_and_their_limits() -> None:
    batch = random_batch()
    flow, pf, pb, length = (batch[key] for key in ("flow", "pf", "pb", "length"))

    def loop(lambda_: float) -> list[float]:
        found = []
        for k, n in enumerate(length.tolist()):
            total, weights = 0.0, 0.0
            for i in range(n):
                for j in range(i + 1, n + 1):
                    gain = float((pf - pb)[i:j, k].sum())
                    weight = lambda_ ** (j - i)
                    total += weight * (float(flow[i, k] - flow[j, k]) + gain) ** 2
                    weights += weight
            found.append(total / weights)
        return found

    for lambda_ in (0.5, 0.9, 1.0, 3.0):
        ours = sub_trajectory_balance(flow, pf, pb, length, lambda_)
        assert ours.tolist() == pytest.approx(loop(lambda_), rel=1e-10)
    valid = torch.arange(6)[:, None] < length
    steps = detailed_balance(flow, pf, pb).square()
    one = sub_trajectory_balance(flow, pf, pb, length, 1e-12)
    assert torch.allclose(one, torch.where(valid, steps, 0.0).sum(0) / length, rtol=1e-6)
    ends = flow.gather(0, length[None])[0]
    log_z = flow[0]
    whole = trajectory_balance(log_z, pf, pb, ends, valid).square()
    most = sub_trajectory_balance(flow, pf, pb, length, 1e12)
    assert torch.allclose(most, whole, rtol=1e-6)


def test_gradients_agree_with_finite_differences() -> None:
    batch = random_batch()
    length = batch["length"]
    flow, pf, pb = (batch[key].requires_grad_() for key in ("flow", "pf", "pb"))
    valid = torch.arange(6)[:, None] < length

    def sub(flow: Tensor, pf: Tensor, pb: Tensor) -> Tensor:
        return sub_trajectory_balance(flow, pf, pb, length, 0.9)

    def db(flow: Tensor, pf: Tensor, pb: Tensor) -> Tensor:
        return torch.where(valid, detailed_balance(flow, pf, pb), 0.0).square()

    def tb(flow: Tensor, pf: Tensor, pb: Tensor) -> Tensor:
        return trajectory_balance(flow[0, 0], pf, pb, flow[-1], valid).square()

    for function in (sub, db, tb):
        assert torch.autograd.gradcheck(function, (flow, pf, pb))


def test_reductions_by_hand() -> None:
    cost = torch.tensor([[1.0, 2.0], [4.0, 8.0], [16.0, 32.0]])
    valid = torch.tensor([[True, True], [True, True], [False, True]])
    final = torch.tensor([[False, False], [True, False], [True, True]])
    assert reduce_edges(cost, valid, final, "sum_trajectory", 10.0) == pytest.approx(47 / 2)
    assert reduce_edges(cost, valid, final, "mean_transitions", 10.0) == pytest.approx(47 / 5)
    balanced = reduce_edges(cost, valid, final, "balanced", 10.0)
    assert balanced == pytest.approx(10 * (4 + 32) / 2 + 11 / 3)


@pytest.mark.parametrize("graph", ["edge", "exit_only", "random", "tree"])
@pytest.mark.parametrize("name", [name for name, each in OBJECTIVES.items() if each.has_target])
def test_a_target_network_gives_the_flows_further_on(name: str, graph: str) -> None:
    table = graphs()[graph]
    flows, paths = table.flows(), sample(table)
    reward = table.log_reward(torch.arange(table.size))
    right = exact(table, flows, None, name)
    wrong = exact(table, Flows(2 * flows.state, 2 * flows.edge), None, name)

    def cost(at: Estimates, frozen: Estimates) -> Penalty:
        return OBJECTIVES[name](Batch(paths, at, reward, torch.zeros(()), frozen), Rules())

    assert float(cost(right, right).by_trajectory().max()) < 1e-20
    # Flows twice as high lie log 2 above; what drains an object is its reward all the same.
    found = cost(right, wrong)
    assert found.valid is not None
    assert found.final is not None
    inner = found.value[found.valid & ~found.final]
    assert inner.tolist() == pytest.approx([math.log(2) ** 2] * len(inner))
    assert float(found.value[found.valid & found.final].max()) < 1e-20


@pytest.mark.parametrize("reduction", ["mean_transitions", "sum_trajectory", "balanced"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_batch_that_stops_at_the_root_has_a_finite_loss(name: str, reduction: str) -> None:
    table = small_grid("exit_only")
    flows, root, stop = table.flows(), torch.tensor([table.root]), table.actions - 1
    paths = Trajectories(torch.stack([root, root]), torch.tensor([[stop]]), torch.tensor([1]))
    scale = torch.tensor(1.1, dtype=torch.float64, requires_grad=True)
    wrong = Flows(flows.state * scale, flows.edge * scale ** torch.arange(3))
    found = penalty(table, name, paths, wrong, None)
    loss = found.loss(Rules(reduction=reduction))
    loss.backward()
    assert scale.grad is not None
    assert all(bool(torch.isfinite(each)) for each in (loss, scale.grad, *found.parts().values()))
    # Without state flows stopping is no condition, and no condition costs nothing.
    assert (loss.item() == 0) == (name in ("modified-db", "log-variance"))
