"""What a comparison shows: learning curves and profiles, its tables, and the report around them.

Curves of many runs are brought to one grid of steps; every interval is a 95 % percentile
bootstrap that resamples runs within each environment (`training/statistics.py`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from errors import UserError
from training import statistics
from training.comparison import (
    CELL_COLUMNS,
    RESULT_COLUMNS,
    Comparison,
    Outcome,
    outcomes,
    read_json,
    write_csv,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

# Okabe and Ito's palette, told apart with every common colour blindness; yellow is left out
# because it vanishes on white. Line styles take over when the colours are used up.
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
    """The values of one key; of a step that was logged twice the later line counts."""
    found = {
        float(line["step"]): float(line[key])
        for line in lines
        if line.get(key) is not None and np.isfinite(line[key])
    }
    steps = sorted(found)
    return Curve(np.array(steps), np.array([found[step] for step in steps]))


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

    Values nearer to one grid step than to any other are averaged, so a noisy curve with many
    points is not merely sampled; steps without any are interpolated linearly. A curve with
    fewer points than the grid is only interpolated.
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

    Whole runs are drawn with replacement (of one environment the stratified bootstrap is the
    plain one). One run has no interval: `low` and `high` are its values.
    """
    grid = common_grid(curves, points)
    if len(grid) == 0:
        return Band(grid, grid, grid, grid)
    values = np.stack([on_grid(curve, grid) for curve in curves])  # (N, G)
    # How often each run is drawn: every resampled mean is then one matrix product.
    runs = len(values)
    weights = rng.multinomial(runs, np.full(runs, 1 / runs), size=resamples) / runs
    tail = (1 - confidence) / 2
    low, high = np.quantile(weights @ values, (tail, 1 - tail), axis=0)
    return Band(grid, values.mean(axis=0), low, high)


def draw_curves(
    panels: Mapping[str, Mapping[str, Band]], keys: Mapping[str, str], path: Path
) -> None:
    """One panel an environment; `panels[environment][method]` is a band, of returns `keys`."""
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
    panels: Mapping[str, Mapping[str, statistics.Profile]],
    thresholds: Mapping[str, Array],
    path: Path,
) -> None:
    """Share of runs above each score; one panel a kind of normalised score."""
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
    """The same colour for a method in every panel, whichever methods a panel lacks."""
    order = list(dict.fromkeys(name for methods in panels.values() for name in methods))
    lines, colour = divmod(order.index(method), len(COLOURS))
    return {"color": COLOURS[colour], "linestyle": LINES[lines % len(LINES)], "linewidth": 1.6}


