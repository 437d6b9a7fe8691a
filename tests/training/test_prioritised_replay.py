"""Prioritised replay against enumerated probabilities, and its tree against plain sums."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from gymnasium import spaces

from semigradient.errors import UserError
from semigradient.training.prioritised_replay import Priorities, PrioritisedReplay
from semigradient.training.sum_tree import SumTree

CPU, ACTIONS = torch.device("cpu"), spaces.Discrete(5)
VECTOR = spaces.Box(-np.inf, np.inf, (1,), np.float32)
IMAGES = spaces.Box(0, 255, (2, 2, 2), np.uint8)
GAMMA = 0.5


def memory(
    length: int, num_envs: int = 2, n: int = 1, exponent: float = 0.5, stacked: bool = False
) -> PrioritisedReplay:
    priorities = Priorities(exponent, 0.4)
    space = IMAGES if stacked else VECTOR
    return PrioritisedReplay(
        priorities, n, length * num_envs, num_envs, space, ACTIONS, CPU, stacked=stacked
    )


def fill(kept: PrioritisedReplay, steps: range, end: float = 0.0) -> None:
    """Steps whose rewards are their numbers: time times B, plus the environment."""
    stacked, rng = kept.is_stacked, np.random.default_rng(steps.start)
    for time in steps:
        number = time * kept.num_envs + np.arange(kept.num_envs, dtype=np.float64)
        obs = number[:, None].astype(np.float32)
        if stacked:
            obs = np.broadcast_to(number[:, None, None, None] % 251, (2, 2, 2, 2)).astype(np.uint8)
        ended = rng.random(kept.num_envs) < end
        kept.add(obs, number.astype(np.int64) % 5, number, ended, ended & False, obs)


@pytest.mark.parametrize("count", [1, 2, 5, 64, 100])
def test_a_tree_finds_what_a_plain_running_sum_finds(count: int) -> None:
    rng, tree = np.random.default_rng(count), SumTree(count)
    numbers = np.zeros(count)
    for _ in range(5):
        index = rng.integers(count, size=7)
        values = rng.random(7) * (rng.random(7) < 0.7)
        tree.set(index, values)
        for position, value in zip(index, values, strict=True):
            numbers[position] = value
        np.testing.assert_array_equal(tree.leaves, numbers)
        assert tree.total == pytest.approx(numbers.sum())
    numbers[-1] = 1.0
    tree.set(np.array([count - 1]), 1.0)
    mass = rng.random(500) * numbers.sum() * (1 - 1e-12)
    expected = np.searchsorted(np.cumsum(numbers), mass, side="right")
    np.testing.assert_array_equal(tree.find(mass), expected)
    other = SumTree(count)
    other.load(tree.leaves)
    np.testing.assert_array_equal(other.nodes, tree.nodes)


def test_nothing_without_priority_is_found_where_sums_are_rounded() -> None:
    tree = SumTree(8)
    tree.set(np.array([0, 3, 6]), np.array([0.1, 0.2, 0.3]))
    found = tree.find(np.array([tree.total, np.nextafter(tree.total, 1), 0.0, 0.3]))
    assert set(found) <= {0, 3, 6}


@pytest.mark.parametrize("n", [1, 3])
def test_draws_are_in_proportion_to_powers_of_priorities(n: int) -> None:
    kept = memory(length=4, n=n)
    fill(kept, range(6))
    usable = range(2 * 2, 2 * (6 - n + 1))  # numbers of the steps that are kept whole
    everything = torch.arange(8)  # rows: number modulo 8
    kept.update(everything, torch.arange(8) + 1.0)
    unusable = sorted({*range(8)} - {number % 8 for number in usable})
    kept.tree.set(np.array(unusable, dtype=np.int64), 0.0)
    powers = {number: (number % 8 + 1.0 + 1e-6) ** 0.5 for number in usable}
    drawn = kept.sample(40_000, torch.Generator().manual_seed(0), GAMMA, n)
    rewards = [(u + GAMMA * (u + 2) + GAMMA**2 * (u + 4) if n == 3 else u) for u in usable]
    total = sum(powers.values())
    assert drawn.weight is not None
    for reward, power in zip(rewards, powers.values(), strict=True):
        rows = drawn.reward == reward
        # Stratified draws vary less than independent ones.
        assert rows.float().mean() == pytest.approx(power / total, abs=0.005)
        expected = (len(usable) * power / total) ** -0.4
        largest = (len(usable) * min(powers.values()) / total) ** -0.4
        torch.testing.assert_close(
            drawn.weight[rows], torch.full((int(rows.sum()),), expected / largest)
        )
    assert set(drawn.reward.tolist()) == set(map(float, rewards))


def test_each_share_of_the_sum_gives_one_draw() -> None:
    kept = memory(length=50, exponent=1.0)
    fill(kept, range(50))
    kept.update(torch.arange(100), torch.full((100,), 1.0))
    drawn = kept.sample(100, torch.Generator().manual_seed(1), GAMMA)
    assert sorted(drawn.reward.tolist()) == list(range(100))


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("n", [1, 3])
def test_what_is_new_has_the_largest_priority_and_what_is_gone_none(n: int, stacked: bool) -> None:
    kept = memory(length=6, n=n, exponent=1.0, stacked=stacked)
    for time in range(40):
        fill(kept, range(time, time + 1), end=0.3)
        leaves = kept.tree.leaves.reshape(6, 2)
        whole = range(kept.observations.tail, time + 2 - n)
        assert set(np.flatnonzero(leaves.any(1))) == {t % 6 for t in whole}
        assert len(whole) == kept.times(n)
        if time == 20:
            kept.update(torch.tensor([whole[0] % 6 * 2]), torch.tensor([-3.0]))
        if len(whole):
            largest = 3.0 + 1e-6 if time > 20 else 1.0
            np.testing.assert_allclose(leaves[whole[-1] % 6], largest)


def test_weights_approach_full_correction() -> None:
    kept = memory(length=4)
    fill(kept, range(4))
    kept.update(torch.arange(8), torch.arange(8) + 1.0)
    kept.anneal(0.5)
    assert kept.correction == pytest.approx(0.7)
    kept.anneal(2.0)
    assert kept.correction == 1.0
    share = kept.tree.leaves / kept.tree.total
    expected = share.min() / share
    np.testing.assert_allclose(kept.weights(np.arange(8)).numpy(), expected, rtol=1e-6)


def test_a_saved_memory_goes_on_identically() -> None:
    kept, other = memory(length=9, n=2), memory(length=9, n=2)
    fill(kept, range(14))
    kept.update(torch.arange(18), torch.rand(18))
    other.load_state_dict(copy.deepcopy(kept.state_dict()))
    for time in range(14, 24):
        for each in (kept, other):
            fill(each, range(time, time + 1))
        one, two = (
            m.sample(8, torch.Generator().manual_seed(time), GAMMA, 2) for m in (kept, other)
        )
        for a, b in zip(one, two, strict=True):
            assert a is b is None or torch.equal(a, b)
        for each in (kept, other):
            each.update(one.row, one.reward / 7)


def test_before_anything_is_whole_draws_are_uniform() -> None:
    kept = memory(length=4, n=3)
    fill(kept, range(1))
    drawn = kept.sample(20, torch.Generator().manual_seed(0), GAMMA, 3)
    assert set(drawn.reward.tolist()) == {0.0, 1.0}
    kept.update(drawn.row, drawn.reward)
    assert kept.tree.total == 0


def test_bad_exponents_are_named() -> None:
    with pytest.raises(UserError, match=r"priority_exponent=1\.5: must be in"):
        Priorities(1.5, 0.4)
    with pytest.raises(UserError, match=r"priority_correction=-0\.1: must be in"):
        Priorities(0.5, -0.1)
