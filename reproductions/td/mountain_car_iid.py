"""Policy evaluation on Mountain Car from independent transitions: figures 4.3 and 4.5 to 4.8.

Source: E. Bengio, PhD thesis, sections 4.3.2.1 and 4.3.3.3. The loss is delta^2, as in its
published code. The correction has three forms: `released`, that of the code's first release, which
already has the grids of these figures (derivative (mean of a)(mean of b)^T, without the factor 2);
`full-half`, that of its later ones (mean of a b^T, without the factor 2); `full`, the derivative of
the loss.

Required are the published settings, all learning rates together, with the form of the first
release. Beside them stand the other forms, for those rates and for the ones at which they are
stable: the full correction is stable only while |1 - lr lambda| < 1 for the eigenvalues lambda of
the averaged derivative; at 0.5 it always diverges here, at 0.1 often, half of it at 0.5 mostly.
(Until the first release's form was known, those stable rows were the required ones.) At the quick
scale the sweeps of figures 4.7 and 4.8 are not required: too few runs separate the ends.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from semigradient.reproductions.report import Job, Report, Row
from semigradient.reproductions.td.policy_evaluation import METHODS, EvaluationSetting
from semigradient.reproductions.td.pooled import (
    NAMES,
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

TITLE = "Mountain Car policy evaluation, independent transitions: thesis figures 4.3, 4.5-4.8"
SEEDS = {"quick": 10, "full": 10}
RATES = (0.5, 0.1, 0.05)
STABLE = (0.05,)
"""Learning rates at which the correction at its consistent scale is stable."""
BETAS_OF_GRID = (0.9, 0.99)
BETAS = (0.8, 0.9, 0.95, 0.975, 0.99, 0.995, 0.999)
MANY_RATES = (0.5, 0.4, 0.3, 0.2, 0.1, 0.075, 0.05, 0.025, 0.01, 0.005, 0.001)
SIZES = (1, 4, 16, 64)
RATES_OF_SIZES = (0.1, 0.01, 0.005)
RATES_OF_BETAS = (0.05, 0.01)
STEPS = 5000
# Methods whose cost does not grow with 1 / (1 - beta), for the sweeps at the quick scale.
CHEAP = ("momentum", "released", "released-diagonal", "full", "diagonal")


def reproduce(job: Job) -> Report:
    """Train whatever is not cached and compare it with the published claims."""
    worst = untrained(MountainCar())
    grid = {name: _grid(job, name, worst) for name in METHODS}
    main = {name: pool(parts) for name, parts in grid.items()}
    longer = {name: _longer(job, name, worst) for name in METHODS}
    names = list(METHODS) if job.full else list(CHEAP)
    sizes = {name: _sizes(job, name, worst) for name in names}
    betas = {name: _betas(job, name, worst) for name in names}
    rates = {name: _rates(job, name, worst) for name in names}
    sweeps = [
        *_u_shape("β", BETAS, betas, "4.7", job.full),
        *_u_shape("learning rate", MANY_RATES, rates, "4.8", job.full),
    ]
    others = dict.fromkeys([*_pairs("full-half", "diagonal"), *_pairs("full", "diagonal")])
    of_full = [("full", "momentum"), ("full", "diagonal"), ("oracle", "full")]
    rows = [
        *_differences(grid, _pairs("released", "released-diagonal"), RATES, job.full),
        *_shown(_differences(grid, others, RATES, job.full), False),
        *_shown(_differences(grid, _pairs("full-half", "diagonal"), (0.1, 0.05), job.full), False),
        *_shown(_differences(grid, of_full, STABLE, job.full), False),
        *_convergence(longer, job.full),
        *_small_batches(sizes, job.full),
        *_shown(sweeps, job.full),
    ]

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, 5)
        step = np.arange(250, STEPS + 1, 250)
        curves(panels[0], step, main)
        panels[0].set(title="4.3", xlabel="step", ylabel="MSE to $V^\\pi$")
        count = next(iter(longer.values())).shape[1]
        curves(panels[1], np.arange(1, count + 1) * 1000, longer)
        panels[1].set(title="4.5", xlabel="step")
        curves(panels[2], np.array(SIZES), sizes)
        panels[2].set(title="4.6", xlabel="minibatch", xscale="log")
        curves(panels[3], 1 - np.array(BETAS), betas)
        panels[3].set(title="4.7", xlabel="1 - β", xscale="log")
        curves(panels[4], np.array(MANY_RATES), rates)
        panels[4].set(title="4.8", xlabel="learning rate", xscale="log")
        for panel in panels:
            panel.set_yscale("log")
        panels[0].legend(fontsize="small")

    return Report(rows, draw, inches=(17.0, 3.6))


def setting(
    method: str, hidden: int, beta: float, size: int, lrs: tuple[float, ...]
) -> EvaluationSetting:
    """One cell: three hidden layers, 5000 steps."""
    return EvaluationSetting(MountainCar(), (hidden,) * 3, METHODS[method], beta, size, lrs, STEPS)


def _grid(job: Job, method: str, worst: float) -> list[Array]:
    """Losses (learning rates, seeds, T) of each setting of the grid of figure 4.3."""
    hidden, sizes = ((8, 16, 32), (4, 16, 64)) if job.full else ((8,), (4, 16))
    cells = [
        setting(method, h, beta, size, RATES)
        for h in hidden
        for beta in BETAS_OF_GRID
        for size in sizes
    ]
    return [train(job, method, cell, worst) for cell in cells]


def _longer(job: Job, method: str, worst: float) -> Array:
    """Losses (runs, T) every 1000 steps; for the full correction at its stable rates."""
    hidden, size, lrs, steps = (32, 16, RATES, 50_000) if job.full else (8, 16, RATES, 20_000)
    cell = replace(setting(method, hidden, 0.9, size, lrs), steps=steps, every=1000)
    losses = train(job, method, cell, worst)
    kept = STABLE if method in ("full", "full-half") else lrs
    return pool([losses[[lrs.index(rate) for rate in kept]]])


def _sizes(job: Job, method: str, worst: float) -> Array:
    """Final losses (runs, minibatch sizes)."""
    hidden = 16 if job.full else 8
    cells = [setting(method, hidden, 0.99, size, RATES_OF_SIZES) for size in SIZES]
    return np.stack([pool([train(job, method, cell, worst)])[:, -1] for cell in cells], axis=1)


def _betas(job: Job, method: str, worst: float) -> Array:
    """Final losses (runs, betas), minibatches of 4."""
    hidden = 16 if job.full else 8
    cells = [setting(method, hidden, beta, 4, RATES_OF_BETAS) for beta in BETAS]
    return np.stack([pool([train(job, method, cell, worst)])[:, -1] for cell in cells], axis=1)


def _rates(job: Job, method: str, worst: float) -> Array:
    """Final losses (seeds, learning rates), minibatches of 4."""
    cell = setting(method, 32 if job.full else 8, 0.9, 4, MANY_RATES)
    return train(job, method, cell, worst)[..., -1].T


def _pairs(correction: str, diagonal: str) -> list[tuple[str, str]]:
    """All pairs of methods of figure 4.3, with the corrections in one of their forms."""
    return list(itertools.combinations(("oracle", correction, diagonal, "momentum"), 2))


def _differences(
    grid: dict[str, list[Array]],
    pairs: Iterable[tuple[str, str]],
    lrs: tuple[float, ...],
    full: bool,
) -> list[Row]:
    """Figure 4.3 at some learning rates: all methods differ, and corrections help."""
    chosen = [RATES.index(rate) for rate in lrs]
    rates, rows = ", ".join(f"{rate:g}" for rate in lrs), []
    for first, second in pairs:
        a, b = (pool([part[chosen] for part in grid[name]])[:, -1] for name in (first, second))
        words = f"loss of {NAMES[first]} less that of {NAMES[second]} at step 5k"
        test = lower if second == "momentum" else different
        source = "figure 4.3, section 4.3.2.1"
        rows.append(test(f"4.3, learning rates {rates}: {words}", source, a, b, full))
    return rows


def _shown(rows: Iterable[Row], required: bool) -> list[Row]:
    return [replace(row, required=required) for row in rows]


def _convergence(longer: dict[str, Array], full: bool) -> list[Row]:
    """Figure 4.5: all methods continue to converge after step 5k."""
    rows = []
    for name, runs in longer.items():
        quantity = f"4.5: loss of {NAMES[name]} at the last step less that at step 5k"
        rows.append(lower(quantity, "figure 4.5", runs[:, -1], runs[:, 4], full))
    return rows


def _small_batches(losses: dict[str, Array], full: bool) -> list[Row]:
    """Figure 4.6: minibatches of 1 degrade the diagonal correction significantly."""
    rows = []
    for name in ("released-diagonal", "diagonal"):
        quantity = f"4.6: loss of {NAMES[name]} with minibatches of 16 less that with 1"
        one, sixteen = (losses[name][:, SIZES.index(size)] for size in (1, 16))
        row = lower(quantity, "figure 4.6, section 4.3.2.1", sixteen, one, full)
        rows.append(replace(row, required=name == "released-diagonal"))
    return rows


def _u_shape(
    what: str, values: tuple[float, ...], sweeps: dict[str, Array], figure: str, full: bool
) -> list[Row]:
    """The best value has lower losses than both ends of the sweep."""
    rows = []
    for name, losses in sweeps.items():
        best = int(losses.mean(0).argmin())
        for end in (0, len(values) - 1):
            quantity = (
                f"{figure} (U-shaped): loss of {NAMES[name]} at the best {what}, "
                f"{values[best]:g}, less that at {values[end]:g}"
            )
            rows.append(lower(quantity, f"figure {figure}", losses[:, best], losses[:, end], full))
    return rows