def _draw(count: int, panel: Callable[[Axes, int], None], path: Path) -> None:
    """Lay out panels, three a row, with one legend below all of them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(1, min(3, count))
    rows = max(1, -(-count // columns))
    size = (PANEL_INCHES[0] * columns, PANEL_INCHES[1] * rows + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    handles: dict[str, Any] = {}
    for index in range(count):
        axes = figure.add_subplot(rows, columns, index + 1)
        panel(axes, index)
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        lines, labels = axes.get_legend_handles_labels()
        handles |= dict(zip(labels, lines, strict=True))
    _legend(figure, handles, columns)
    figure.savefig(path, dpi=150)


def _legend(figure: Figure, handles: Mapping[str, Any], columns: int) -> None:
    if handles:
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside lower center",
            ncols=min(len(handles), 3 * columns),
            frameon=False,
        )


def _read_log(path: Path) -> list[dict[str, Any]]:
    from training.logging import read_metrics

    try:
        return read_metrics(path)
    except (OSError, UserError) as error:
        # Hours of other runs are not worth less for it; the scores are still there.
        print(f"no learning curve: {error}", file=sys.stderr)
        return []


def _write_curves(comparison: Comparison, done: Sequence[Outcome]) -> str:
    """`curves.csv` and, where there is something to see, `curves.png`."""
    rows: list[dict[str, Any]] = []
    panels: dict[str, dict[str, Band]] = {}
    keys: dict[str, str] = {}
    for env in comparison.envs():
        here = [outcome for outcome in done if outcome.cell.env == env]
        logs = [_read_log(comparison.out / one.row["run"] / "metrics.jsonl") for one in here]
        keys[env] = choose_key(logs)
        curves = [read_curve(lines, keys[env]) for lines in logs]
        for outcome, curve in zip(here, curves, strict=True):
            points = zip(curve.steps.astype(int).tolist(), curve.values.tolist(), strict=True)
            rows += [asdict(outcome.cell) | {"step": x, "return": y} for x, y in points]
        panels[env] = {
            method: seed_band(mine, np.random.default_rng(0))
            for method in comparison.methods()
            if (mine := [c for o, c in zip(here, curves, strict=True) if o.method == method])
        }
    write_csv(comparison.out / "curves.csv", (*CELL_COLUMNS, "step", "return"), rows)
    path = comparison.out / "curves.png"
    path.unlink(missing_ok=True)
    if not rows:
        return ""
    draw_curves(panels, keys, path)
    return path.name


Scores = dict[str, dict[str, list[float]]]  # method → environment → one score a run


def _by_kind(
    comparison: Comparison, done: Sequence[Outcome]
) -> dict[str, tuple[list[str], Scores]]:
    """Normalised scores of each kind and their environments; raw ones do not mix."""
    found: dict[str, tuple[list[str], Scores]] = {}
    for env in comparison.envs():
        for outcome in (one for one in done if one.cell.env == env):
            if (kind := outcome.row["normalised_kind"]) != "raw":
                envs, scores = found.setdefault(kind, ([], {}))
                if env not in envs:
                    envs.append(env)
                runs = scores.setdefault(outcome.method, {}).setdefault(env, [])
                runs.append(outcome.row["normalised"])
    return found


def _write_profiles(comparison: Comparison, done: Sequence[Outcome]) -> str:
    """`profile.png`, of the methods that have runs of every environment of a kind."""
    panels: dict[str, dict[str, statistics.Profile]] = {}
    thresholds: dict[str, Array] = {}
    for kind, (envs, scores) in _by_kind(comparison, done).items():
        values = [score for tasks in scores.values() for runs in tasks.values() for score in runs]
        margin = 0.05 * max(1e-6, max(values) - min(values))
        levels = np.linspace(min(0.0, *values) - margin, max(1.0, *values) + margin, 201)
        whole = {m: scores[m] for m in comparison.methods() if len(scores.get(m, ())) == len(envs)}
        if whole:
            thresholds[kind] = levels
            panels[kind] = {
                method: statistics.performance_profile(tasks, levels, np.random.default_rng(0))
                for method, tasks in whole.items()
            }
    path = comparison.out / "profile.png"
    path.unlink(missing_ok=True)
    if not panels:
        return ""
    draw_profiles(panels, thresholds, path)
    return path.name


def _heading(comparison: Comparison, found: Sequence[Outcome]) -> str:
    done = sum(outcome.status == "done" for outcome in found)
    seeds = len({outcome.cell.seed for outcome in found})
    commands = [f"- {entry['date']}: `{entry['command']}`" for entry in comparison.history]
    machine = comparison.history[-1]["machine"] if comparison.history else {}
    return "\n\n".join(
        [
            f"# Comparison {comparison.out.name}",
            f"{len(comparison.methods())} methods × {len(comparison.envs())} environments × "
            f"{seeds} seeds: {done} of {len(found)} runs done, each scored over "
            f"{comparison.episodes} episodes.",
            "\n".join(["Made by", "", *commands]),
            "\n".join(["on", "", *(f"- {key}: {value}" for key, value in machine.items())]),
            "[results.csv](results.csv) · [curves.csv](curves.csv)",
        ]
    )


def _environment_sections(comparison: Comparison, done: Sequence[Outcome]) -> Iterable[str]:
    header = ["method", "runs", "mean", "IQM", "median", "normalised", "minutes a run"]
    for env in comparison.envs():
        rows = []
        for method in comparison.methods():
            runs = [one for one in done if one.cell.env == env and one.method == method]
            if not runs:
                rows.append([method, "0", *["–"] * 5])
                continue
            about = statistics.summary([run.score for run in runs], np.random.default_rng(0))
            normal = np.mean([run.row["normalised"] for run in runs])
            kind = runs[0].row["normalised_kind"]
            minutes = np.mean([run.row["seconds"] or 0.0 for run in runs]) / 60
            rows.append(
                [
                    method,
                    str(len(runs)),
                    _estimate(about["mean"], about["mean_low"], about["mean_high"], len(runs)),
                    _estimate(about["iqm"], about["iqm_low"], about["iqm_high"], len(runs)),
                    _number(about["median"]),
                    "–" if kind == "raw" else f"{_number(normal)} ({kind})",
                    _number(minutes),
                ]
            )
        yield f"## {env}\n\n{_table(header, rows)}"


def _aggregate_sections(comparison: Comparison, done: Sequence[Outcome]) -> Iterable[str]:
    for kind, (envs, scores) in _by_kind(comparison, done).items():
        rows = []
        for method in comparison.methods():
            tasks = scores.get(method, {})
            if len(tasks) < len(envs):
                missing = ", ".join(env for env in envs if env not in tasks)
                rows.append([method, f"no run of {missing}", "–", "–"])
                continue
            pooled = np.concatenate(list(tasks.values()))
            means = [np.mean(runs) for runs in tasks.values()]
            cells: list[tuple[statistics.Statistic, Any, bool]] = [
                (statistics.iqm, statistics.iqm(pooled), False),
                (np.median, np.median(means), True),
                (np.mean, np.mean(means), True),
            ]
            rows.append([method])
            for statistic, value, per_task in cells:
                low, high = statistics.stratified_bootstrap_interval(
                    statistic, tasks, np.random.default_rng(0), per_task=per_task
                )
                rows[-1].append(_estimate(value, low, high, max(map(len, tasks.values()))))
        table = _table(["method", "IQM", "median of environments", "mean"], rows)
        yield f"## All environments: {kind} scores\n\nOver {', '.join(envs)}.\n\n{table}"


def _improvement_section(comparison: Comparison, done: Sequence[Outcome]) -> str:
    """How likely a run of each method beats one of the first."""
    first, *others = comparison.methods()
    envs = comparison.envs()
    if not others:
        return ""
    scores: Scores = {method: {} for method in comparison.methods()}
    for outcome in done:
        scores[outcome.method].setdefault(outcome.cell.env, []).append(outcome.score)
    columns = [envs, *([env] for env in envs)] if len(envs) > 1 else [envs]

    def cell(method: str, tasks: Sequence[str]) -> str:
        x, y = ({env: scores[m][env] for env in tasks if env in scores[m]} for m in (method, first))
        if min(len(x), len(y)) < len(tasks):
            return "–"
        estimate = statistics.probability_of_improvement(x, y, np.random.default_rng(0))
        return _estimate(*estimate, max(map(len, [*x.values(), *y.values()])))

    rows = [[method, *(cell(method, tasks) for tasks in columns)] for method in others]
    header = ["method", *(["all"] if len(envs) > 1 else []), *envs]
    return f"## Probability of improvement over {first}\n\n{_table(header, rows)}"


def _protocol_section(comparison: Comparison, done: Sequence[Outcome]) -> str:
    """The protocol cards of the runs; several values in one place mean that runs differ."""
    found: dict[str, dict[str, dict[str, None]]] = {}  # field → environment → values, in order
    for outcome in done:
        card = read_json(comparison.out / outcome.row["run"] / "provenance.json").get("protocol")
        for name, value in (card or {}).items():
            text = value if isinstance(value, str) else json.dumps(value)
            found.setdefault(name, {}).setdefault(outcome.cell.env, {})[text] = None
    if not found:
        return ""
    envs = [env for env in comparison.envs() if any(env in values for values in found.values())]
    rows = [
        [name, *(" / ".join(values.get(env, {"–": None})) for env in envs)]
        for name, values in found.items()
    ]
    return f"## Protocol\n\n{_table(['', *envs], rows)}"


def _failure_section(comparison: Comparison, found: Sequence[Outcome]) -> str:
    rows = [
        [f"[{name}](logs/{name}.log)", outcome.status, outcome.message]
        for outcome in found
        if outcome.status != "done" and (name := outcome.cell.name)
    ]
    text = _table(["run", "status", "last message"], rows) if rows else "None."
    return f"## Runs that are not done\n\n{text}"


NOTES = """## How to read this

