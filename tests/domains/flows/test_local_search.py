"""Local search: which chains keep the target, and what is learned with it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from semigradient.domains.flows.estimates import Estimates
from semigradient.domains.flows.local_search import search, spliced
from semigradient.domains.flows.trajectories import Trajectories
from semigradient.envs.constructions.construction import Table
from semigradient.errors import UserError
from semigradient.nets.flow_network import FlowOutputs
from support.flow_agents import make
from support.flow_tables import random_graph, sample, tree, uneven_backward

COUNT = 10_000


def look_of(table: Table, seed: int = 1) -> Estimates:
    """A policy and a backward policy that are far from right."""
    random = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn((table.size, table.actions), generator=random)
    outputs = FlowOutputs(logits, uneven_backward(table).float(), None)
    return Estimates(table, lambda features: outputs, None, "learned")


def gap(table: Table, back: float, filter_: str, steps: int = 4) -> float:
    """Total variation from the target of chains that began with it."""
    at, random = look_of(table), torch.Generator().manual_seed(0)
    target = table.distribution(2.0)
    now = torch.multinomial(target, COUNT, True, generator=random)

    def log_target(states: Tensor) -> Tensor:
        return 2.0 * table.log_reward(states)

    moved = 0.0
    for _ in range(steps):
        found = search(table, lambda _: at, now, log_target, random, back, filter_)  # type: ignore[arg-type]
        now, moved = found.paths.objects, moved + float(found.accepted.float().mean())
    assert moved > 0.01
    share = torch.bincount(now, minlength=table.size).double() / COUNT
    return float((share - target).abs().sum() / 2)


@pytest.mark.parametrize("back", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("graph", ["random", "tree"])
def test_chains_that_begin_with_the_target_keep_it(graph: str, back: float) -> None:
    table = random_graph(0) if graph == "random" else tree(0)
    floor = float((table.distribution(2.0) / COUNT).sqrt().sum() / 2)
    assert gap(table, back, "metropolis") < 1.3 * floor
    assert gap(table, back, "deterministic") > 2.5 * floor


def test_a_construction_is_continued_where_it_was_cut() -> None:
    table = random_graph(2)
    old, tail = sample(table, 50), sample(table, 50, seed=1)
    keep = torch.zeros(50, dtype=torch.int64)
    whole = spliced(old, keep, tail, table.actions - 1)
    assert all(torch.equal(a, b) for a, b in zip(whole, tail, strict=True))
    one = Trajectories(
        torch.tensor([[0], [3], [5], [5]]), torch.tensor([[0], [1], [9]]), torch.tensor([3])
    )
    rest = Trajectories(
        torch.tensor([[3], [4], [6], [7], [7]]),
        torch.tensor([[2], [3], [4], [9]]),
        torch.tensor([4]),
    )
    found = spliced(one, torch.tensor([1]), rest, 9)
    assert found.state[:, 0].tolist() == [0, 3, 4, 6, 7, 7]
    assert found.action[:, 0].tolist() == [0, 2, 3, 4, 9]
    assert found.length.tolist() == [5]


SMALL = ("--hidden", "64", "--batch-size", "16", "--optim.lr", "1e-2", "--exact-every", "0")


@pytest.mark.parametrize("filter_", ["metropolis", "deterministic"])
def test_what_is_learned_does_not_depend_on_the_search(filter_: str) -> None:
    flags = ("--loss", "tb", "--local-search", 2, "--local-search-filter", filter_)
    agent = make(*SMALL, *flags, env=("height=4", "rule=exit_only", "reward=uniform"))
    for _ in range(130):
        agent.iterate()
    assert agent.evaluate()["tv"] < 0.05


def test_what_the_search_builds_is_counted_and_learned_from() -> None:
    agent = make(*SMALL, "--loss", "tb", "--local-search", 3, "--replay", "trajectories")
    learned: list[int] = []
    step = agent._learn
    agent._learn = lambda paths, at: (learned.append(len(paths.length)), step(paths, at))[1]  # type: ignore[method-assign]
    scalars = dict(agent.iterate())
    assert scalars["objects"] == 16 * (1 + 3)
    assert learned == [32]  # what was built, and where the search ended
    assert 0 <= float(scalars["accepted"]) <= 1
    assert agent.batches.memory is not None
    assert len(agent.batches.memory) == 32
    plain = make(*SMALL, "--loss", "tb")
    plain.iterate()
    assert agent.progress.steps > plain.progress.steps


def test_bad_input_is_one_line() -> None:
    with pytest.raises(UserError, match="local_search=-1: must be ≥ 0"):
        make("--local-search", -1)
    with pytest.raises(UserError, match=r"local_search_back=1.5: must be in \[0, 1\]"):
        make("--local-search-back", 1.5)
    with pytest.raises(UserError, match="local_search=1: a fixed set is not searched"):
        make("--local-search", 1, "--offline", "random-policy")
    with pytest.raises(UserError, match="local_search=1: accepted with backward uniform, learned"):
        make("--loss", "tb", "--local-search", 1, "--backward", "tree")
