"""Value drift of sparse and dense features, and the effect of correction: figures 4.11 to 4.13.

Source: E. Bengio, PhD thesis, sections 4.3.2.2, 4.3.3.5 and 4.3.3.6. The features are those of
`problems.Grid`. The model is linear, so the full correction is the oracle without its window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from semigradient.reproductions.report import Job, Report, Row
from semigradient.reproductions.td.policy_evaluation import FULL, MOMENTUM, EvaluationSetting
from semigradient.reproductions.td.pooled import lower, paired, train, untrained
from semigradient.reproductions.td.problems import Grid, MountainCar
from semigradient.training.summary import bootstrap_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

TITLE = "Value drift with radial basis functions and perceptrons: thesis figures 4.11-4.13"
SEEDS = {"quick": 10, "full": 10}
METHODS = {"momentum": MOMENTUM, "full": FULL}
VARIANCES = {
    "quick": (4.0, 2.0, 1.0, 0.5),
    "full": (4.0, 3.5, 3.0, 2.5, 2.0, 1.5, 1.25, 1.0, 0.75, 0.5),
}
RATES = (0.1, 0.01)
BETA, SIZE, STEPS = 0.99, 16, 5000


def reproduce(job: Job) -> Report:
    """Train whatever is not cached and compare it with the published claims."""
    sides = (10, 20) if job.full else (10,)
    rows, panels = [], []
    for side in sides:
        trained = {
            (name, variance): _train(job, name, Grid(side, variance))
            for variance in VARIANCES[job.scale]
            for name in METHODS
        }
        for index, rate in enumerate(RATES):
            error, drift = ({k: v[m][index] for k, v in trained.items()} for m in range(2))
            text = f"grid {side}, learning rate {rate:g}"
            rows += _claims(text, error, drift, job)
            panels.append((text, error, drift))
    mlp = _train_mlp(job)
    rows.insert(0, _drift_of_features(job, mlp))

    def draw(figure: Figure) -> None:
        axes = figure.subplots(2, len(panels), squeeze=False)
        for column, (text, error, drift) in enumerate(panels):
            for name in METHODS:
                variances = VARIANCES[job.scale]
                means = [error[name, v].mean() for v in variances]
                drifts = [drift[name, v].mean() for v in variances]
                axes[0, column].plot(variances, means, "o-", label=name)
                axes[1, column].plot(drifts, means, "o-", label=name)
            axes[0, column].set(title=text, xlabel="$\\sigma^2$", ylabel="MSE", yscale="log")
            axes[1, column].set(xlabel="drift", ylabel="MSE", xscale="log", yscale="log")
        axes[0, 0].legend()

    return Report(rows, draw, inches=(4.5 * len(panels), 6.5))


def _train(job: Job, method: str, grid: Grid) -> tuple[Array, Array]:
    """Final error and mean drift, (A, S) each, bounded by the error of predicting zero."""
    problem = MountainCar(grid=grid)
    cell = EvaluationSetting(
        problem, (), METHODS[method], BETA, SIZE, RATES, STEPS, measure=("drift",)
    )
    return _error_and_drift(job, f"{method}-grid{grid.side}-v{grid.variance:g}", cell)


def _error_and_drift(job: Job, name: str, cell: EvaluationSetting) -> tuple[Array, Array]:
    worst = untrained(MountainCar())
    error = train(job, name, cell, worst)[..., -1]
    return error, train(job, name, cell, worst, key="drift").mean(-1)


def _train_mlp(job: Job) -> Array:
    """Mean drift (S,) of a perceptron under momentum."""
    hidden = 16 if job.full else 8
    cell = EvaluationSetting(
        MountainCar(), (hidden,) * 3, MOMENTUM, BETA, SIZE, (0.1,), STEPS, measure=("drift",)
    )
    return _error_and_drift(job, "momentum", cell)[1][0]


def _drift_of_features(job: Job, mlp: Array) -> Row:
    """Figure 4.11, at the published learning rate and width."""
    _, drift = _train(job, "momentum", Grid(20 if job.full else 10, 1.0))
    return lower(
        "4.11: drift with narrow features (σ² = 1, learning rate 0.1) less that of a perceptron",
        "figure 4.11, section 4.3.2.2",
        drift[RATES.index(0.1)],
        mlp,
        job.full,
    )


def _claims(
    text: str,
    error: dict[tuple[str, float], Array],
    drift: dict[tuple[str, float], Array],
    job: Job,
) -> list[Row]:
    """Figures 4.11 (narrow features: no difference), 4.12 and 4.13."""
    narrow, wide = min(VARIANCES[job.scale]), max(VARIANCES[job.scale])
    value, low, high = paired(error["full", narrow], error["momentum", narrow])
    share = 0.05 * float(error["momentum", narrow].mean())
    rows = [
        Row(
            f"4.11, {text}: loss of μ̂ less that of μ, σ² = {narrow:g}",
            "virtually identical",
            "section 4.3.2.2",
            value,
            low,
            high,
            f"within 5 % of the loss of μ, ±{share:.2g}",
            abs(value) <= share,
        ),
        lower(
            f"4.12, {text}: drift of μ, σ² = {narrow:g} less σ² = {wide:g}",
            "figure 4.12, section 4.3.2.2",
            drift["momentum", narrow],
            drift["momentum", wide],
            job.full,
        ),
    ]
    gaps = {v: error["full", v] - error["momentum", v] for v in (narrow, wide)}
    quantity = f"4.12, {text}: (loss of μ̂ less that of μ) at σ² = {wide:g}, less at {narrow:g}"
    rows.append(lower(quantity, "figure 4.12", gaps[wide], gaps[narrow], job.full))
    return [*rows, _correlation(text, error, drift, job)]


def _correlation(
    text: str,
    error: dict[tuple[str, float], Array],
    drift: dict[tuple[str, float], Array],
    job: Job,
) -> Row:
    """Figure 4.13: across widths, the loss of momentum rises with its drift."""
    losses, drifts = (
        np.log(np.stack([measured["momentum", v] for v in VARIANCES[job.scale]]))
        for measured in (error, drift)
    )
    correlations = np.array(
        [np.corrcoef(a, b)[0, 1] for a, b in zip(losses.T, drifts.T, strict=True)]
    )
    low, high = bootstrap_interval(np.mean, correlations, np.random.default_rng(0))
    return Row(
        f"4.13, {text}: correlation of log drift and log loss of μ across σ²",
        "drift correlates with performance",
        "figure 4.13, section 4.3.2.2",
        float(correlations.mean()),
        low,
        high,
        "the interval is above zero",
        low > 0,
    )
