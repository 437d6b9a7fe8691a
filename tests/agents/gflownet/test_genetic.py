"""The genetic algorithm: genes by hand, legality, and finding the best of a known landscape."""

from __future__ import annotations

import pytest
import torch

from semigradient.agents.gflownet.genetic import ANY, Genetic, cross, grow, mutate
from semigradient.domains.flows.trajectories import Trajectories
from semigradient.envs.constructions.construction import tabulate
from semigradient.envs.constructions.hypergrid import HyperGridOptions
from semigradient.errors import UserError
from semigradient.training.build import build
from semigradient.training.cli import parse

GRID = ("semigradient/HyperGrid-v0", ("dimensions=3", "r0=0.001"))
TOY = ("semigradient/ToyMolecules-v0", ("vocabulary=rings",))


def make(env: tuple[str, tuple[str, ...]], *flags: object) -> Genetic:
    words = ["--agent", "genetic", "--env", env[0], *map(str, flags), "--env-options", *env[1]]
    built = build(parse(words).command)
    assert isinstance(built, Genetic)
    return built


def built(actions: list[list[int]], lengths: list[int]) -> Trajectories:
    action = torch.tensor(actions).T
    return Trajectories(torch.zeros(len(action) + 1, len(lengths)), action, torch.tensor(lengths))


def test_genes_are_followed_where_they_are_legal() -> None:
    rules = tabulate(HyperGridOptions(2, 4, "exit_only", reward="uniform").rules())
    genes = torch.tensor([[0, 0, 0, 0, 1, 2], [1, 2, 0, 0, 0, 0]]).T
    # The fourth 0 is illegal at the border: a draw just below one takes the last legal action.
    draws = torch.full((rules.horizon, 2), 0.999)
    found = grow(rules, genes, draws)
    assert found.action[: int(found.length[0]), 0].tolist() == [0, 0, 0, 2]
    assert found.action[: int(found.length[1]), 1].tolist() == [1, 2]
    assert found.objects.tolist() == [3, 4]
    low = grow(rules, genes, torch.zeros(rules.horizon, 2))
    assert low.action[: int(low.length[0]), 0].tolist() == [0, 0, 0, 1, 1, 2]
    assert low.objects.tolist() == [3 + 4 * 2, 4]


def test_random_genes_build_only_what_can_be_built() -> None:
    rules = tabulate(HyperGridOptions(3, 5, reward="uniform").rules())
    random = torch.Generator().manual_seed(0)
    genes = torch.randint(-1, rules.actions, (rules.horizon, 500), generator=random)
    found = grow(rules, genes, torch.rand((rules.horizon, 500), generator=random))
    for t in range(len(found.action)):
        going = t < found.length
        legal = rules.legal(found.state[t][going])
        assert bool(legal.gather(1, found.action[t][going, None]).all())
        child = rules.child(found.state[t][going], found.action[t][going])
        assert torch.equal(child, found.state[t + 1][going])
    ended = found.action.gather(0, (found.length - 1)[None])[0] == rules.actions - 1
    assert bool((ended | rules.finished(found.objects)).all())


def test_crossing_joins_a_beginning_and_an_end() -> None:
    one, other = built([[0, 1, 2, 9]], [4]), built([[5, 6, 9, 9]], [3])
    # Two of the first's five places, one of the second's four.
    cut = torch.tensor([[0.41], [0.26]])
    assert cross(one, other, cut)[:5, 0].tolist() == [0, 1, 6, 9, 9]
    none = torch.zeros(2, 1)
    assert cross(one, other, none)[:4, 0].tolist() == [5, 6, 9, 9]
    whole = torch.full((2, 1), 0.99)
    assert cross(one, other, whole)[:5, 0].tolist() == [0, 1, 2, 9, 9]


@pytest.mark.parametrize(
    ("kind", "want"), [(0, [0, ANY, 2, 9, 9]), (1, [0, ANY, 1, 2, 9]), (2, [0, 2, 9, 9, 9])]
)
def test_mutations_replace_insert_and_leave_out(kind: int, want: list[int]) -> None:
    genes = torch.tensor([[0, 1, 2, 9, 9]]).T
    draws = torch.tensor([[0.3], [(kind + 0.5) / 3]])
    assert mutate(genes, torch.tensor([4]), draws)[:, 0].tolist() == want


def test_the_best_of_a_grid_are_found_sooner_than_by_chance() -> None:
    agent = make(GRID, "--population", 30, "--offspring", 32)
    for _ in range(40):
        scalars = dict(agent.iterate())
    best = agent.log_reward.exp()
    assert scalars["best"] == pytest.approx(2.501)
    assert torch.equal(best, best.sort(descending=True).values)
    assert len(agent.best.objects.unique()) == 30
    chance = make(GRID, "--population", 30, "--offspring", 32, "--crossover", 0, "--mutation", 0)
    genes = torch.full((chance.rules.horizon, 32), ANY)
    chance._genes = lambda: genes  # type: ignore[method-assign]
    for _ in range(40):
        chance.iterate()
    assert float(best.mean()) > 1.2 * float(chance.log_reward.exp().mean())


def test_the_best_breed_as_often_as_the_pressure_says() -> None:
    agent = make(GRID, "--population", 5, "--offspring", 4000, "--crossover", 0, "--mutation", 0)
    while len(agent.best.length) < 5:
        agent.iterate()
    genes = agent._genes()[: len(agent.best.action)]
    same = (genes[:, :, None] == agent.best.action[:, None]).all(0)  # (offspring, population)
    assert bool((same.sum(1) == 1).all())
    share = same.float().mean(0)
    # Linear ranking with pressure 2: weights 2, 1.5, 1, 0.5, 0 of 5.
    assert share.tolist() == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0], abs=0.03)


def test_molecules_breed() -> None:
    pytest.importorskip("rdkit", reason="the extra 'molecules' is not installed")
    agent = make(TOY, "--population", 10)
    for _ in range(15):
        agent.iterate()
    highest = agent.rules.log_reward(torch.arange(1, agent.rules.size)).max()
    assert float(agent.log_reward[0]) == pytest.approx(float(highest))


def test_bad_input_is_named() -> None:
    with pytest.raises(UserError, match=r"pressure=3.0: must be in \[1, 2\]"):
        make(GRID, "--pressure", 3)
    with pytest.raises(UserError, match="population=0: must be"):
        make(GRID, "--population", 0)


def test_published_blocks_breed() -> None:
    pytest.importorskip("rdkit", reason="the extra 'molecules' is not installed")
    env = ("semigradient/Molecule-v0", ("vocabulary=small", "max_blocks=4", "reward=qed"))
    one = make(env, "--population", 10, "--offspring", 8)
    best = [float(dict(one.iterate())["best"]) for _ in range(4)]
    assert best == sorted(best)
