"""Statistics of scores from few runs: intervals, performance profiles, normalised scores.

The definitions are those of Agarwal et al. 2021, "Deep reinforcement learning at the edge of the
statistical precipice": with few runs, a point estimate without its interval is uninformative,
and the interquartile mean uses more of the runs than the median.

Scores of several tasks are either a `(runs, tasks)` array or a mapping from task name to the
scores of its runs, `(runs,)` each; in the second form tasks may differ in their number of runs.
A NaN score makes every statistic NaN instead of being trimmed silently.
"""

from __future__ import annotations

import functools
import math
import re
import tomllib
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from semigradient.errors import unknown
from semigradient.training.summary import (
    Array,
    Statistic,
    TaskScores,
    by_task,
    interval,
    resample,
    tails,
)

Kind = Literal["human-normalised", "range-normalised", "raw"]


class Estimate(NamedTuple):
    """A value with the ends of its confidence interval."""

    value: float
    low: float
    high: float


class Welch(NamedTuple):
    """A difference of means, the ends of its confidence interval, and the two-sided p-value."""

    difference: float
    low: float
    high: float
    p: float


class PerformanceProfile(NamedTuple):
    """A performance profile: one entry per threshold in each array."""

    fraction: Array
    low: Array
    high: Array


def stratified_bootstrap_interval(
    statistic: Statistic,
    scores: TaskScores,
    rng: np.random.Generator,
    resamples: int = 2000,
    confidence: float = 0.95,
    per_task: bool = False,
) -> tuple[float, float]:
    """Percentile interval of a statistic over tasks; runs are resampled within each task.

    The tasks are fixed: the interval covers variation over seeds, not over tasks. By default the
    statistic is computed over the pooled runs of all tasks, `(resamples, total runs)`, as required
    by the interquartile mean. With `per_task` it is computed over the means of the tasks,
    `(resamples, tasks)`: `np.median` is then the usual median over games, and `np.mean` weights
    tasks equally whatever their numbers of runs.
    """
    samples = [resample(runs, rng, resamples) for runs in by_task(scores).values()]
    if per_task:
        pooled = np.stack([sample.mean(axis=-1) for sample in samples], axis=-1)
    else:
        pooled = np.concatenate(samples, axis=-1)
    return interval(statistic(pooled, axis=-1), resamples, confidence)


