"""Hyper-grids: counts, partitions, rules and adapters against plain loops and closed forms."""

from __future__ import annotations

import itertools
import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import data_equivalence

from semigradient import envs
from semigradient.envs.adapters import CoreVector
from semigradient.envs.constructions.construction import Table, slot, tabulate
from semigradient.envs.constructions.hypergrid import HyperGrid, HyperGridOptions
from semigradient.envs.constructions.hypergrid_rewards import REWARDS, band
from semigradient.errors import UserError

GRID = "semigradient/HyperGrid-v0"


class PlainGrid:
    """The definition once more: recursion over cells and exact fractions of the axis."""

    def __init__(self, n: int, height: int, rule: str, r0: float) -> None:
        self.n, self.height, self.rule, self.r0 = n, height, rule, r0

    def reward(self, cell: tuple[int, ...]) -> float:
        # |x| = |2s - (H-1)| / (H-1), compared without dividing.
        far = [abs(2 * s - (self.height - 1)) for s in cell]
        unit = self.height - 1
        ring = all(2 * d > unit for d in far)
        mode = all(6 * unit < 10 * d < 8 * unit for d in far)
        return self.r0 + 0.5 * ring + 2.0 * mode

    def moves(self, cell: tuple[int, ...]) -> list[int]:
        if self.rule == "edge" and max(cell) == self.height - 1:
            return []
        return [i for i in range(self.n) if cell[i] < self.height - 1]

    def objects(self) -> dict[tuple[int, ...], int]:
        """Number of paths to every object."""
        paths = {tuple([0] * self.n): 1}
        for total in range(self.n * self.height):
            for cell in [c for c in paths if sum(c) == total]:
                for i in self.moves(cell):
                    child = (*cell[:i], cell[i] + 1, *cell[i + 1 :])
                    paths[child] = paths.get(child, 0) + paths[cell]
        return paths


def grid(n: int, height: int, rule: str, r0: float = 0.1, **options: Any) -> HyperGrid:
    return HyperGridOptions(n, height, rule, r0=r0, **options).rules()  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", ["edge", "exit_only"])
@pytest.mark.parametrize(("n", "height"), [(1, 8), (2, 8), (3, 5), (2, 7), (4, 4)])
def test_the_table_is_what_plain_recursion_finds(n: int, height: int, rule: str) -> None:
    rules = grid(n, height, rule, reward="sparse")
    table, plain = tabulate(rules), PlainGrid(n, height, rule, 0.1)
    expected = plain.objects()
    cells = [tuple(cell) for cell in rules.cells(table.objects).tolist()]
    assert set(cells) == set(expected)
    assert len(cells) == len(expected)
    paths = table.paths()[table.objects].tolist()
    assert [expected[cell] for cell in cells] == paths
    count = (height - 1) ** n + n * (height - 1) ** (n - 1) if rule == "edge" else height**n
    assert len(cells) == count
    assert table.horizon == rules.horizon
    for state, cell in zip(table.objects.tolist(), cells, strict=True):
        legal = rules.legal(torch.tensor([state]))[0].nonzero().flatten().tolist()
        stop = [n] if plain.moves(cell) or rule == "exit_only" else []
        assert legal == plain.moves(cell) + stop


# n, H, R0, rule, |X|, Z, mode mass, mean |p - q| of the uniform policy
PUBLISHED = [
    (2, 8, 0.1, "edge", 63, 21.8, 0.47706, 2.208e-2),
    (2, 8, 0.01, "edge", 63, 16.13, 0.62244, 2.519e-2),
    (4, 8, 0.1, "edge", 3773, 503.8, 0.08257, 4.177e-4),
    (4, 8, 0.001, "edge", 3773, 130.273, 0.30717, 4.808e-4),
    (2, 64, 0.01, "edge", 4095, 840.45, 0.43006, None),
    (2, 8, 0.01, "exit_only", 64, 16.64, 0.60337, 2.49e-2),
    (4, 8, 0.1, "exit_only", 4096, 569.6, 0.07303, 3.9e-4),
]


