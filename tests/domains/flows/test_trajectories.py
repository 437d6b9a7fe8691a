"""Trajectories of flow networks: sampled forwards, backwards and remembered."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from semigradient.agents.gflownet.batches import behaviour
from semigradient.domains.flows import trajectories
from semigradient.domains.flows.estimates import Estimates, with_parents
from semigradient.domains.flows.objectives import OBJECTIVES, Batch, Rules
from semigradient.domains.flows.table_sampler import TableSampler
from semigradient.domains.flows.trajectories import (
    Memory,
    Trajectories,
    backward,
    choose,
    edges,
    forward,
    join,
    running_sum,
    uniform_draws,
)
from semigradient.envs.constructions.building import Building
from semigradient.envs.constructions.construction import Table, tabulate
from semigradient.envs.constructions.hypergrid import HyperGridOptions
from semigradient.nets.bricks import ACTIVATIONS, mlp
from semigradient.nets.flow_network import FlowNetwork, FlowOutputs
from semigradient.nets.recalled import can_recall, in_place, pairs, recalled
from semigradient.reproductions.gflownet.flow_runs import small_grid
from support.flow_tables import graphs, random_graph, sample, tree

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


def test_rounding_of_running_sums_never_chooses_what_is_forbidden() -> None:
    up = torch.nextafter(torch.tensor(0.5), torch.tensor(1.0))
    below = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0))
    allowed = torch.tensor([[True, False, True, False]])

    def chosen(sums: list[float | Tensor], draw: float | Tensor) -> int:
        return int(
            choose(torch.tensor([[float(each) for each in sums]]), allowed, torch.tensor([draw]))
        )

    assert [chosen([0.5, 0.5, 1, 1], draw) for draw in (0.0, 0.4999, 0.5, below)] == [0, 0, 2, 2]
    assert chosen([0.5, up, 1, 1], 0.5) == 2  # the sum rises at a probability of zero
    assert chosen([0.5, 0.4, 1, 1], 0.45) == 0  # and falls
    assert chosen([0.5, 0.5, below, 1], below) == 2  # and is reached late
    assert chosen([0.5, 0.5, 0.9, 0.9], 0.95) == 2  # or never


@pytest.mark.parametrize("graph", ["edge", "random", "tree"])
def test_constructions_are_legal_with_the_draws_that_rounding_would_fail(
    graph: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Running sums with errors as of a parallel scan, and draws that fall between the two."""
    table = graphs()[graph]
    random = torch.Generator().manual_seed(0)

    def scanned(probability: Tensor) -> Tensor:
        sums = running_sum(probability)
        return sums + 0.02 * (torch.rand(sums.shape, generator=random) - 0.5)

    draws = torch.rand((table.horizon, 400), generator=random)
    draws[:, ::2] = torch.tensor([0.25, 0.5, 1 / 3, 0.999])[torch.arange(200) % 4]
    paths = forward(table, lambda at: scanned(table.legal(at).float()), draws)
    check_paths(table, paths)
    monkeypatch.setattr(trajectories, "running_sum", scanned)
    check_paths(table, backward(table, paths.objects, random))


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
        logits = Estimates(table, network, None, "uniform").log_edges.detach()
        found = sampler.forward_knowing(logits, draws, sharpness, random).paths
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    with torch.no_grad():
        network.trunk[-1].bias[3] = 50.0  # the policy always stops at once
    assert sampler.forward(draws, 1.0, 0.0).paths.length.tolist() == [1] * 100


@pytest.mark.parametrize("graph", ["edge", "exit_only", "random", "tree"])
def test_sampling_in_numpy_asks_once_about_every_state_of_the_batch(graph: str) -> None:
    table = graphs()[graph]
    network = FlowNetwork(table.width, table.actions, 0, True, (8,), "leaky_relu")
    draws = uniform_draws(table, 50, torch.Generator().manual_seed(0))
    for and_parents in (False, True):
        paths, known = TableSampler(table, network).forward(draws, 1.0, 0.0, and_parents)
        check_paths(table, paths)
        assert known is not None
        assert len(known.states.unique()) == len(known.states)
        met = with_parents(table, paths.state) if known.has_parents else paths.state
        assert bool(torch.isin(met, known.states).all())
        outputs = network.trunk(table.features(known.states))
        assert torch.allclose(known.values[-1], outputs, atol=1e-6)
    assert known.has_parents


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

    paths = sample(table)
    for name in OBJECTIVES:
        values = []
        for states in (None, with_parents(table, paths.state)):
            at = Estimates(table, network, states, "learned")
            reward = table.log_reward(at.everything).float()
            batch = Batch(paths, at, reward, torch.tensor(0.5))
            values.append(OBJECTIVES[name](batch, Rules()).loss(Rules()))
        assert values[0].item() == pytest.approx(values[1].item(), rel=1e-5)