The score of a run is its mean return over the evaluation episodes. Square brackets are 95 %
percentile bootstrap intervals over runs (2000 resamples, drawn within each environment): how the
number would vary with other seeds. `(one run)` marks a number without one. IQM is the mean of the
middle half of the runs. The probability of improvement counts ties as half. Definitions: Agarwal
et al. 2021."""


def _estimate(value: float, low: float, high: float, runs: int) -> str:
    """A number with its interval; one run shows nothing of how others would differ."""
    interval = f"[{_number(low)}, {_number(high)}]" if runs > 1 else "(one run)"
    return f"{_number(value)} {interval}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; numbers to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    clean = ([cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in clean)


def write_report(comparison: Comparison) -> list[Outcome]:
    """Rebuild every table, figure and the report of a comparison from its run folders."""
    found = outcomes(comparison)
    done = [outcome for outcome in found if outcome.status == "done"]
    write_csv(comparison.out / "results.csv", RESULT_COLUMNS, [outcome.row for outcome in done])
    figures = {
        "Learning curves": _write_curves(comparison, done),
        "Performance profiles": _write_profiles(comparison, done),
    }
    sections = [
        _heading(comparison, found),
        *_environment_sections(comparison, done),
        *_aggregate_sections(comparison, done),
        _improvement_section(comparison, done),
        *(f"## {title}\n\n![{title}]({name})" for title, name in figures.items() if name),
        _protocol_section(comparison, done),
        _failure_section(comparison, found),
        NOTES,
    ]
    text = "\n\n".join(section for section in sections if section)
    (comparison.out / "report.md").write_text(text + "\n")
    return found
