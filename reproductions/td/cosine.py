"""Cosine of first-order models with the gradients of past samples: figure 4.14.

Source: E. Bengio, PhD thesis, sections 4.3.2.2 and 4.3.3.7.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from semigradient.reproductions.report import Job, Report, Row
from semigradient.reproductions.td.policy_evaluation import FULL, EvaluationSetting
from semigradient.reproductions.td.pooled import lower, train
from semigradient.reproductions.td.problems import MountainCar
from semigradient.training.summary import bootstrap_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

TITLE = "Cosine similarity of first-order models with true gradients: thesis figure 4.14"
SEEDS = {"quick": 10, "full": 40}
STEPS = 5000
CLOSE = 0.8
"""Threshold for the published "relatively high (close to 1)"."""


def reproduce(job: Job) -> Report:
    """Train whatever is not cached and compare it with the published claims."""
    hidden = 16 if job.full else 8
    cell = EvaluationSetting(
        MountainCar(), (hidden,) * 3, FULL, 0.95, 16, (0.1,), STEPS, measure=("cosine",)
    )
    similar = train(job, "full", cell, 1.0, key="cosine")[0]
    stale = train(job, "full", cell, 1.0, key="stale_cosine")[0]
    rng = np.random.default_rng(0)
    least = int(similar.mean(0).argmin())
    low, high = bootstrap_interval(np.mean, similar[:, least], rng)
    quarter = similar.shape[1] // 4
    value = float(similar[:, least].mean())
    rows = [
        Row(
            f"4.14: cosine similarity where it is lowest, step {(least + 1) * cell.every}",
            "relatively high (close to 1) throughout training",
            "figure 4.14, section 4.3.2.2",
            value,
            low,
            high,
            f"at least {CLOSE}",
            value >= CLOSE,
        ),
        lower(
            "4.14: similarity in the last quarter of training less that in the first",
            "figure 4.14, section 4.3.2.2",
            similar[:, -quarter:].mean(1),
            similar[:, :quarter].mean(1),
            job.full,
        ),
        lower(
            "similarity of the stale gradients themselves less that of the corrected ones",
            "section 4.3.2.2: the correction follows the true gradients",
            stale.mean(1),
            similar.mean(1),
            job.full,
        ),
    ]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        steps = np.arange(cell.every, STEPS + 1, cell.every)
        for label, values in (("corrected", similar), ("stale", stale)):
            ends = [bootstrap_interval(np.mean, column, rng, 500) for column in values.T]
            axes.plot(steps, values.mean(0), label=label)
            axes.fill_between(steps, *np.array(ends).T, alpha=0.2, linewidth=0)
        axes.set(xlabel="step", ylabel="cosine similarity")
        axes.legend()

    return Report(rows, draw, inches=(5.0, 3.6))
