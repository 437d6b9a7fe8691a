"""Learning curves of many runs, resampled to a common grid of steps and averaged; figures of
these curves and of performance profiles.

Every interval is a 95 % percentile bootstrap that resamples runs (`experiments/statistics.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from semigradient.experiments import statistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

Array = NDArray[np.float64]

# Okabe and Ito's palette, distinguishable with every common colour blindness, without yellow,
# which is invisible on white. Line styles distinguish methods beyond the number of colours.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", ":", "-.")
EVALUATION, EPISODE = "eval/mean", "episode/return"
GRID_POINTS = 101
PANEL_INCHES = (4.6, 3.4)


@dataclass(frozen=True)
class Curve:
    """One run: `values[i]` was logged at `steps[i]`, steps increasing."""

    steps: Array
    values: Array


@dataclass(frozen=True)
class Band:
    """A mean over seeds with its interval, each at the steps of a grid; all `(G,)`."""

    steps: Array
    mean: Array
    low: Array
    high: Array


def choose_key(runs: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """Evaluation returns when every run logged at least two, else those of training episodes."""
    logged = [sum(EVALUATION in line for line in lines) for lines in runs]
    return EVALUATION if logged and min(logged) >= 2 else EPISODE


def read_curve(lines: Sequence[Mapping[str, Any]], key: str) -> Curve:
    """The values of one key; the later line counts if a step was logged twice."""
    values = {
        float(line["step"]): float(line[key])
        for line in lines
        if line.get(key) is not None and np.isfinite(line[key])
    }
    steps = sorted(values)
    return Curve(np.array(steps), np.array([values[step] for step in steps]))


def common_grid(curves: Sequence[Curve], points: int = GRID_POINTS) -> Array:
    """Evenly spaced steps where every curve has data; empty when there are none."""
    if not curves or any(len(curve.steps) == 0 for curve in curves):
        return np.empty(0)
    first = max(curve.steps[0] for curve in curves)
    last = min(curve.steps[-1] for curve in curves)
    if last < first:
        return np.empty(0)
    return np.linspace(first, last, points) if last > first else np.array([first])


def on_grid(curve: Curve, grid: Array) -> Array:
    """A curve at the steps of a grid, `(G,)`.

    Each grid step is the mean of the values nearest to it, so that a noisy curve with many points
    is smoothed instead of subsampled; grid steps without values are interpolated linearly. A curve
    with fewer points than the grid is only interpolated.
    """
    if len(curve.steps) <= len(grid) or len(grid) == 1:
        return np.interp(grid, curve.steps, curve.values)
    edges = (grid[1:] + grid[:-1]) / 2
    cell = np.searchsorted(edges, curve.steps)
    inside = (curve.steps >= grid[0]) & (curve.steps <= grid[-1])
    total = np.bincount(cell[inside], curve.values[inside], len(grid))
    count = np.bincount(cell[inside], minlength=len(grid))
    filled = count > 0
    return np.interp(grid, grid[filled], total[filled] / count[filled])


def seed_band(
    curves: Sequence[Curve],
    rng: np.random.Generator,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    points: int = GRID_POINTS,
) -> Band:
    """Mean over the runs of one environment with its bootstrap interval at each step.

    Entire runs are resampled (for one environment the stratified bootstrap is the plain one). A
    single run has no interval: `low` and `high` are its values.
    """
    grid = common_grid(curves, points)
    if len(grid) == 0:
        return Band(grid, grid, grid, grid)
    values = np.stack([on_grid(curve, grid) for curve in curves])  # (N, G)
    # Frequency of each run in each resample: all resampled means are one matrix product.
    runs = len(values)
    weights = rng.multinomial(runs, np.full(runs, 1 / runs), size=resamples) / runs
    tail = (1 - confidence) / 2
    low, high = np.quantile(weights @ values, (tail, 1 - tail), axis=0)
    return Band(grid, values.mean(axis=0), low, high)


def draw_curves(
    panels: Mapping[str, Mapping[str, Band]], keys: Mapping[str, str], path: Path
) -> None:
    """One panel per environment; `panels[environment][method]` is a band of the key in `keys`."""
    environments = list(panels)

    def panel(axes: Axes, index: int) -> None:
        bands = panels[environments[index]]
        for method, band in bands.items():
            if len(band.steps):
                style = _style(method, panels)
                axes.fill_between(
                    band.steps, band.low, band.high, color=style["color"], alpha=0.18, linewidth=0
                )
                axes.plot(band.steps, band.mean, label=method, **style)
        axes.set_title(environments[index])
        axes.set_xlabel("environment steps")
        evaluated = keys[environments[index]] == EVALUATION
        axes.set_ylabel("evaluation return" if evaluated else "episode return")

    _draw(len(environments), panel, path)


def draw_profiles(
    panels: Mapping[str, Mapping[str, statistics.PerformanceProfile]],
    thresholds: Mapping[str, Array],
    path: Path,
) -> None:
    """Fraction of runs above each score; one panel per kind of normalised score."""
    kinds = list(panels)

    def panel(axes: Axes, index: int) -> None:
        kind = kinds[index]
        for method, profile in panels[kind].items():
            style = _style(method, panels)
            axes.fill_between(
                thresholds[kind],
                profile.low,
                profile.high,
                color=style["color"],
                alpha=0.18,
                linewidth=0,
            )
            axes.plot(thresholds[kind], profile.fraction, label=method, **style)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel(f"{kind} score τ")
        axes.set_ylabel("share of runs with score > τ")

    _draw(len(kinds), panel, path)


def _style(method: str, panels: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Style of a method, the same in every panel."""
    order = list(dict.fromkeys(name for methods in panels.values() for name in methods))
    lines, colour = divmod(order.index(method), len(COLOURS))
    return {"color": COLOURS[colour], "linestyle": LINES[lines % len(LINES)], "linewidth": 1.6}


