"""Policy evaluation on Acrobot and CartPole from a buffer: figures 4.9 and 4.10.

Source: E. Bengio, PhD thesis, sections 4.3.2.1 and 4.3.3.12: the settings of Mountain Car, with
targets of 5 steps on Acrobot and 3 on CartPole. Policies and true values: `control_buffers`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from semigradient.reproductions.report import Job, Report, Row
from semigradient.reproductions.td import control_buffers
from semigradient.reproductions.td.mountain_car_iid import BETAS_OF_GRID, METHODS, RATES, STEPS
from semigradient.reproductions.td.policy_evaluation import EvaluationSetting
from semigradient.reproductions.td.pooled import NAMES, curves, lower, pool, train, untrained
from semigradient.reproductions.td.problems import Buffer, TransitionBatch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

TITLE = "Acrobot and CartPole policy evaluation: thesis figures 4.9-4.10"
SEEDS = {"quick": 10, "full": 10}
FIGURES = {"acrobot": ("4.9", 5), "cartpole": ("4.10", 3)}
"""Figure, and number of steps of the targets."""
TRANSITIONS = 50_000
ANSWERS = 2048


def reproduce(job: Job) -> Report:
    """Train whatever is not cached and compare it with the published claims."""
    hidden, sizes = ((8, 16, 32), (4, 16, 64)) if job.full else ((8,), (4, 16))
    results: dict[str, dict[str, Array]] = {}
    for name in FIGURES:
        problem = load(job, name)
        worst = untrained(problem)
        for method in METHODS:
            cells = [
                EvaluationSetting(problem, (h,) * 3, METHODS[method], beta, size, RATES, STEPS)
                for h in hidden
                for beta in BETAS_OF_GRID
                for size in sizes
            ]
            losses = [train(job, f"{name}-{method}", cell, worst) for cell in cells]
            results.setdefault(name, {})[method] = pool(losses)
    rows = [row for name, runs in results.items() for row in _claims(name, runs, job.full)]

    def draw(figure: Figure) -> None:
        steps = np.arange(250, STEPS + 1, 250)
        for axes, (name, runs) in zip(figure.subplots(1, 2), results.items(), strict=True):
            curves(axes, steps, runs)
            title = f"{FIGURES[name][0]}, {name}"
            axes.set(title=title, xlabel="step", ylabel="MSE to $V^\\pi$", yscale="log")
        figure.axes[0].legend(fontsize="small")

    return Report(rows, draw)


def load(job: Job, name: str) -> Buffer:
    """The buffer and the true values of `acrobot` or `cartpole`, collected once per folder."""
    steps = FIGURES[name][1]
    stored = job.cell(
        f"{name}-buffer",
        ("buffer", name, steps, TRANSITIONS, control_buffers.GAINS.tolist()),
        lambda: control_buffers.buffer(name, steps, TRANSITIONS),
    )
    right = job.cell(
        f"{name}-values",
        ("values", name, ANSWERS, control_buffers.GAINS.tolist()),
        lambda: control_buffers.answers(name, ANSWERS),
    )
    names = ("inputs", "reward", "discount", "next_inputs")
    transitions = TransitionBatch(*(torch.from_numpy(stored[k]).float()[None] for k in names))
    answer = tuple(torch.from_numpy(right[k]).float() for k in ("inputs", "values"))
    return Buffer(f"{name}, {steps} steps", transitions, (answer[0], answer[1]))


def _claims(name: str, runs: dict[str, Array], full: bool) -> list[Row]:
    """Published as very similar to Mountain Car: the oracle and the corrections beat momentum.

    Required are the oracle and the corrections in the form of the first release, as there.
    """
    figure, rows = FIGURES[name][0], []
    for method, losses in runs.items():
        if method == "momentum":
            continue
        quantity = f"{figure} ({name}): loss of {NAMES[method]} less that of μ at step 5k"
        source = f"figure {figure}, section 4.3.2.1"
        row = lower(quantity, source, losses[:, -1], runs["momentum"][:, -1], full)
        rows.append(replace(row, required=method == "oracle" or METHODS[method].averaged))
    return rows