@pytest.mark.parametrize("row", PUBLISHED)
def test_published_counts_partitions_and_mode_masses(row: tuple[Any, ...]) -> None:
    n, height, r0, rule, count, z, mass, l1 = row
    table = tabulate(grid(n, height, rule, r0))
    assert len(table.objects) == count
    assert math.exp(table.log_partition()) == pytest.approx(z, rel=1e-9)
    p, modes = table.distribution(), table.modes(torch.arange(table.size))
    assert float(p.sum()) == pytest.approx(1, abs=1e-12)
    assert float(p[modes >= 0].sum()) == pytest.approx(mass, abs=6e-6)
    assert table.mode_count == 2**n
    legal = table.legal(torch.arange(table.size)).double()
    visited, ended = table.reach((legal / legal.sum(1, keepdim=True)).log())
    assert float(ended.sum()) == pytest.approx(1, abs=1e-12)
    assert float(visited[0]) == 1
    if l1 is not None:
        assert float((ended - p)[table.objects].abs().mean()) == pytest.approx(l1, rel=2e-2)


def test_taking_the_grid_for_a_tree_is_biased_by_the_number_of_paths() -> None:
    for n, mass in ((2, 0.61551), (4, 0.4538)):
        table = tabulate(grid(n, 8, "edge"))
        biased, modes = table.path_biased(), table.modes(torch.arange(table.size))
        assert float(biased[modes >= 0].sum()) == pytest.approx(mass, abs=6e-5)
    cell = 3 + 2 * 8  # (3, 2): interior; (7, 2) needs its last move to be the first axis
    table = tabulate(grid(2, 8, "edge"))
    assert table.paths()[cell] == math.comb(5, 2)
    assert table.paths()[7 + 2 * 8] == math.comb(8, 2)


def test_tabular_soft_values_have_the_biased_law() -> None:
    """Soft value iteration with the reward log R at the end, and no correction (Prop. 1)."""
    plain = PlainGrid(2, 6, "exit_only", 0.3)
    cells = sorted(itertools.product(range(6), repeat=2), key=sum, reverse=True)
    value: dict[tuple[int, ...], float] = {}
    for cell in cells:
        kids = [(*cell[:i], cell[i] + 1, *cell[i + 1 :]) for i in plain.moves(cell)]
        value[cell] = math.log(plain.reward(cell) + sum(math.exp(value[k]) for k in kids))
    chance = {(0, 0): 1.0}
    for cell in reversed(cells):
        for i in plain.moves(cell):
            kid = (*cell[:i], cell[i] + 1, *cell[i + 1 :])
            share = math.exp(value[kid] - value[cell])
            chance[kid] = chance.get(kid, 0.0) + chance[cell] * share
    # No cell of this height is in a band, so the reward's name does not matter for its modes.
    rules = grid(2, 6, "exit_only", 0.3, reward="multiscale", r1=0.5, r2=0.0)
    table = tabulate(rules)
    biased = table.path_biased()
    for state, cell in zip(
        table.objects.tolist(), rules.cells(table.objects).tolist(), strict=True
    ):
        kept = plain.reward(tuple(cell)) / math.exp(value[tuple(cell)])
        assert chance[tuple(cell)] * kept == pytest.approx(float(biased[state]), abs=1e-12)


def test_bands_are_counted_in_integers() -> None:
    counts = {h: int(band(torch.arange(h)[:, None], h).sum()) for h in (6, 8, 11, 16, 21, 64)}
    assert counts == {6: 0, 8: 2, 11: 0, 16: 2, 21: 2, 64: 12}


def test_modes_of_large_grids_are_blocks() -> None:
    rules = grid(2, 64, "edge")
    modes = rules.modes(torch.arange(rules.size))
    assert torch.bincount(modes[modes >= 0]).tolist() == [36] * 4


@pytest.mark.parametrize("name", REWARDS)
def test_every_reward_is_positive_finite_and_the_same_in_any_batch(name: str) -> None:
    seeded = {"reward_seed": 3} if name in ("uniform", "corrupted") else {}
    rules = grid(3, 8, "exit_only", reward=name, **seeded)
    states = torch.arange(rules.size)
    whole = rules.log_reward(states)
    assert bool(torch.isfinite(whole).all())
    assert len(whole.unique()) > 1
    some = torch.tensor([5, 400, 77])
    assert torch.equal(rules.log_reward(some), whole[some])
    if rules.mode_count:
        modes = rules.modes(states)
        assert set(modes.tolist()) == set(range(-1, 8))
        assert float(whole[modes >= 0].min()) > float(whole.median())


