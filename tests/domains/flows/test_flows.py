"""Objectives of flow networks against exact flows, hand-computed gradients and each other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from semigradient.agents.gflownet.batches import behaviour
from semigradient.domains.flows.estimates import Estimates
from semigradient.domains.flows.losses import (
    detailed_balance,
    flow_matching,
    reduce_edges,
    sub_trajectory_balance,
    trajectory_balance,
)
from semigradient.domains.flows.objectives import OBJECTIVES, Batch, Penalty, Rules
from semigradient.domains.flows.table_sampler import TableSampler
from semigradient.domains.flows.trajectories import (
    Memory,
    Trajectories,
    backward,
    edges,
    forward,
    join,
    uniform,
    uniform_draws,
)
from semigradient.envs.constructions.building import Building
from semigradient.envs.constructions.construction import Flows, Table, tabulate
from semigradient.envs.constructions.hypergrid import HyperGridOptions
from semigradient.nets.bricks import ACTIVATIONS, mlp
from semigradient.nets.flow_network import FlowNetwork, FlowOutputs
from semigradient.nets.recalled import can_recall, in_place, pairs, recalled
from semigradient.reproductions.gflownet.flow_runs import small_grid, tabular_flow_matching


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


def graphs() -> dict[str, Table]:
    return {
        "edge": small_grid("edge"),
        "exit_only": small_grid("exit_only"),
        "random": random_graph(0),
        "tree": tree(0),
    }


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


# Trajectories


def check_paths(table: Table, paths: Trajectories) -> None:
    """Every edge is legal and leads where it says; lengths and padding are right."""
    for k, n in enumerate(paths.length.tolist()):
        states, actions = paths.state[:, k].tolist(), paths.action[:, k].tolist()
        assert states[0] == table.root
        for t in range(n):
            assert table._child[states[t], actions[t]] == states[t + 1]
        assert states[n:] == [states[n]] * (len(states) - n)
        assert bool(table.complete[states[n]]) or actions[n - 1] == table.actions - 1
        assert all(a != table.actions - 1 for a in actions[: n - 1])


@pytest.mark.parametrize("graph", ["edge", "exit_only", "random", "tree"])
def test_sampling_forwards_and_backwards_follows_the_edges(graph: str) -> None:
    table = graphs()[graph]
    paths = sample(table, 200)
    check_paths(table, paths)
    back = backward(table, paths.objects, torch.Generator().manual_seed(3))
    check_paths(table, back)
    assert torch.equal(back.objects, paths.objects)
    both = join([paths, back], table.actions - 1)
    check_paths(table, both)
    singles = edges(both)
    assert len(singles.length) == int(both.length.sum())
    assert torch.equal(table.child(singles.state[0], singles.action[0]), singles.state[1])


def test_sampling_in_numpy_builds_the_same_objects() -> None:
    table = tabulate(HyperGridOptions(3, 6, "exit_only", reward="cosine").rules())
    torch.manual_seed(0)
    network = FlowNetwork(table.width, table.actions, 0, True, (32, 16), "tanh")
    sampler = TableSampler(table, network)
    draws = uniform_draws(table, 100, torch.Generator().manual_seed(0))
    for sharpness, random in ((1.0, 0.0), (3.0, 0.2)):

        def cumulative(states: Tensor) -> Tensor:
            at = Estimates(table, network, states, "uniform")
            return behaviour(at, sharpness, random)  # noqa: B023

        expected = forward(table, cumulative, draws)
        found = sampler.forward(draws, sharpness, random).paths
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    with torch.no_grad():
        network.trunk[-1].bias[3] = 50.0  # the policy always stops at once
    assert sampler.forward(draws, 1.0, 0.0).paths.length.tolist() == [1] * 100


@pytest.mark.parametrize("graph", ["edge", "exit_only", "random", "tree"])
def test_sampling_in_numpy_asks_once_about_every_state_of_the_batch(graph: str) -> None:
    table = graphs()[graph]
    network = FlowNetwork(table.width, table.actions, 0, True, (8,), "leaky_relu")
    draws = uniform_draws(table, 50, torch.Generator().manual_seed(0))
    paths, known = TableSampler(table, network).forward(draws, 1.0, 0.0)
    check_paths(table, paths)
    assert known is not None
    assert len(known.states.unique()) == len(known.states)
    assert bool(torch.isin(paths.state, known.states).all())
    outputs = network.trunk(table.features(known.states))
    assert torch.allclose(known.values[-1], outputs, atol=1e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_recalled_perceptron_has_the_gradient_of_a_computed_one(activation: str) -> None:
    torch.manual_seed(0)
    trunk = mlp((5, 7, 6, 3), activation).double()
    assert can_recall(trunk) == (activation != "silu")  # whose outputs do not say its slope
    x, known = torch.randn(20, 5, dtype=torch.float64, requires_grad=True), []
    with torch.no_grad():
        z = x
        for layer, then in pairs(trunk):
            z = layer(z)
            known.append(z if then is None else in_place(then)(z))
    expected = trunk(x)
    assert torch.allclose(z, expected, atol=1e-14)
    if not can_recall(trunk):
        return
    weight = torch.randn_like(expected)
    of = [x, *trunk.parameters()]
    computed = torch.autograd.grad((expected * weight).sum(), of)
    found = torch.autograd.grad((recalled(trunk, x, known) * weight).sum(), of)
    for ours, theirs in zip(found, computed, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-13)


def test_an_illegal_stop_changes_nothing() -> None:
    table = tree(0)  # only leaves are objects
    core = Building(table, {})
    state = core.reset(2)
    stop = torch.tensor([table.actions - 1, 0])
    step = core.step(state, stop)
    assert step.state.number.tolist() == [0, int(table._child[0, 0])]
    assert not step.terminated.any()
    assert step.reward.tolist() == [0, 0]


def test_frequencies_of_forward_sampling_are_exact_probabilities() -> None:
    table, count = random_graph(1), 40_000
    legal = table.legal(torch.arange(table.size)).double()
    _, expected = table.reach((legal / legal.sum(1, keepdim=True).clamp(min=1)).log())
    found = torch.bincount(sample(table, count).objects, minlength=table.size) / count
    error = (expected * (1 - expected) / count).sqrt()
    assert bool(((found - expected).abs() <= 4.5 * error + 1e-9).all())


def test_frequencies_of_backward_sampling_are_those_of_uniform_parents() -> None:
    table, count = random_graph(2), 40_000
    object_ = int(table.objects[-1])
    flows = Table(
        table._child,
        torch.where(torch.arange(table.size) == object_, 0.0, -torch.inf),
        table._features,
    ).flows()
    back = backward(table, torch.full((count,), object_), torch.Generator().manual_seed(0))
    met = torch.zeros(table.size)
    for row in back.state.unique(dim=1, return_counts=True)[0].T:
        assert int(row[-1]) == object_
    for state in range(table.size):
        met[state] = (back.state == state).any(0).float().mean()
    expected = flows.state
    error = (expected * (1 - expected) / count).clamp(min=0).sqrt()
    assert bool(((met - expected).abs() <= 4.5 * error + 1e-9).all())


def test_a_memory_forgets_the_oldest_or_the_worst() -> None:
    table = small_grid("exit_only")
    paths = sample(table, 8)

    def part(columns: list[int]) -> Trajectories:
        return Trajectories(
            paths.state[:, columns], paths.action[:, columns], paths.length[columns]
        )

    newest = Memory(3, table.horizon, table.actions - 1, table.device)
    best = Memory(3, table.horizon, table.actions - 1, table.device, top=True)
    priority = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0, 9.0, 0.0, 0.5])
    for columns in ([0, 1], [2, 3], [4], [5, 6, 7]):
        newest.add(part(columns), priority[columns])
        best.add(part(columns), priority[columns])
    assert sorted(newest.priority.tolist()) == [0.0, 0.5, 9.0]
    assert sorted(best.priority.tolist()) == [4.0, 5.0, 9.0]
    random = torch.Generator().manual_seed(0)
    drawn, places = best.sample(3000, random, 1.0)
    check_paths(table, drawn)
    share = torch.bincount(places, minlength=3) / 3000
    expected = best.priority.softmax(0)
    assert bool(((share - expected).abs() < 0.03).all())
    other = Memory(3, table.horizon, table.actions - 1, table.device, top=True)
    other.load_state_dict(best.state_dict())
    again, _ = other.sample(50, torch.Generator().manual_seed(1), 0.0)
    first, _ = best.sample(50, torch.Generator().manual_seed(1), 0.0)
    assert all(torch.equal(a, b) for a, b in zip(again, first, strict=True))


def test_penalties_do_not_depend_on_which_states_are_looked_at() -> None:
    """A network asked about the batch's own states gives what one asked about all does."""
    table = small_grid("edge")
    torch.manual_seed(0)
    weights: Any = torch.nn.Linear(table.width, 3 + 2 + 1)

    def network(features: Tensor) -> FlowOutputs:
        out = weights(features)
        return FlowOutputs(out[:, :3], out[:, 3:5], out[:, 5])

    from semigradient.domains.flows.estimates import with_parents

    paths = sample(table)
    for name in OBJECTIVES:
        values = []
        for states in (None, with_parents(table, paths.state)):
            at = Estimates(table, network, states, "learned")
            reward = table.log_reward(at.everything).float()
            batch = Batch(paths, at, reward, torch.tensor(0.5))
            values.append(OBJECTIVES[name](batch, Rules()).loss(Rules()))
        assert values[0].item() == pytest.approx(values[1].item(), rel=1e-5)
