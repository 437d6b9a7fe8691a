"""Gain by distance in time: means of the measured curves, and the rows of figures 3.7-3.9 and 3.11.

Source: E. Bengio, PhD thesis, section 3.2.2.4 and 3.2.4.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from semigradient.reproductions.report import Row
from semigradient.reproductions.rows import signed
from semigradient.training.summary import bootstrap_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

REGRESSIONS = ("reg", "td*", "mc")
OFFSETS = np.arange(-30, 31)
NEAR = (OFFSETS != 0) & (abs(OFFSETS) <= 10)
OVERLAP = 0.25
"""Largest relative mean difference of two curves that counts as overlapping."""
CONSTANT = 2.0
"""Largest ratio of two gains that counts as constant over time."""


def near(curves: Array, chosen: Mask = NEAR) -> float:
    """Mean gain (M, 61) over measurements and selected distances, by default 1 to 10."""
    return float(np.nanmean(curves[:, chosen]))


def known_mean(values: ArrayLike) -> Array:
    """Mean over the first axis without NaN; NaN where all are, beyond the length of an episode."""
    table = np.asarray(values, np.float64)
    count = np.isfinite(table).sum(0)
    return np.where(count > 0, np.nansum(table, 0) / np.maximum(count, 1), np.nan)


Runs = dict[tuple[str, str], list[Array]]
"""Gains (M, 61) of each seed, by objective and optimizer."""


def claims(runs: Runs, optimizers: tuple[str, ...]) -> list[Row]:
    """Rows comparing the published statements with the runs."""
    gains = {key: np.array([near(curves) for curves in seeds]) for key, seeds in runs.items()}
    rows = []
    for objective in REGRESSIONS:
        least = np.min([gains[objective, name] for name in optimizers], axis=0)
        words = f"gain at distances 1 to 10, {objective}, least of the optimizers'"
        rows.append(signed(words, "positive", "figure 3.7", least, 1))
    rows.append(_overlap(runs))
    for objective in ("reg", "mc"):
        ratio = gains["batch", "adam"] / gains[objective, "adam"]
        words = f"gain at distances 1 to 10, batch Q-learning over {objective}, Adam"
        rows.append(_within(words, "more than an order of magnitude smaller", ratio, high=0.1))
    far = np.array([_drop(curves) for curves in runs["batch", "adam"]])
    of_reg = np.array([_drop(curves) for curves in runs["reg", "adam"]])
    words = "gain at distances 6 to 10 over that at 1 to 5, batch Q-learning less reg, Adam"
    rows.append(signed(words, "drops off even faster", "figure 3.8", far - of_reg, -1))
    for name, sign in (("rmsprop", -1), ("sgd", -1), ("adam", 1), ("momentum", 1)):
        if name in optimizers:
            words = f"gain at distances 1 to 10, batch Q-learning, {name}"
            said = "positive" if sign > 0 else "slightly negative"
            rows.append(signed(words, said, "figure 3.8", gains["batch", name], sign))
    words = "gain at distances 1 to 10, control less batch Q-learning, Adam"
    apart = gains["control", "adam"] - gains["batch", "adam"]
    rows.append(signed(words, "larger in control", "figure 3.8", apart, 1))
    centre = {
        name: np.array([near(curves, OFFSETS == 0) for curves in runs["batch", name]])
        for name in ("rmsprop", "adam")
    }
    words = "gain at distance 0, batch Q-learning, RMSProp less Adam"
    apart = centre["rmsprop"] - centre["adam"]
    rows.append(signed(words, "surprisingly large with RMSProp", "figure 3.9", apart, 1))
    late = np.array([near(_part(c, 3, 4)) / near(_part(c, 1, 2)) for c in runs["control", "adam"]])
    words = "gain at distances 1 to 10, control, Adam, last quarter of learning over the second"
    rows.append(
        _within(words, "constant after the first epochs", late, 1 / CONSTANT, CONSTANT, "3.11")
    )
    return rows


def _part(curves: Array, first: int, last: int) -> Array:
    """Measurements between two quarters of the time."""
    count = len(curves)
    return curves[count * first // 4 : count * last // 4]


def _drop(curves: Array) -> float:
    distance = abs(OFFSETS)
    return near(curves, (distance > 5) & (distance <= 10)) / near(
        curves, (distance > 0) & (distance <= 5)
    )


def _overlap(runs: Runs) -> Row:
    """Difference of the curves of reg and td*."""
    pairs = zip(runs["reg", "adam"], runs["td*", "adam"], strict=True)
    means = [(known_mean(one), known_mean(other)) for one, other in pairs]
    apart = np.array([np.nansum(abs(a - b)) / np.nansum(abs(a)) for a, b in means])
    words = "mean difference of the curves of reg and td*, relative to reg, Adam"
    return _within(words, "the curves mostly overlap", apart, high=OVERLAP, figure="3.7")


def _within(
    words: str,
    published: str,
    values: Array,
    low: float | None = None,
    high: float = np.inf,
    figure: str = "3.8",
) -> Row:
    """A row for a ratio of seeds (S,) whose median lies between bounds; by size, without `low`."""
    measured = values if low is not None else abs(values)
    ends = bootstrap_interval(np.median, measured, np.random.default_rng(0))
    middle = float(np.median(measured))
    text = f"median below {high:g}" if low is None else f"median between {low:g} and {high:g}"
    agrees = (low or 0.0) <= middle < high
    return Row(words, published, f"figure {figure}", middle, *ends, text, agrees)


def draw_curve(
    axes: Axes,
    seeds: list[Array],
    label: str,
    chosen: Mask | None = None,
    line: str = "-",
    colour: str | None = None,
) -> None:
    """Draw the mean over seeds and measurements by distance."""
    mean = known_mean([known_mean(curves) for curves in seeds])
    shown = np.where(OFFSETS == OFFSETS if chosen is None else chosen, mean, np.nan)
    axes.plot(OFFSETS, shown, line, color=colour, label=label)
    axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