def test_rewards_against_their_formulas() -> None:
    cosine = grid(2, 30, "exit_only", 0.01, reward="cosine")
    table = tabulate(cosine)
    assert math.exp(table.log_partition()) == pytest.approx(17.409999, abs=1e-6)
    reward = table.log_reward(table.objects).exp()
    assert float(reward.max()) == pytest.approx(0.263949, abs=1e-6)
    best = cosine.cells(table.objects[reward > 0.2639]).tolist()
    assert sorted(map(tuple, best)) == [(13, 13), (13, 16), (16, 13), (16, 16)]
    edge = tabulate(grid(2, 30, "edge", 0.01, reward="cosine"))
    assert edge.log_partition() == pytest.approx(2.85647, abs=1e-5)

    def value(name: str, cell: list[int]) -> float:
        rules = grid(len(cell), 8, "exit_only", reward=name)
        return float(rules.log_reward(rules.number(torch.tensor([cell]))).exp())

    assert value("corners", [1, 6]) == pytest.approx(2.6)
    assert value("corners", [0, 7]) == pytest.approx(0.6)
    assert value("deceptive", [1, 6]) == pytest.approx(2.1)
    assert value("deceptive", [3, 0]) == pytest.approx(0.6)
    assert value("deceptive", [0, 0]) == pytest.approx(0.1)
    assert value("sparse", [6, 6]) == pytest.approx(2.1)
    assert value("xor", [5, 5]) == pytest.approx(0.1 + 3 * 0.5 + 2)
    assert value("xor", [5, 1]) == pytest.approx(0.1 + 2 * 0.5)
    assert value("coprime", [1, 2]) == pytest.approx(2.6)  # 2 and 3
    assert value("coprime", [1, 3]) == pytest.approx(0.1)  # 2 and 4
    assert value("multiscale", [0, 0]) == pytest.approx(2.6)  # |x| = 1, y = 1
    assert value("multiscale", [1, 1]) == pytest.approx(0.6)  # |x| = 5/7, y = -1/7


@pytest.mark.parametrize("rule", ["edge", "exit_only"])
def test_parents_are_the_edges_reversed(rule: str) -> None:
    rules = grid(3, 5, rule, reward="sparse")
    table = tabulate(rules)
    states = table.reachable.nonzero().squeeze(1)
    direct, written = rules.parents(states), table.parents(states)
    source, action = rules.legal(states)[:, :-1].nonzero(as_tuple=True)
    kids = rules.child(states[source], action).tolist()
    pairs = zip(states[source].tolist(), action.tolist(), strict=True)
    children = dict(zip(pairs, kids, strict=True))
    for index, state in enumerate(states.tolist()):
        found = []
        for parents in (direct, written):
            real = parents.real[index]
            rows = torch.stack([parents.state[index][real], parents.action[index][real]], 1)
            found.append(sorted(map(tuple, rows.tolist())))
        expected = [pair for pair, kid in children.items() if kid == state]
        assert found[0] == found[1] == sorted(expected)
    real = direct.real.nonzero(as_tuple=True)
    at = slot(
        type(direct)(*(each[real[0]] for each in direct)), direct.state[real], direct.action[real]
    )
    assert torch.equal(at, real[1])


def test_moves_of_a_chain_are_symmetric_and_stay_inside() -> None:
    for rule in ("edge", "exit_only"):
        rules = grid(2, 8, rule)
        table = tabulate(rules)
        counts = torch.zeros(rules.size, rules.size)
        for move in range(rules.neighbours):
            there = rules.move(table.objects, torch.full_like(table.objects, move))
            assert bool(torch.isin(there, table.objects).all())
            counts.index_put_((table.objects, there), torch.ones(()), accumulate=True)
        assert torch.equal(counts, counts.T)


