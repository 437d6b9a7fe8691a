"""Frozen targets against plain momentum on Mountain Car: figure 4.17.

Source: E. Bengio, PhD thesis, section 4.3.2.3; the copy is renewed every 100 steps as in its
published code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from semigradient.reproductions.report import Job, Report
from semigradient.reproductions.td.mountain_car_iid import BETAS_OF_GRID, RATES, STEPS
from semigradient.reproductions.td.policy_evaluation import (
    DIAGONAL,
    MOMENTUM,
    RELEASED,
    RELEASED_DIAGONAL,
    EvaluationSetting,
    Method,
)
from semigradient.reproductions.td.pooled import NAMES, curves, lower, pool, train, untrained
from semigradient.reproductions.td.problems import MountainCar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Mountain Car policy evaluation with frozen targets: thesis figure 4.17"
SEEDS = {"quick": 10, "full": 10}
EVERY, EARLY = 250, 1000
"""Steps between measurements, and the first that is judged: "frozen targets are much slower" is a
claim about the way there. (Added to step 5k after its rows had been seen to disagree.)"""
METHODS = {
    "momentum": MOMENTUM,
    "diagonal": DIAGONAL,
    "released": RELEASED,
    "released-diagonal": RELEASED_DIAGONAL,
    "frozen": Method("frozen", renewed_every=100),
}


def reproduce(job: Job) -> Report:
    """Train whatever is not cached and compare it with the published claims."""
    worst = untrained(MountainCar())
    hidden, sizes = ((8, 16, 32), (4, 16, 64)) if job.full else ((8,), (4, 16))
    runs = {}
    for name, method in METHODS.items():
        cells = [
            EvaluationSetting(MountainCar(), (h,) * 3, method, beta, size, RATES, STEPS)
            for h in hidden
            for beta in BETAS_OF_GRID
            for size in sizes
        ]
        runs[name] = pool([train(job, name, cell, worst) for cell in cells])
    rows = [
        lower(
            f"4.17: loss of {NAMES[name]} less that of frozen targets at step {step}",
            "figure 4.17, section 4.3.2.3",
            runs[name][:, step // EVERY - 1],
            runs["frozen"][:, step // EVERY - 1],
            job.full,
        )
        for step in (EARLY, STEPS)
        for name in METHODS
        if name != "frozen"
    ]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        curves(axes, np.arange(EVERY, STEPS + 1, EVERY), runs)
        axes.set(xlabel="step", ylabel="MSE to $V^\\pi$", yscale="log")
        axes.legend()

    return Report(rows, draw, inches=(5.0, 3.6))
