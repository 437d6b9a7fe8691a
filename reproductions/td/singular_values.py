"""Spread of the singular values of the last hidden layer: figures 3.10 and 3.14.

Q-learning from control and from recorded episodes, and TD(λ) for several λ. The spread is the
standard deviation of the singular values.

Source: E. Bengio, PhD thesis, sections 3.2.2.4 and 3.2.3.1. The published figures are of the
weights (512, 9216) after 100 000 and 500 000 updates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from semigradient.diagnostics.spectrum import singular_values
from semigradient.experiments.curves import COLOURS
from semigradient.reproductions.report import Job, Report, Row
from semigradient.reproductions.rows import signed
from semigradient.reproductions.td import gain_profiles, mountain_car, td_lambda
from semigradient.reproductions.td.gain_profiles import GainPlan, control, subject
from semigradient.reproductions.td.recorded import Expert, expert
from semigradient.reproductions.td.td_lambda import of_lambda, rising
from semigradient.training.summary import bootstrap_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

TITLE = "Singular values of the last hidden layer: thesis figures 3.10 and 3.14"
SEEDS = {"quick": 3, "full": 5}
OPTIMIZERS = ("adam", "rmsprop")
CUTOFF = 200
"""Rank at which the published singular values drop sharply, of 512."""


def plan(full: bool) -> GainPlan:
    """Q-learning with equal numbers of updates in control and evaluation: 100 000 at full scale."""
    if not full:
        return gain_profiles.QUICK
    # One update every four environment steps, after 50 000 of them.
    return dataclasses.replace(gain_profiles.FULL, updates=100_000, control=450_000)


def spread(values: Array) -> float:
    """Standard deviation of singular values (n,)."""
    return float(values.std())


def reproduce(job: Job) -> Report:
    """Train whatever is not cached and compare it with the published claims."""
    player = expert(job.folder, "singular-values at full scale") if job.full else None
    spectra = {
        (kind, name): [
            _values(job, plan(job.full), player, kind, name, s) for s in range(job.seeds)
        ]
        for kind in ("control", "batch")
        for name in OPTIMIZERS
    }
    lambdas = td_lambda.FULL if job.full else td_lambda.QUICK
    runs = td_lambda.trained(job, lambdas, player)
    of_td = {f"λ = {lam:g}": [r["singular"] for r in seeds] for lam, seeds in runs.items()}
    rows = [
        signed(
            f"spread of singular values, evaluation less control, {name}",
            "a consistently larger spread in policy evaluation",
            "figure 3.10",
            np.array([spread(v) for v in spectra["batch", name]])
            - np.array([spread(v) for v in spectra["control", name]]),
            1,
        )
        for name in OPTIMIZERS
    ]
    largest = of_lambda(runs, lambda run: float(run["singular"][0]))
    rows += rising("largest singular value", "figure 3.14", largest)
    spreads = of_lambda(runs, lambda run: spread(run["singular"]))
    rows += rising("spread of singular values", "figure 3.14", spreads)
    if job.full:
        every = [*spectra.values(), *of_td.values()]
        rows.append(_cutoff(np.array([v for seeds in every for v in seeds])))

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        of_q = {f"{kind}, {name}": seeds for (kind, name), seeds in spectra.items()}
        _curves(left, of_q, "3.10")
        _curves(right, of_td, "3.14")

    return Report(rows, draw)


def _values(
    job: Job, plan: GainPlan, player: Expert | None, kind: str, name: str, seed: int
) -> Array:
    """The singular values after Q-learning of one kind, trained unless cached."""
    where = player.env if player else mountain_car.ID

    def work() -> dict[str, Array]:
        if kind == "control":
            return {"singular": control(plan, name, seed, where)["singular"]}
        made = gain_profiles.learner(subject(plan, seed, player), kind, plan, name, seed)
        for _ in range(plan.updates):
            made.learn(made.draw(made.batch_size))
        values = singular_values(made.experience().hidden).double()
        return {"singular": values.cpu().numpy()}

    setting = (where, job.folder, plan, kind, name, seed)
    spectrum: Array = job.cell(f"{kind}-{name}-s{seed}", setting, work)["singular"]
    return spectrum


def _cutoff(values: Array) -> Row:
    """A row for the drop after the 200th of singular values (runs, n)."""
    before, behind = values[:, CUTOFF - 100 : CUTOFF - 50], values[:, CUTOFF + 50 : CUTOFF + 100]
    ratios = behind.mean(1) / before.mean(1)
    low, high = bootstrap_interval(np.mean, ratios, np.random.default_rng(0))
    return Row(
        "mean of singular values 251 to 300 over that of 101 to 150, all runs",
        "a dramatic cutoff after about the 200th",
        "figures 3.10 and 3.14",
        float(ratios.mean()),
        low,
        high,
        "below 0.1",
        bool(ratios.mean() < 0.1),
    )


def _curves(axes: Axes, groups: Mapping[str, list[Array]], title: str) -> None:
    """Mean over seeds and its interval, by rank."""
    rng = np.random.default_rng(0)
    for (label, seeds), colour in zip(groups.items(), COLOURS, strict=False):
        table = np.stack(seeds)
        ends = [bootstrap_interval(np.mean, column, rng, 500) for column in table.T]
        low, high = np.array(ends).T
        rank = np.arange(1, table.shape[1] + 1)
        axes.plot(rank, table.mean(0), color=colour, label=label)
        axes.fill_between(rank, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.set(title=title, xlabel="rank", ylabel="singular value", yscale="log")
    axes.legend(fontsize="small")
