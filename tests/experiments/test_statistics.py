"""Statistics of runs: hand-worked values, coverage of intervals, baseline tables."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from semigradient.errors import UserError
from semigradient.experiments import statistics
from semigradient.training.summary import bootstrap_interval, iqm, summarise


def rng(seed=0):
    return np.random.default_rng(seed)


# --- interquartile mean ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([7.0], 7.0),
        ([1.0, 9.0], 5.0),
        ([0.0, 0.0, 9.0], 3.0),  # floor(3 / 4) = 0 are dropped
        ([100.0, 2.0, -50.0, 4.0], 3.0),
        ([9.0, 1.0, 2.0, 3.0, -7.0], 2.0),
        ([5.0, 1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0], 4.5),
        ([0.0, 1.0, 3.0, 5.0, 7.0, 9.0, 100.0], 5.0),
    ],
)
def test_iqm_of_hand_worked_samples(scores, expected):
    assert iqm(scores) == pytest.approx(expected)


def test_iqm_along_an_axis_and_pooled():
    table = np.array([[4.0, 100.0], [1.0, 2.0], [2.0, -50.0], [3.0, 4.0]])
    np.testing.assert_allclose(iqm(table, axis=0), [2.5, 3.0])
    np.testing.assert_allclose(iqm(table.T, axis=-1), [2.5, 3.0])
    assert iqm(table) == pytest.approx((2.0 + 2.0 + 3.0 + 4.0) / 4)
    assert isinstance(iqm([1, 2, 3, 4]), float)
    with pytest.raises(ValueError, match="at least one"):
        iqm([])


def test_a_failed_run_is_not_trimmed_away():
    assert math.isnan(iqm([1.0, 2.0, 3.0, math.nan]))
    low, high = bootstrap_interval(iqm, [math.nan] * 4, rng(), resamples=10)
    assert math.isnan(low)
    assert math.isnan(high)
    for function in (
        lambda x: statistics.performance_profile(x, [0.0], rng()),
        lambda x: statistics.probability_of_improvement(x, [[0.0]], rng()),
        lambda x: statistics.probability_of_improvement([[0.0]], x, rng()),
    ):
        with pytest.raises(ValueError, match="NaN"):
            function([[1.0], [math.nan]])


# --- intervals ------------------------------------------------------------------------------------


def test_the_interval_of_the_mean_approaches_the_normal_one():
    sample = rng(1).normal(size=200)
    low, high = bootstrap_interval(np.mean, sample, rng(), resamples=5000)
    half = 1.96 * sample.std() / math.sqrt(200)
    assert low == pytest.approx(sample.mean() - half, abs=0.01)
    assert high == pytest.approx(sample.mean() + half, abs=0.01)
    wide = bootstrap_interval(np.mean, sample, rng(), confidence=0.99)
    narrow = bootstrap_interval(np.mean, sample, rng(), confidence=0.5)
    assert wide[0] < low < narrow[0] < narrow[1] < high < wide[1]


@pytest.mark.parametrize("statistic", [np.mean, iqm], ids=["mean", "iqm"])
def test_intervals_cover_the_truth_as_often_as_they_say(statistic):
    generator, hits, trials = rng(2), 0, 400
    for _ in range(trials):
        sample = generator.normal(3.0, 2.0, size=30)
        low, high = bootstrap_interval(statistic, sample, generator, resamples=300, confidence=0.9)
        hits += low <= 3.0 <= high
    # Binomial standard deviation 0.015; percentile intervals fall a little short at n = 30.
    assert 0.84 <= hits / trials <= 0.94


def test_the_stratified_interval_ignores_differences_between_tasks():
    noise = rng(3).normal(size=(20, 4))
    shifted = noise + 1000.0 * np.arange(4)
    low, high = statistics.stratified_bootstrap_interval(np.mean, shifted, rng())
    half = 1.96 * math.sqrt((noise.var(axis=0) / 20).sum()) / 4
    assert low == pytest.approx(shifted.mean() - half, abs=0.03)
    assert high == pytest.approx(shifted.mean() + half, abs=0.03)
    # The plain bootstrap mixes the tasks and is hundreds of points wide.
    mixed = bootstrap_interval(np.mean, shifted.ravel(), rng())
    assert mixed[1] - mixed[0] > 100 * (high - low)


def test_the_stratified_interval_of_one_task_is_the_plain_one():
    sample = rng(4).normal(size=9)
    plain = bootstrap_interval(iqm, sample, rng())
    for scores in ({"Pong": sample}, sample[:, None]):
        assert statistics.stratified_bootstrap_interval(iqm, scores, rng()) == plain


def test_tasks_with_different_numbers_of_runs():
    scores = {"a": [1.0], "b": [5.0, 5.0, 5.0], "c": [9.0, 9.0]}
    interval = statistics.stratified_bootstrap_interval
    assert interval(np.mean, scores, rng()) == pytest.approx((34 / 6, 34 / 6))
    assert interval(np.mean, scores, rng(), per_task=True) == pytest.approx((5.0, 5.0))
    assert interval(np.median, scores, rng(), per_task=True) == pytest.approx((5.0, 5.0))
    varied = {"a": [0.0, 2.0], "b": [10.0], "c": [20.0]}
    assert interval(np.median, varied, rng(), per_task=True) == (10.0, 10.0)
    low, high = interval(np.min, varied, rng())
    assert (low, high) == (0.0, 2.0)


def test_intervals_repeat_with_the_generator():
    sample = rng(5).normal(size=10)
    first = bootstrap_interval(np.median, sample, rng(7))
    assert first == bootstrap_interval(np.median, sample, rng(7))
    assert first[0] <= np.median(sample) <= first[1]


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match=r"runs > 0, got \(0,\)"):
        bootstrap_interval(np.mean, [], rng())
    with pytest.raises(ValueError, match=r"\(runs,\) with runs > 0, got \(2, 2\)"):
        bootstrap_interval(np.mean, np.ones((2, 2)), rng())
    with pytest.raises(ValueError, match=r"\(runs, tasks\), got \(3,\)"):
        statistics.stratified_bootstrap_interval(np.mean, np.ones(3), rng())
    with pytest.raises(ValueError, match="of task b"):
        statistics.stratified_bootstrap_interval(np.mean, {"a": [1.0], "b": []}, rng())
    with pytest.raises(ValueError, match="no task"):
        statistics.stratified_bootstrap_interval(np.mean, {}, rng())
    with pytest.raises(ValueError, match=r"confidence must be in \(0, 1\), got 95"):
        bootstrap_interval(np.mean, [1.0, 2.0], rng(), confidence=95)
    with pytest.raises(ValueError, match="must reduce axis=-1"):
        bootstrap_interval(lambda x, axis: np.mean(x), [1.0, 2.0], rng())
    with pytest.raises(ValueError, match="one-dimensional"):
        statistics.performance_profile(np.ones((2, 2)), 0.5, rng())
    with pytest.raises(ValueError, match="tasks differ"):
        statistics.probability_of_improvement({"a": [1.0]}, {"b": [1.0]}, rng())


# --- profiles and comparisons ---------------------------------------------------------------------


def test_performance_profile_of_a_hand_worked_table():
    scores = np.array([[0.0, 1.0], [2.0, 3.0]])
    profile = statistics.performance_profile(scores, [-1.0, 0.0, 1.0, 2.5, 3.0], rng())
    np.testing.assert_allclose(profile.fraction, [1.0, 0.75, 0.5, 0.25, 0.0])
    # Per task two runs: both resampled above with probability 1/4, one with 1/2, none with 1/4.
    np.testing.assert_allclose(profile.low, [1.0, 0.5, 0.0, 0.0, 0.0])
    np.testing.assert_allclose(profile.high, [1.0, 1.0, 1.0, 0.5, 0.0])
    uneven = statistics.performance_profile({"a": [1.0], "b": [0.0, 0.0, 0.0]}, [0.5], rng())
    np.testing.assert_allclose([x[0] for x in uneven], 0.5)


def test_performance_profile_band_is_the_binomial_one():
    runs = np.repeat([0.0, 1.0], [60, 40])
    profile = statistics.performance_profile(runs[:, None], [0.5], rng(), resamples=5000)
    half = 1.96 * math.sqrt(0.4 * 0.6 / 100)
    assert profile.low[0] == pytest.approx(0.4 - half, abs=0.011)
    assert profile.high[0] == pytest.approx(0.4 + half, abs=0.011)


def test_probability_of_improvement_closed_forms():
    improvement = statistics.probability_of_improvement
    x = np.array([[1.0, 5.0], [3.0, 6.0], [5.0, 7.0]])
    y = np.array([[2.0, 5.0], [4.0, 5.0]])
    # Task 0: x wins 1 < {2, 4}, 3 > 2, 5 > {2, 4}, 3 of 6. Task 1: 4 wins and 2 ties, 5 of 6.
    result = improvement(x, y, rng())
    assert result.value == pytest.approx((3 / 6 + 5 / 6) / 2)
    assert result.low <= result.value <= result.high
    assert improvement(y, x, rng()).value == pytest.approx(1 - result.value)
    assert improvement(x, x, rng()).value == pytest.approx(0.5)
    assert improvement(x + 100, y, rng()) == pytest.approx((1.0, 1.0, 1.0))
    assert improvement(x - 100, y, rng()) == pytest.approx((0.0, 0.0, 0.0), abs=1e-12)
    named = improvement({"b": x[:, 1], "a": x[:, 0]}, {"a": y[:, 0], "b": y[:, 1]}, rng())
    assert named.value == pytest.approx(result.value)


def test_probability_of_improvement_interval_covers_the_truth():
    generator, hits, trials = rng(6), 0, 300
    truth = 0.5 * (1 + math.erf(0.5 / math.sqrt(2) / math.sqrt(2)))  # shift 0.5, unit variances
    for _ in range(trials):
        x, y = generator.normal(0.5, 1.0, (25, 2)), generator.normal(0.0, 1.0, (20, 2))
        result = statistics.probability_of_improvement(
            x, y, generator, resamples=200, confidence=0.9
        )
        hits += result.low <= truth <= result.high
    assert 0.84 <= hits / trials <= 0.95


def test_definitions_agree_with_rliable():
    try:
        from rliable import metrics
    except Exception as error:  # the package may be absent, or refuse its own dependencies
        pytest.skip(f"rliable does not import: {error}")
    generator = rng(8)
    x, y = generator.normal(size=(7, 5)), generator.normal(size=(9, 5))
    assert iqm(x) == pytest.approx(metrics.aggregate_iqm(x))
    ours = statistics.probability_of_improvement(x, y, rng()).value
    assert ours == pytest.approx(metrics.probability_of_improvement(x, y))


# --- summary --------------------------------------------------------------------------------------


def test_summary_of_a_sample():
    scores = [1.0, 2.0, 3.0, 10.0]
    result = summarise(scores, rng())
    assert result["n"] == 4
    assert result["mean"] == 4.0
    assert result["median"] == result["iqm"] == 2.5
    assert result["std"] == pytest.approx(math.sqrt(50 / 3))
    assert 1.0 <= result["mean_low"] < 4.0 < result["mean_high"] <= 10.0
    assert 1.0 <= result["iqm_low"] < 2.5 < result["iqm_high"] <= 10.0
    assert json.loads(json.dumps(result)) == result
    assert result == summarise(np.array(scores, dtype=np.float32), rng())


def test_summary_of_one_score_has_no_spread():
    result = summarise([5.0], rng())
    assert result.pop("n") == 1
    assert result.pop("std") == 0.0
    assert set(result.values()) == {5.0}


# --- baselines ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("game", "random", "human"),
    [
        ("Pong", -20.7, 14.6),
        ("MsPacman", 307.3, 6951.6),
        ("Breakout", 1.7, 30.5),
        ("Skiing", -17098.1, -4336.9),
        ("Zaxxon", 32.5, 9173.3),
    ],
)
def test_human_normalised_scores(game, random, human):
    for env_id in (f"ALE/{game}-v5", f"{game}NoFrameskip-v4", f"ALE/{game}-ram-v5", game):
        assert statistics.human_normalised(env_id, random) == pytest.approx(0.0)
        assert statistics.human_normalised(env_id, human) == pytest.approx(1.0)
        assert statistics.normalised(env_id, human) == (pytest.approx(1.0), "human-normalised")
    assert statistics.human_normalised(game, (random + human) / 2) == pytest.approx(0.5)


def test_the_table_has_the_57_games_and_humans_beat_random_play():
    table = statistics._table("atari_scores.toml", "games")
    assert len(table) == 57
    assert all(entry["human"] > entry["random"] for entry in table.values())
    # Guards against a mistyped digit anywhere in the two columns.
    assert sum(entry["random"] for entry in table.values()) == pytest.approx(50864.9)
    assert sum(entry["human"] for entry in table.values()) == pytest.approx(606494.2)


def test_every_game_of_the_table_is_an_environment():
    roms = pytest.importorskip("ale_py.roms")
    names = {name.replace("_", "") for name in roms.get_all_rom_ids()}
    table = statistics._table("atari_scores.toml", "games")
    assert {game.lower() for game in table} <= names


def test_range_normalised_and_raw_scores():
    value, kind = statistics.normalised("CartPole-v1", 500.0)
    assert (value, kind) == (1.0, "range-normalised")
    assert statistics.normalised("MountainCar-v0", -155.0)[0] == pytest.approx(0.5)
    assert statistics.normalised("Pendulum-v1", -1200.0) == (0.0, "range-normalised")
    assert statistics.normalised("Acrobot-v1", -80.0) == (1.0, "range-normalised")
    # Other versions and namesakes have other scores, and must not borrow the scale.
    for env_id in (
        "CartPole-v0",
        "MinAtar/Breakout-v1",
        "Hopper-v5",
        "ALE/Adventure-v5",
        "",
        "x/y",
    ):
        assert statistics.normalised(env_id, 12.5) == (12.5, "raw")


def test_a_game_without_human_score_is_named():
    with pytest.raises(UserError, match=r"'Pongg'.*Pong"):
        statistics.human_normalised("ALE/Pongg-v5", 1.0)
    with pytest.raises(UserError, match="MinAtar/Breakout-v1"):
        statistics.human_normalised("MinAtar/Breakout-v1", 1.0)
