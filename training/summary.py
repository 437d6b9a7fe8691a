"""A sample of scores in a few numbers: mean, interquartile mean, bootstrap intervals.

The definitions are those of Agarwal et al. 2021; `experiments.statistics` has the rest of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
TaskScores = Mapping[str, ArrayLike] | ArrayLike
# Called as `statistic(samples, axis=-1)`: reduces the last axis and keeps the others, as
# `np.mean`, `np.median` and `iqm` do, so that all resamples are reduced in one call.
Statistic = Callable[..., Any]


def iqm(scores: ArrayLike, axis: int | None = None) -> Any:
    """Interquartile mean: the mean after dropping the lowest and the highest quarter.

    Of n scores, floor(n / 4) are dropped at each end (the 25 % trimmed mean). `axis=None` pools
    all scores; the result has the shape of `scores` without `axis`.
    """
    values = np.asarray(scores, dtype=np.float64)
    if axis is None:
        values, axis = values.reshape(-1), 0
    count = values.shape[axis]
    if count == 0:
        raise ValueError("iqm needs at least one score")
    ordered = np.moveaxis(np.sort(values, axis=axis), axis, 0)
    drop = count // 4
    middle = ordered[drop : count - drop].mean(axis=0)
    # Sorting puts NaN last, where a failed run would look like a good one and be trimmed.
    return np.where(np.isnan(ordered[-1]), np.nan, middle)[()]


def bootstrap_interval(
    statistic: Statistic,
    scores: ArrayLike,
    rng: np.random.Generator,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval `(low, high)` of a statistic of one sample (Efron 1979).

    `scores` is `(runs,)`; `statistic` is called as `statistic(samples, axis=-1)` on
    `(resamples, runs)`. One score gives an interval of width zero, which shows ignorance, not
    certainty: check the number of runs.
    """
    (sample,) = by_task({"": scores}).values()
    return interval(statistic(resample(sample, rng, resamples), axis=-1), resamples, confidence)


def summarise(scores: ArrayLike, rng: np.random.Generator) -> dict[str, float]:
    """Describe a sample of scores `(n,)` in JSON numbers.

    Keys: `n`, `mean`, `median`, `iqm`, `std` (sample standard deviation) and the ends of the 95 %
    bootstrap intervals, `mean_low`, `mean_high`, `iqm_low`, `iqm_high`. One score leaves its
    spread unknown: `std` is then 0 and the intervals have no width, as `n` shows.
    """
    (sample,) = by_task({"": scores}).values()
    mean_low, mean_high = bootstrap_interval(np.mean, sample, rng)
    iqm_low, iqm_high = bootstrap_interval(iqm, sample, rng)
    return {
        "n": len(sample),
        "mean": float(sample.mean()),
        "median": float(np.median(sample)),
        "iqm": float(iqm(sample)),
        "std": float(sample.std(ddof=1)) if len(sample) > 1 else 0.0,
        "mean_low": mean_low,
        "mean_high": mean_high,
        "iqm_low": iqm_low,
        "iqm_high": iqm_high,
    }


def by_task(scores: TaskScores) -> dict[str, Array]:
    """Either form of scores as a mapping from task to its runs `(runs,)`."""
    if isinstance(scores, Mapping):
        tasks = {name: np.asarray(runs, dtype=np.float64) for name, runs in scores.items()}
    else:
        matrix = np.asarray(scores, dtype=np.float64)
        if matrix.ndim != 2:
            raise ValueError(f"scores of tasks need shape (runs, tasks), got {matrix.shape}")
        tasks = {str(task): runs for task, runs in enumerate(matrix.T)}
    if not tasks:
        raise ValueError("no task has scores")
    for name, runs in tasks.items():
        if runs.ndim != 1 or runs.size == 0:
            where = f" of task {name}" if name else ""
            raise ValueError(f"scores{where} need shape (runs,) with runs > 0, got {runs.shape}")
    return tasks


def resample(runs: Array, rng: np.random.Generator, resamples: int) -> Array:
    """Draw `(resamples, runs)` scores with replacement."""
    return runs[rng.integers(len(runs), size=(resamples, len(runs)))]


def interval(resampled: Any, resamples: int, confidence: float) -> tuple[float, float]:
    """Ends of the percentile interval of a statistic's values `(resamples,)`."""
    values = np.asarray(resampled, dtype=np.float64)
    if values.shape != (resamples,):
        raise ValueError(
            f"a statistic must reduce axis=-1 to shape ({resamples},), it gave {values.shape}"
        )
    low, high = np.quantile(values, tails(confidence))
    return float(low), float(high)


def tails(confidence: float) -> tuple[float, float]:
    """The two quantiles between which `confidence` lies."""
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    return (1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0