def _draw(count: int, panel: Callable[[Axes, int], None], path: Path) -> None:
    """Lay out panels, three per row, with one legend below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(1, min(3, count))
    rows = max(1, -(-count // columns))
    figure = Figure(figsize=(PANEL_INCHES[0] * columns, PANEL_INCHES[1] * rows))
    figure.set_layout_engine("constrained")
    FigureCanvasAgg(figure)
    handles: dict[str, Any] = {}
    for index in range(count):
        axes = figure.add_subplot(rows, columns, index + 1)
        panel(axes, index)
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.title.set_text(_wrapped(axes.get_title(), axes.title, figure.dpi * PANEL_INCHES[0]))
        lines, labels = axes.get_legend_handles_labels()
        handles |= dict(zip(labels, lines, strict=True))
    if handles:
        _legend(figure, handles, 3 * columns)
    figure.savefig(path, dpi=150)


def _legend(figure: Figure, handles: Mapping[str, Any], most: int) -> None:
    """One legend below the panels, in as many columns as fit, the figure higher by its height.

    Labels that are wider than the figure are broken into lines.
    """
    room = figure.bbox.width * 0.98
    for count in range(min(len(handles), most), 0, -1):
        legend = figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside lower center",
            ncols=count,
            frameon=False,
        )
        excess = legend.get_window_extent().width - room
        if excess <= 0:
            break
        if count > 1:
            legend.remove()
            continue
        widest = max(text.get_window_extent().width for text in legend.get_texts()) - excess
        for text in legend.get_texts():
            text.set_text(_wrapped(text.get_text(), text, widest))
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + legend.get_window_extent().height / figure.dpi)


def _wrapped(words: str, text: Text, room: float) -> str:
    """`words` broken into lines no wider than `room` pixels in the type of `text`, after
    punctuation where that is possible.
    """
    lines = [""]
    for part in re.split(r"(?<=[-,:+/ =])", words):
        for piece in [part] if _width(part, text) <= room else part:
            if lines[-1] and _width(lines[-1] + piece, text) > room:
                lines.append("")
            lines[-1] += piece
    return "\n".join(lines)


def _width(words: str, text: Text) -> float:
    """Width in pixels of one line of words in the type of `text`."""
    before = text.get_text()
    text.set_text(words)
    width = text.get_window_extent().width
    text.set_text(before)
    return width
