"""Losses pooled over hyperparameters and seeds, as in the thesis.

"Throughout our figures, shaded areas are bootstrapped 95% confidence intervals over
hyperparameter settings and runs", and methods are compared by Welch's t-test on the pooled losses
at a fixed step. Losses are bounded by that of predicting zero everywhere, about that of an
untrained network, so that diverged runs can be pooled.

All methods learn from the same data with the same initial parameters, so a row shows the mean of
the paired differences with its bootstrap interval. The criterion of agreement was fixed before
anything was measured: at the full scale the published p-value; at the quick scale, which has too
few runs for it, an interval on the published side of zero. The p-value is shown at both scales.

Source: E. Bengio, PhD thesis, section 4.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from semigradient.experiments.curves import COLOURS
from semigradient.experiments.statistics import welch
from semigradient.reproductions.report import Job, Row
from semigradient.reproductions.td.policy_evaluation import EvaluationSetting, run
from semigradient.reproductions.td.problems import Problem
from semigradient.training.summary import bootstrap_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]

NAMES = {
    "momentum": "μ",
    "oracle": "μ*",
    "released": "μ̂, first release",
    "released-diagonal": "μ̂ diag, first release",
    "full": "μ̂",
    "full-half": "μ̂, half Z",
    "diagonal": "μ̂ diag",
    "frozen": "frozen targets",
}


def train(
    job: Job, method: str, cell: EvaluationSetting, worst: float, key: str = "error"
) -> Array:
    """Measurements (A, S, T) of one setting, trained unless cached.

    `method` is the name of the part in the output and in the folder; `worst` bounds the losses.
    """
    width = cell.hidden[0] if cell.hidden else "linear"
    name = f"{method}-h{width}-b{cell.beta:g}-m{cell.size}-{cell.steps}"
    return bounded(job.cell(name, cell, lambda: run(cell, range(job.seeds)))[key], worst)


def pool(parts: Sequence[Array]) -> Array:
    """Runs (n, T) of measurements (A, S, T) of several settings."""
    return np.concatenate([part.reshape(-1, part.shape[-1]) for part in parts])


def untrained(problem: Problem) -> float:
    """The loss of predicting zero everywhere."""
    return float((problem.evaluation()[1].double() ** 2).mean())


def bounded(losses: ArrayLike, worst: float) -> Array:
    """Losses clipped to `worst`, which also replaces diverged ones (infinite, NaN)."""
    return np.minimum(np.nan_to_num(np.asarray(losses, np.float64), nan=worst), worst)


def lower(
    quantity: str, source: str, first: Array, second: Array, full: bool, level: float = 0.001
) -> Row:
    """A row for the published "the first has a lower loss, p < level"; runs (n,), paired."""
    value, low, high = paired(first, second)
    p = welch(first, second).p
    if full:
        text = f"below zero with Welch p < {level:g} (p = {p:.2g})"
        agrees = value < 0 and p < level
    else:
        text, agrees = f"the interval is below zero (Welch p = {p:.2g})", high < 0
    return Row(quantity, f"lower, p < {level:g}", source, value, low, high, text, agrees)


def different(
    quantity: str, source: str, first: Array, second: Array, full: bool, level: float = 0.001
) -> Row:
    """A row for the published "the losses differ, p < level"; runs (n,), paired."""
    value, low, high = paired(first, second)
    p = welch(first, second).p
    if full:
        text, agrees = f"Welch p < {level:g} (p = {p:.2g})", p < level
    else:
        text, agrees = f"the interval excludes zero (Welch p = {p:.2g})", low > 0 or high < 0
    return Row(quantity, f"different, p < {level:g}", source, value, low, high, text, agrees)


def alike(quantity: str, source: str, first: Array, second: Array, level: float = 0.1) -> Row:
    """A row for the published "no significant difference, p > level"; runs (n,), paired."""
    value, low, high = paired(first, second)
    p = welch(first, second).p
    published, text = f"not different, p > {level:g}", f"Welch p > {level:g} (p = {p:.2g})"
    return Row(quantity, published, source, value, low, high, text, p > level)


def paired(first: Array, second: Array) -> tuple[float, float, float]:
    """Mean of first - second (n,) with its 95 % interval; the same runs in the same order."""
    difference = first - second
    low, high = bootstrap_interval(np.mean, difference, np.random.default_rng(0))
    return float(difference.mean()), low, high


def curves(axes: Axes, steps: ArrayLike, losses: Mapping[str, Array]) -> None:
    """Draw the mean over runs (runs, T) of each method, with its 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    for method, runs in losses.items():
        ends = [bootstrap_interval(np.mean, column, rng, 500) for column in runs.T]
        low, high = np.array(ends).T
        colour = COLOURS[list(NAMES).index(method) % len(COLOURS)]
        axes.plot(steps, runs.mean(0), color=colour, label=NAMES[method])
        axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
