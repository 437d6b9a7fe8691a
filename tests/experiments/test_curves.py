"""Learning curves: reading, a common grid, bands over seeds, styles."""

from __future__ import annotations

import numpy as np
import pytest

from semigradient.experiments import curves
from semigradient.experiments.curves import Curve, common_grid, on_grid, read_curve, seed_band


def curve(*points: tuple[float, float]) -> Curve:
    steps, values = np.array(points, dtype=float).T
    return Curve(steps, values)


def test_read_curve_takes_finite_values_and_the_last_of_a_step():
    lines = [
        {"step": 0, "eval/mean": 1.0},
        {"step": 10, "train/loss": 3.0},
        {"step": 20, "eval/mean": float("nan")},
        {"step": 30, "eval/mean": 2.0},
        {"step": 30, "eval/mean": 5.0},
    ]
    found = read_curve(lines, "eval/mean")
    assert found.steps.tolist() == [0, 30]
    assert found.values.tolist() == [1, 5]
    assert curves.choose_key([lines, lines]) == "eval/mean"
    assert curves.choose_key([lines, [{"step": 0, "episode/return": 1.0}]]) == "episode/return"
    assert curves.choose_key([lines, lines[:1]]) == "episode/return"
    assert curves.choose_key([]) == "episode/return"


def test_common_grid_covers_what_all_curves_have():
    one, two = curve((0, 0), (10, 1)), curve((2, 0), (20, 1))
    assert common_grid([one, two], 5).tolist() == [2, 4, 6, 8, 10]
    assert common_grid([one, curve((11, 0), (20, 1))]).size == 0
    assert common_grid([curve((5, 1)), curve((5, 2))]).tolist() == [5]
    assert common_grid([one, Curve(np.empty(0), np.empty(0))]).size == 0


def test_on_grid_interpolates_sparse_and_averages_dense_curves():
    assert on_grid(curve((0, 0), (10, 20)), np.array([0.0, 2.5, 10.0])).tolist() == [0, 5, 20]
    # Steps 0-4 belong to 0, 6-10 to 10; nothing is nearest to 5 but its own points.
    dense = curve((0, 1), (1, 3), (4, 5), (6, 7), (9, 9), (10, 11))
    assert on_grid(dense, np.array([0.0, 5.0, 10.0])).tolist() == [2, 6, 10]
    gap = curve((0, 1), (1, 3), (9, 5), (10, 7))
    assert on_grid(gap, np.array([0.0, 5.0, 10.0])).tolist() == [2, 4, 6]


def test_seed_band_against_hand_numbers():
    # Two runs: a resampled mean is either run (1/4 each) or their mean (1/2), so the 95 %
    # interval is the two runs themselves, and the 40 % interval only the mean.
    low, high = curve((0, 0), (10, 10)), curve((0, 4), (10, 30))
    band = seed_band([low, high], np.random.default_rng(0), points=3)
    assert band.steps.tolist() == [0, 5, 10]
    assert band.mean.tolist() == pytest.approx([2, 11, 20])
    assert band.low.tolist() == pytest.approx([0, 5, 10])
    assert band.high.tolist() == pytest.approx([4, 17, 30])
    narrow = seed_band([low, high], np.random.default_rng(0), points=3, confidence=0.4)
    assert narrow.low.tolist() == pytest.approx([2, 11, 20])
    alone = seed_band([low], np.random.default_rng(0), points=3)
    assert alone.low.tolist() == alone.high.tolist() == pytest.approx([0, 5, 10])


def test_many_methods_are_told_apart_by_colour_and_line(tmp_path):
    band = seed_band([curve((0, 0), (10, 1))], np.random.default_rng(0), points=3)
    methods = {f"method {index}": band for index in range(12)}
    styles = [curves._style(method, {"e": methods}) for method in methods]
    assert len({(style["color"], style["linestyle"]) for style in styles}) == 12
    curves.draw_curves({"e": methods}, {"e": "eval/mean"}, tmp_path / "many.png")
    assert (tmp_path / "many.png").exists()
