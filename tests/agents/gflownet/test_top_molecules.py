"""The record of a search for molecules: the best, their similarity, modes."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("rdkit", reason="the extra 'molecules' is not installed")

from semigradient.domains.flows.sample_counts import rank_correlation
from semigradient.domains.flows.top_molecules import TopMolecules
from semigradient.envs.molecules.fingerprints import paths, similarity
from semigradient.training import parts

# Record


def test_a_record_keeps_the_best_distinct_molecules() -> None:
    record = TopMolecules()
    scored = [("C" * n, 0.5 * n) for n in range(1, 13)]
    record.add(*zip(*scored, strict=True))
    record.add(["CC", "C" * 12], [1.0, 6.0])
    assert record.objects == 14
    assert record.top(2) == [("C" * 12, 6.0), ("C" * 11, 5.5)]
    assert record.metrics()["top_10"] == pytest.approx(np.mean([0.5 * n for n in range(3, 13)]))
    assert "top_100" not in record.metrics()


def test_the_similarity_is_the_mean_over_all_pairs() -> None:
    from rdkit.DataStructs import TanimotoSimilarity

    names = ["CCO", "CCN", "c1ccccc1", "Cc1ccccc1"]
    marks = [paths(each) for each in names]
    pairs = [TanimotoSimilarity(marks[i], marks[j]) for i in range(4) for j in range(i)]
    assert similarity(names) == pytest.approx(np.mean(pairs))


def test_modes_are_counted_greedily_in_the_order_of_discovery() -> None:
    from rdkit.DataStructs import TanimotoSimilarity

    chain = [f"{'C' * n}O" for n in range(2, 40)]
    counts = set()
    for order in (chain, chain[::-1], chain[3:] + chain[:3]):
        record = TopMolecules()
        record.add(order, [9.0] * len(order))
        kept: list[Any] = []
        for each in order:
            mark = paths(each)
            if all(TanimotoSimilarity(mark, other) < 0.7 for other in kept):
                kept.append(mark)
        assert len(record.modes[7.0]) == len(kept)
        counts.add(len(kept))
        assert record.metrics()["above_8"] == len(chain)
        assert record.metrics()["scaffolds_7"] == 1
    assert counts <= set(range(2, 10))


def test_a_mode_is_far_from_every_earlier_one() -> None:
    record = TopMolecules()
    one, other, like_one = "CCCCCCCCO", "c1ccc2ccccc2c1", "CCCCCCCCCO"
    assert similarity([one, like_one]) >= 0.7
    assert max(similarity([one, other]), similarity([like_one, other])) < 0.7
    record.add([one, other, like_one], [7.5, 8.5, 9.0])
    assert record.modes[7.0] == [one, other]
    assert record.modes[8.0] == [other, like_one]  # above 8 the first one is none


def test_a_record_is_saved_and_taken_back() -> None:
    record, other = TopMolecules(), TopMolecules()
    record.add(["CCO", "c1ccccc1", "CCCl"], [8.5, 7.5, 2.0])
    parts.load(other, copy.deepcopy(parts.state(record)))
    for each in (record, other):
        each.add(["CCBr", "CCO", "Cc1ccccc1"], [7.2, 8.5, 9.0])
    assert record.metrics() == other.metrics()
    assert record.picture().shape == other.picture().shape == (400, 800, 3)


def test_ranks_share_the_mean_of_equal_numbers() -> None:
    x = torch.tensor([1.0, 2.0, 2.0, 5.0]).double()
    y = torch.tensor([10.0, 30.0, 20.0, 40.0]).double()
    # Ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4.
    assert rank_correlation(x, y) == pytest.approx(4.5 / math.sqrt(4.5 * 5))
