"""Online policy evaluation on Mountain Car, transitions in order and one at a time: figure 4.4.

Source: E. Bengio, PhD thesis, sections 4.3.2.1 and 4.3.3.4. As in its published code, the loss is
delta^2 and the error is the squared one at the state just visited, here averaged over the last
1000 steps and measured against the exact value.

The published learning rates, applied to the average (1 - beta) sum beta^(t-i) g_i, hardly learn
anything in 20 000 steps. Divided by 1 - beta, which is the same algorithm without the factor in
front of the sum, they do: but at the largest of them (0.5 at beta = 0.99) the full
correction diverges, and momentum in some runs. So there are rows for three readings: without that
largest one, with it, and as printed (at the quick scale only for beta = 0.9). The correction is
also evaluated with half of Z, as in the published code. All are required but the consistent
derivative at the published rates, which is no form of the published code's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from semigradient.reproductions.report import Job, Report, Row
from semigradient.reproductions.td import policy_evaluation
from semigradient.reproductions.td.policy_evaluation import EvaluationSetting
from semigradient.reproductions.td.pooled import (
    NAMES,
    alike,
    curves,
    different,
    lower,
    pool,
    train,
    untrained,
)
from semigradient.reproductions.td.problems import MountainCar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

TITLE = "Mountain Car policy evaluation, online: thesis figure 4.4"
SEEDS = {"quick": 10, "full": 50}
PUBLISHED_RATES = (0.005, 0.001, 0.0005)
BETAS = (0.9, 0.99)
STEPS, EVERY = 20_000, 1000
METHODS = {name: rule for name, rule in policy_evaluation.METHODS.items() if not rule.averaged}
"""With single samples the form of the first release is that of the later ones, `full-half`."""
UNSTABLE = 0.5
"""The learning rate at which the full correction diverges."""
STABLE = f"without 1 - β, below {UNSTABLE:g}"
SOURCE = "figure 4.4, section 4.3.2.1"


def rates(beta: float, full: bool) -> dict[str, tuple[float, ...]]:
    """The published learning rates in each reading."""
    undamped = tuple(round(rate / (1 - beta), 9) for rate in PUBLISHED_RATES)
    stable = tuple(rate for rate in undamped if rate < UNSTABLE)
    readings = {STABLE: stable, "without 1 - β": undamped}
    if full or beta == BETAS[0]:
        readings["as printed"] = PUBLISHED_RATES
    return readings


def setting(method: str, beta: float, full: bool) -> EvaluationSetting:
    """One cell: three hidden layers, the distinct learning rates of all readings."""
    every = {rate for reading in rates(beta, full).values() for rate in reading}
    return EvaluationSetting(
        MountainCar(online=True),
        (16 if full else 8,) * 3,
        METHODS[method],
        beta,
        1,
        tuple(sorted(every, reverse=True)),
        STEPS,
        every=EVERY,
    )


def reproduce(job: Job) -> Report:
    """Train whatever is not cached and compare it with the published claims."""
    worst = untrained(MountainCar())
    readings: dict[str, dict[str, Array]] = {}
    for name in METHODS:
        parts: dict[str, list[Array]] = {}
        for beta in BETAS:
            cell = setting(name, beta, job.full)
            visited = train(job, name, cell, worst, key="visited")
            for reading, chosen in rates(beta, job.full).items():
                part = visited[[cell.lrs.index(rate) for rate in chosen]]
                parts.setdefault(reading, []).append(part)
        for reading, arrays in parts.items():
            readings.setdefault(reading, {})[name] = pool(arrays)
    rows = [row for name, runs in readings.items() for row in _claims(name, runs, job.full)]

    def draw(figure: Figure) -> None:
        steps = np.arange(EVERY, STEPS + 1, EVERY)
        for axes, (name, runs) in zip(figure.subplots(1, 3), readings.items(), strict=True):
            curves(axes, steps, runs)
            axes.set(title=f"4.4, learning rates {name}", xlabel="step", ylabel="error at $s_t$")
        figure.axes[0].legend(fontsize="small")

    return Report(rows, draw, inches=(13.0, 3.6))


def _claims(reading: str, runs: dict[str, Array], full: bool) -> list[Row]:
    last = {name: losses[:, -1] for name, losses in runs.items()}

    def words(first: str, second: str) -> str:
        return f"learning rates {reading}: error of {first} less that of {second} at step 20k"

    rows = []
    for name in ("oracle", "full", "full-half"):
        for rival in ("momentum", "diagonal"):
            quantity = words(NAMES[name], NAMES[rival])
            row = lower(quantity, SOURCE, last[name], last[rival], full)
            rows.append(replace(row, required=name != "full" or reading == STABLE))
    quantity = words(NAMES["diagonal"], NAMES["momentum"])
    rows.append(different(quantity, SOURCE, last["diagonal"], last["momentum"], full))
    for name in ("full", "full-half"):
        quantity = words(NAMES["oracle"], NAMES[name])
        row = alike(quantity, SOURCE, last["oracle"], last[name])
        rows.append(replace(row, required=name != "full" or reading == STABLE))
    return rows
