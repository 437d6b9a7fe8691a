"""Over-parameterised polynomials that fit the same four points: figure 3.1.

Left: the minimum-norm fit of growing degree stays reasonable. Right: fits of degree 100 with
random components in the null space of the data fit it as well and oscillate elsewhere.

Source: E. Bengio, PhD thesis, section 3.1. The points are not published. Features are Legendre
polynomials of x in [-1, 1], each scaled to the same mean square, which keeps the norm meaningful.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from semigradient.reproductions.report import Job, Report, Row
from semigradient.training.summary import bootstrap_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

TITLE = "Over-parameterised polynomials through four points: thesis figure 3.1"
SEEDS = {"quick": 100, "full": 1000}
POINTS = np.array([[-0.8, 0.3], [-0.25, -0.4], [0.3, 0.5], [0.85, -0.1]])
DEGREES = (3, 5, 10, 20, 100)
GRID = np.linspace(-1, 1, 801)


def features(x: Array, degree: int) -> Array:
    """Legendre polynomials (n, degree + 1) at x (n,), of mean square 1 over [-1, 1]."""
    scale = np.sqrt(2.0 * np.arange(degree + 1) + 1)
    return np.asarray(np.polynomial.legendre.legvander(x, degree) * scale, np.float64)


def minimum_norm(degree: int) -> Array:
    """The coefficients of least norm that fit the points: Phi^+ y."""
    return np.linalg.pinv(features(POINTS[:, 0], degree)) @ POINTS[:, 1]


def random_fit(degree: int, rng: np.random.Generator, spread: float = 0.3) -> Array:
    """Coefficients that fit the points, random otherwise: Phi^+ y + (I - Phi^+ Phi) xi."""
    phi = features(POINTS[:, 0], degree)
    xi = spread * rng.standard_normal(degree + 1)
    return minimum_norm(degree) + xi - np.linalg.pinv(phi) @ (phi @ xi)


def reproduce(job: Job) -> Report:
    """Fit, and compare the mean squares of the fits."""
    smooth = {degree: minimum_norm(degree) for degree in DEGREES}
    wild = [random_fit(100, np.random.default_rng(seed)) for seed in range(job.seeds)]
    fits = [*smooth.values(), *wild]
    residual = max(
        float(np.abs(features(POINTS[:, 0], len(fit) - 1) @ fit - POINTS[:, 1]).max())
        for fit in fits
    )
    mean_square = {degree: float(np.mean(_curve(fit) ** 2)) for degree, fit in smooth.items()}
    of_wild = np.array([np.mean(_curve(fit) ** 2) for fit in wild])
    ratios = of_wild / max(mean_square.values())
    low, high = bootstrap_interval(np.mean, ratios, np.random.default_rng(0))
    source = "figure 3.1"
    rows = [
        Row(
            "largest residual of all fits at the points",
            "all fit the points",
            source,
            residual,
            residual,
            residual,
            "below 1e-8",
            residual < 1e-8,
        ),
        Row(
            "mean square of the minimum-norm fit of degree 100 over that of degree 3",
            "stays reasonable up to degree 100",
            source,
            mean_square[100] / mean_square[3],
            mean_square[100] / mean_square[3],
            mean_square[100] / mean_square[3],
            "at most 1",
            mean_square[100] <= mean_square[3],
        ),
        Row(
            "mean square of random fits of degree 100 over the largest of the minimum-norm fits",
            "oscillate wildly",
            source,
            float(ratios.mean()),
            low,
            high,
            "the interval is above 10",
            low > 10,
        ),
    ]

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, sharey=True)
        for degree, fit in smooth.items():
            left.plot(GRID, _curve(fit), label=f"degree {degree}")
        for fit in wild[:5]:
            right.plot(GRID, _curve(fit), linewidth=0.7)
        for axes, title in ((left, "minimum norm"), (right, "random, degree 100")):
            axes.plot(*POINTS.T, "ko")
            axes.set(title=title, xlabel="x", ylim=(-6, 6))
        left.legend(fontsize="small")

    return Report(rows, draw, inches=(8.0, 3.6))


def _curve(fit: Array) -> Array:
    return features(GRID, len(fit) - 1) @ fit