def performance_profile(
    scores: TaskScores,
    thresholds: ArrayLike,
    rng: np.random.Generator,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> PerformanceProfile:
    """Fraction of runs scoring above each threshold, averaged over tasks, with its band.

        F(tau) = mean over tasks of mean over runs of 1[score > tau]

    The band is the pointwise stratified bootstrap interval.
    """
    levels = np.asarray(thresholds, dtype=np.float64)
    if levels.ndim != 1:
        raise ValueError(f"thresholds must be one-dimensional, got shape {levels.shape}")
    tasks = by_task(scores)
    fraction = np.zeros(len(levels))
    resampled = np.zeros((resamples, len(levels)))
    for runs in tasks.values():
        _refuse_nan(runs)
        above = (runs[:, None] > levels).astype(np.float64)
        fraction += above.mean(axis=0)
        resampled += _weights(len(runs), rng, resamples) @ above
    fraction, resampled = fraction / len(tasks), resampled / len(tasks)
    low, high = np.quantile(resampled, tails(confidence), axis=0)
    return PerformanceProfile(fraction, low, high)


def probability_of_improvement(
    x: TaskScores,
    y: TaskScores,
    rng: np.random.Generator,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Estimate:
    """Probability that a run of x beats a run of y on a random task, with its interval.

        mean over tasks of P(X > Y) + P(X = Y) / 2

    the Mann-Whitney U statistic divided by the number of pairs. Both arguments need the same
    tasks; numbers of runs may differ.
    """
    of_x, of_y = by_task(x), by_task(y)
    if of_x.keys() != of_y.keys():
        raise ValueError(f"tasks differ: {sorted(of_x)} and {sorted(of_y)}")
    value, resampled = 0.0, np.zeros(resamples)
    for task, runs in of_x.items():
        rivals = of_y[task]
        _refuse_nan(runs)
        _refuse_nan(rivals)
        difference = runs[:, None] - rivals
        wins = (difference > 0) + 0.5 * (difference == 0)
        value += wins.mean()
        weights_x = _weights(len(runs), rng, resamples)
        weights_y = _weights(len(rivals), rng, resamples)
        resampled += ((weights_x @ wins) * weights_y).sum(axis=-1)
    low, high = interval(resampled / len(of_x), resamples, confidence)
    return Estimate(float(value / len(of_x)), low, high)


def welch(x: ArrayLike, y: ArrayLike, confidence: float = 0.95) -> Welch:
    """Welch's t-test (1947) of the hypothesis that samples `(n,)` and `(m,)` have equal means.

    Variances may differ. Two samples of zero variance have p = 1 if equal and 0 otherwise. An
    infinite score makes everything NaN, so assign failed runs a finite score first.
    """
    (a,), (b,) = by_task({"": x}).values(), by_task({"": y}).values()
    if min(len(a), len(b)) < 2:
        raise ValueError(f"welch needs at least two scores per sample, got {len(a)} and {len(b)}")
    _refuse_nan(a)
    _refuse_nan(b)
    difference = float(a.mean() - b.mean())
    parts = np.array([a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)])
    error = float(np.sqrt(parts.sum()))
    if error == 0:
        return Welch(difference, difference, difference, float(difference == 0))
    freedom = float(parts.sum() ** 2 / (parts**2 / [len(a) - 1, len(b) - 1]).sum())
    reach = _t_quantile(1 - confidence, freedom) * error
    p = _t_tails(difference / error, freedom)
    return Welch(difference, difference - reach, difference + reach, p)


def human_normalised(env_id: str, score: float) -> float:
    """Score on the scale where random play is 0 and the human player 1 (Mnih et al. 2015).

    Accepts every usual form of an Atari id, such as `ALE/Pong-v5`, `PongNoFrameskip-v4` or `Pong`;
    raises `UserError` for a game outside the 57 of `atari_scores.toml`.
    """
    table = _table("atari_scores.toml", "games")
    game = _atari_game(env_id)
    if game not in table:
        unknown("Atari game with a human score", game or env_id, table)
    baseline = table[game]
    return (score - baseline["random"]) / (baseline["human"] - baseline["random"])


def normalised(env_id: str, score: float) -> tuple[float, Kind]:
    """Score on a scale that is comparable across environments, if available, and its kind.

    Atari games with a human score are `human-normalised`; the classic control tasks are
    `range-normalised`, from 0 (about random) to 1 (good); anything else stays `raw`.
    """
    if _atari_game(env_id) in _table("atari_scores.toml", "games"):
        return human_normalised(env_id, score), "human-normalised"
    span = _table("classic_control_scores.toml", "ranges").get(env_id)
    if span is not None:
        return (score - span["low"]) / (span["high"] - span["low"]), "range-normalised"
    return score, "raw"


def _atari_game(env_id: str) -> str:
    """Name of the game if an id has the form of Gymnasium's Atari ids, else the empty string."""
    # No other namespace matches: MinAtar/Breakout-v1 is a different game with other scores.
    pattern = r"(?:ALE/)?([A-Za-z0-9]+?)(?:-ram)?(?:Deterministic|NoFrameskip)?(?:-v\d+)?"
    match = re.fullmatch(pattern, env_id)
    return match[1] if match else ""


@functools.cache
def _table(file: str, key: str) -> dict[str, dict[str, float]]:
    with Path(__file__).with_name(file).open("rb") as stream:
        return tomllib.load(stream)[key]


def _weights(runs: int, rng: np.random.Generator, resamples: int) -> Array:
    """Weight of each run in each resample, `(resamples, runs)`.

    For means over runs this is the same bootstrap as `resample`, and one matrix product serves
    all thresholds or opponents.
    """
    return rng.multinomial(runs, np.full(runs, 1.0 / runs), size=resamples) / runs


def _refuse_nan(runs: Array) -> None:
    # Comparisons with NaN are false: a failed run would count as a loss or be ignored.
    if np.isnan(runs).any():
        raise ValueError("scores contain NaN")


def _t_tails(t: float, freedom: float) -> float:
    """P(|T| >= |t|) for Student's t: I_x(freedom / 2, 1 / 2) at x = freedom / (freedom + t^2)."""
    return _incomplete_beta(freedom / (freedom + t * t), freedom / 2, 0.5)


def _t_quantile(tails: float, freedom: float) -> float:
    """The t >= 0 with P(|T| >= t) = tails, by bisection."""
    low, high = 0.0, 1.0
    while _t_tails(high, freedom) > tails:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_tails(middle, freedom) > tails else (low, middle)
    return (low + high) / 2


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta function I_x(a, b), by its continued fraction.

    Abramowitz and Stegun 26.5.8, evaluated forwards (Lentz); for x below (a + 1) / (a + b + 2) it
    converges in a few dozen terms; otherwise I_x(a, b) = 1 - I_{1-x}(b, a) is used.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(1 - x, b, a)
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(scale + a * math.log(x) + b * math.log1p(-x)) / a
    upper, lower, fraction = 1.0, 0.0, 1.0
    for term in range(1000):
        m = term // 2
        if term == 0:
            factor = 1.0
        elif term % 2:
            factor = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            factor = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        lower = 1 / (1 + factor * lower)
        upper = 1 + factor / upper
        fraction *= upper * lower
        if abs(upper * lower - 1) < 1e-15:
            break
    # The fraction starts with 1 + ..., its first term has factor 1.
    return front * (fraction - 1)
