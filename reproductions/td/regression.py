"""Regression to a mixture of sines, where the correction is not expected to help: figure 4.1.

Source: E. Bengio, PhD thesis, sections 4.3.1 and 4.3.3.1. As in its published code, the loss is
delta^2 and the gradients are summed without the factor 1 - beta: the published learning rates are
divided by 1 - beta here, which is equivalent. Required is the correction in the form of the code's
first release, which has the published grid; the consistent derivative and half of it stand beside.
(They were required before that was known; the consistent one differs from momentum, and is worse.)
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from semigradient.reproductions.report import Job, Report
from semigradient.reproductions.td.policy_evaluation import (
    FULL,
    FULL_HALF,
    MOMENTUM,
    ORACLE,
    RELEASED,
    EvaluationSetting,
)
from semigradient.reproductions.td.pooled import (
    NAMES,
    alike,
    curves,
    different,
    pool,
    train,
    untrained,
)
from semigradient.reproductions.td.problems import Sines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

TITLE = "Regression to a mixture of sines: thesis figure 4.1"
SEEDS = {"quick": 10, "full": 10}
METHODS = {
    "momentum": MOMENTUM,
    "oracle": ORACLE,
    "released": RELEASED,
    "full": FULL,
    "full-half": FULL_HALF,
}
PUBLISHED_RATES = (0.01, 0.005)
STEPS = 5000
SOURCE = "figure 4.1, section 4.3.1"


def settings(method: str, full: bool) -> list[EvaluationSetting]:
    """The published grid, or at quick scale its smallest width and minibatch."""
    hidden, sizes = ((8, 16, 32), (4, 16, 64)) if full else ((8,), (4,))
    return [
        EvaluationSetting(Sines(), (h,) * 3, METHODS[method], beta, size, _rates(beta), STEPS)
        for h in hidden
        for beta in (0.9, 0.99)
        for size in sizes
    ]


def reproduce(job: Job) -> Report:
    """Train whatever is not cached and compare it with the published claims."""
    worst = untrained(Sines())
    runs = {
        name: pool([train(job, name, cell, worst) for cell in settings(name, job.full)])
        for name in METHODS
    }
    last = {name: losses[:, -1] for name, losses in runs.items()}
    plain = last["momentum"]
    words = "4.1: loss of μ* less that of μ"
    rows = [different(words, SOURCE, last["oracle"], plain, job.full, level=0.05)]
    for name in ("released", "full", "full-half"):
        words = f"4.1: loss of {NAMES[name]} less that of μ"
        row = alike(words, SOURCE, last[name], plain, level=0.05)
        rows.append(replace(row, required=name == "released"))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        curves(axes, np.arange(250, STEPS + 1, 250), runs)
        axes.set(xlabel="step", ylabel="MSE", yscale="log")
        axes.legend()

    return Report(rows, draw, inches=(5.0, 3.6))


def _rates(beta: float) -> tuple[float, ...]:
    return tuple(round(rate / (1 - beta), 9) for rate in PUBLISHED_RATES)