def test_a_table_refuses_cycles_and_grids_too_large() -> None:
    cycle = torch.tensor([[1, 0], [0, 1]])
    with pytest.raises(ValueError, match="cycle"):
        Table(cycle, torch.zeros(2), torch.zeros(2, 1))
    with pytest.raises(UserError, match="too many to enumerate"):
        tabulate(grid(6, 20, "edge"))


# Faces

EVERY = [{}, {"dimensions": 4, "rule": "exit_only"}, {"dimensions": 1, "reward": "cosine"}]


@pytest.mark.parametrize("options", EVERY)
def test_stable_baselines_checks_the_single_face(options: dict[str, Any]) -> None:
    from stable_baselines3.common.env_checker import check_env as check

    check(gymnasium.make(GRID, **options).unwrapped)


@pytest.mark.parametrize("options", EVERY)
def test_the_vector_face_keeps_its_contract(options: dict[str, Any]) -> None:
    vector = envs.make_vector(GRID, 6, 1, **options)
    traces = []
    for _ in range(2):
        vector.action_space.seed(0)
        trace = [list(vector.reset(seed=4))]
        trace += [list(vector.step(vector.action_space.sample())) for _ in range(60)]
        traces.append(trace)
    assert data_equivalence(traces[0], traces[1], exact=True)
    ended = 0
    for obs, reward, terminated, truncated, infos in traces[0][1:]:
        assert vector.observation_space.contains(obs)
        assert infos["action_mask"].shape == (6, vector.single_action_space.n)
        over = terminated | truncated
        assert ((reward > 0) == terminated).all()
        if over.any():
            ended += int(over.sum())
            last = infos["final_info"]["log_reward"][terminated]
            np.testing.assert_allclose(np.exp(last), reward[terminated])
    assert ended > 5


def test_a_learner_that_knows_no_masks_can_train() -> None:
    from stable_baselines3 import PPO

    env = gymnasium.make(GRID, rule="exit_only")
    PPO("MlpPolicy", env, n_steps=64, batch_size=32, seed=0, device="cpu").learn(128)


def test_illegal_actions_change_nothing_and_end_in_truncation() -> None:
    vector = CoreVector(
        "semigradient.envs.constructions.hypergrid:HyperGridOptions",
        1,
        rule="exit_only",
        height=3,
        reward="sparse",
    )
    vector.reset()
    lengths = 0
    for _ in range(vector.core.max_steps):
        _, reward, terminated, truncated, infos = vector.step(np.array([0]))
        lengths += 1
        if truncated.any():
            break
    assert lengths == 2 * 5
    assert not terminated.any()
    assert reward[0] == 0
    assert infos["final_info"]["state"][0] == 2


def test_a_heat_map_shows_where_the_reward_is() -> None:
    rules = grid(2, 8, "edge")
    frame = rules.pictures(torch.tensor([0]))[0]
    assert frame.shape == (256, 256, 3)
    yellow = np.array([250, 230, 60])
    for cell in ((1, 1), (6, 6)):
        row, column = 255 - (cell[1] * 32 + 16), cell[0] * 32 + 16
        assert (frame[row, column] == yellow).all()
    assert not (frame[255 - 112, 112] == yellow).all()
    visits = torch.zeros(64, dtype=torch.int64)
    visits[3 + 8 * 2] = 9
    seen = rules.pictures(torch.tensor([0]), visits)[0]
    assert (seen[255 - (2 * 32 + 16), 3 * 32 + 16] == yellow).all()
    assert grid(4, 8, "edge").pictures(torch.tensor([0]))[0].shape == (256, 256, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "walls"}, "rule='walls': accepted are edge, exit_only"),
        ({"reward": "corner"}, "unknown reward 'corner': did you mean corners"),
        ({"height": 6}, "height=6: no cell has 0.6"),
        ({"r0": 0}, "r0=0.0: must be > 0"),
        ({"r0": float("nan")}, "r0=nan: must be .* > 0"),
        ({"r2": -1.0}, "r2=-1.0: must be ≥ 0"),
        ({"dimensions": 0}, "dimensions=0: must be ≥ 1"),
        ({"dimensions": 40, "height": 8}, "must have fewer than"),
        ({"width": 3}, "option of .* 'width': .*known: dimensions, height"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        envs.make_vector(GRID, 1, 0, **options)
