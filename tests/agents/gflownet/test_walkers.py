"""Metropolis-Hastings and random constructions against their exact laws."""

from __future__ import annotations

import pytest
import torch

from semigradient.agents.gflownet.walkers import Walker, random_law, stationary
from semigradient.domains.flows.sample_counts import floor
from semigradient.envs.constructions.construction import tabulate
from semigradient.envs.constructions.hypergrid import HyperGridOptions
from semigradient.errors import UserError
from semigradient.training.build import build
from semigradient.training.cli import parse

GRID = "semigradient/HyperGrid-v0"


def make(agent: str, *flags: object, env: tuple[str, ...] = ()) -> Walker:
    words = ["--agent", agent, "--env", GRID, *map(str, flags)]
    built = build(parse([*words, *(["--env-options", *env] if env else [])]).command)
    assert isinstance(built, Walker)
    return built


@pytest.mark.parametrize(("r0", "modes", "l1"), [(0.1, 0.0111, 4.30e-5), (0.001, 0.0401, 9.95e-5)])
def test_counting_accepted_moves_only_has_the_published_bias(
    r0: float, modes: float, l1: float
) -> None:
    grid = HyperGridOptions(4, 8, "exit_only", r0=r0).rules()
    table = tabulate(grid)
    law, p = stationary(grid, accepted_only=True), table.distribution()
    states = torch.arange(table.size)
    assert float(law[table.modes(states) >= 0].sum()) == pytest.approx(modes, abs=1e-4)
    assert float((law - p).abs().mean()) == pytest.approx(l1, rel=2e-2)
    assert torch.equal(stationary(grid), p)


@pytest.mark.parametrize("accepted_only", [False, True])
def test_the_chain_converges_to_its_law(accepted_only: bool) -> None:
    flags = ["--moves", 1500, "--chains", 200, *(["--accepted-only"] if accepted_only else [])]
    walker = make("metropolis", *flags, env=("height=7", "r0=0.3"))
    walker.iterate()
    walker.visits.recent = walker.visits.recent[:0]
    walker.visits._pending = []
    walker.iterate()
    counts = walker.visits.counts().double()
    assert walker.grid is not None
    law = stationary(walker.grid, accepted_only)
    other = stationary(walker.grid, not accepted_only)
    gap, wrong = ((counts / counts.sum() - each).abs().sum() / 2 for each in (law, other))
    # 200 000 samples of chains that forget in about 50 moves leave a gap of some 0.03.
    assert float(gap) < 0.04
    assert float(wrong) > 3 * float(gap)


def test_random_constructions_have_the_closed_form() -> None:
    walker = make("random", "--chains", 20_000, env=("dimensions=4",))
    found = dict(walker.iterate())
    assert found["l1"] == pytest.approx(4.177e-4, rel=1e-3)
    law = random_law(walker.table)
    gap = (walker.visits.counts() / 20_000 - law)[walker.table.objects].abs().mean()
    assert float(gap) < 1.1 * floor(law, walker.table, 20_000)
    assert walker.progress.steps > 20_000


def test_other_environments_are_refused() -> None:
    words = ["--agent", "metropolis", "--env", "CartPole-v1"]
    with pytest.raises(UserError, match="--env CartPole-v1: metropolis walks on"):
        build(parse(words).command)
    with pytest.raises(UserError, match="chains=0: must be ≥ 1"):
        make("metropolis", "--chains", 0)


def test_chance_builds_anything() -> None:
    pytest.importorskip("rdkit", reason="the extra 'molecules' is not installed")
    env = ["--env-options", "vocabulary=small", "max_blocks=3"]
    words = ["--agent", "random", "--env", "semigradient/Molecule-v0", "--chains", "20", *env]
    walker = build(parse(words).command)
    assert isinstance(walker, Walker)
    assert dict(walker.iterate())["objects"] == 20
    ended = walker.progress.pop_episodes()
    assert len(ended) == 20
    assert all(reward > 0 and 2 <= length <= 3 for reward, length in ended)
    with pytest.raises(UserError, match="--env CartPole-v1: random builds objects"):
        build(parse(["--agent", "random", "--env", "CartPole-v1"]).command)
    with pytest.raises(UserError, match="accepted_only=True: kind='random' has no moves"):
        parse([*words, "--accepted-only"])
