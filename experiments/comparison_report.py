"""The report of a comparison: tables, figures and text, built from its run folders.

Every interval is a 95 % percentile bootstrap that resamples runs within each environment
(`experiments/statistics.py`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from semigradient.errors import UserError
from semigradient.experiments import statistics
from semigradient.experiments.cells import read_json
from semigradient.experiments.comparison import (
    CELL_COLUMNS,
    RESULT_COLUMNS,
    Comparison,
    RunOutcome,
    outcomes,
    write_csv,
)
from semigradient.experiments.curves import (
    Array,
    Band,
    choose_key,
    draw_curves,
    draw_profiles,
    read_curve,
    seed_band,
)
from semigradient.experiments.methods_report import (
    hyperparameter_section,
    number,
    table,
    tuning_line,
    tuning_section,
    write_tuning,
)
from semigradient.training.summary import iqm, summarise


def _read_log(path: Path) -> list[dict[str, Any]]:
    from semigradient.training.logging import read_metrics

    try:
        return read_metrics(path)
    except (OSError, UserError) as error:
        # The report is still useful: the scores and all other runs are available.
        print(f"no learning curve: {error}", file=sys.stderr)
        return []


def _write_curves(comparison: Comparison, done: Sequence[RunOutcome]) -> str:
    """`curves.csv` and, unless there are no curves, `curves.png`."""
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
            who = asdict(outcome.cell) | {"method": outcome.method}
            rows += [who | {"step": x, "return": y} for x, y in points]
        panels[env] = {
            method: seed_band(mine, np.random.default_rng(0))
            for method in comparison.methods()
            if (mine := [c for o, c in zip(here, curves, strict=True) if o.method == method])
        }
    write_csv(comparison.out / "curves.csv", (*CELL_COLUMNS, "method", "step", "return"), rows)
    path = comparison.out / "curves.png"
    path.unlink(missing_ok=True)
    if not rows:
        return ""
    draw_curves(panels, keys, path)
    return path.name


Scores = dict[str, dict[str, list[float]]]  # method → environment → one score per run


def _by_kind(
    comparison: Comparison, done: Sequence[RunOutcome]
) -> dict[str, tuple[list[str], Scores]]:
    """Normalised scores by kind, with their environments; raw scores are not comparable."""
    by_kind: dict[str, tuple[list[str], Scores]] = {}
    for env in comparison.envs():
        for outcome in (one for one in done if one.cell.env == env):
            if (kind := outcome.row["normalised_kind"]) != "raw":
                envs, scores = by_kind.setdefault(kind, ([], {}))
                if env not in envs:
                    envs.append(env)
                runs = scores.setdefault(outcome.method, {}).setdefault(env, [])
                runs.append(outcome.row["normalised"])
    return by_kind


def _write_profiles(comparison: Comparison, done: Sequence[RunOutcome]) -> str:
    """`profile.png`, of the methods with runs on every environment of a kind."""
    panels: dict[str, dict[str, statistics.PerformanceProfile]] = {}
    thresholds: dict[str, Array] = {}
    for kind, (envs, scores) in _by_kind(comparison, done).items():
        values = [score for tasks in scores.values() for runs in tasks.values() for score in runs]
        margin = 0.05 * max(1e-6, max(values) - min(values))
        levels = np.linspace(min(0.0, *values) - margin, max(1.0, *values) + margin, 201)
        complete = {
            m: scores[m] for m in comparison.methods() if len(scores.get(m, ())) == len(envs)
        }
        if complete:
            thresholds[kind] = levels
            panels[kind] = {
                method: statistics.performance_profile(tasks, levels, np.random.default_rng(0))
                for method, tasks in complete.items()
            }
    path = comparison.out / "profile.png"
    path.unlink(missing_ok=True)
    if not panels:
        return ""
    draw_profiles(panels, thresholds, path)
    return path.name


def _heading(comparison: Comparison, outcomes: Sequence[RunOutcome]) -> str:
    done = sum(outcome.status == "done" for outcome in outcomes)
    seeds = len({outcome.cell.seed for outcome in outcomes})
    commands = [f"- {entry['date']}: `{entry['command']}`" for entry in comparison.history]
    machine = comparison.history[-1]["machine"] if comparison.history else {}
    return "\n\n".join(
        [
            f"# Comparison {comparison.out.name}",
            f"{len(comparison.methods())} methods × {len(comparison.envs())} environments × "
            f"{seeds} seeds: {done} of {len(outcomes)} runs done, each scored over "
            f"{comparison.episodes} episodes.",
            "\n".join(["Made by", "", *commands]),
            "\n".join(["on", "", *(f"- {key}: {value}" for key, value in machine.items())]),
            "[results.csv](results.csv) · [curves.csv](curves.csv)",
            *tuning_line(comparison),
        ]
    )


def _environment_sections(comparison: Comparison, done: Sequence[RunOutcome]) -> Iterable[str]:
    header = ["method", "runs", "mean", "IQM", "median", "normalised", "minutes per run"]
    for env in comparison.envs():
        rows = []
        for method in comparison.methods():
            runs = [one for one in done if one.cell.env == env and one.method == method]
            if not runs:
                rows.append([method, "0", *["–"] * 5])
                continue
            about = summarise([run.score for run in runs], np.random.default_rng(0))
            normal = np.mean([run.row["normalised"] for run in runs])
            kind = runs[0].row["normalised_kind"]
            minutes = np.mean([run.row["seconds"] or 0.0 for run in runs]) / 60
            rows.append(
                [
                    method,
                    str(len(runs)),
                    _estimate(about["mean"], about["mean_low"], about["mean_high"], len(runs)),
                    _estimate(about["iqm"], about["iqm_low"], about["iqm_high"], len(runs)),
                    number(about["median"]),
                    "–" if kind == "raw" else f"{number(normal)} ({kind})",
                    number(minutes),
                ]
            )
        yield f"## {env}\n\n{table(header, rows)}"


def _aggregate_sections(comparison: Comparison, done: Sequence[RunOutcome]) -> Iterable[str]:
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
                (iqm, iqm(pooled), False),
                (np.median, np.median(means), True),
                (np.mean, np.mean(means), True),
            ]
            rows.append([method])
            for statistic, value, per_task in cells:
                low, high = statistics.stratified_bootstrap_interval(
                    statistic, tasks, np.random.default_rng(0), per_task=per_task
                )
                rows[-1].append(_estimate(value, low, high, max(map(len, tasks.values()))))
        text = table(["method", "IQM", "median of environments", "mean"], rows)
        yield f"## All environments: {kind} scores\n\nOver {', '.join(envs)}.\n\n{text}"


def _improvement_section(comparison: Comparison, done: Sequence[RunOutcome]) -> str:
    """Probability that a run of each method beats a run of the first method."""
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
    return f"## Probability of improvement over {first}\n\n{table(header, rows)}"


def _protocol_section(comparison: Comparison, done: Sequence[RunOutcome]) -> str:
    """Protocols of the runs; several values in one cell mean that runs differ."""
    fields: dict[str, dict[str, dict[str, None]]] = {}  # field → environment → values, in order
    for outcome in done:
        card = read_json(comparison.out / outcome.row["run"] / "provenance.json").get("protocol")
        for name, value in (card or {}).items():
            text = value if isinstance(value, str) else json.dumps(value)
            fields.setdefault(name, {}).setdefault(outcome.cell.env, {})[text] = None
    if not fields:
        return ""
    envs = [env for env in comparison.envs() if any(env in values for values in fields.values())]
    rows = [
        [name, *(" / ".join(values.get(env, {"–": None})) for env in envs)]
        for name, values in fields.items()
    ]
    return f"## Protocol\n\n{table(['', *envs], rows)}"


def _failure_section(comparison: Comparison, outcomes: Sequence[RunOutcome]) -> str:
    rows = [
        [f"[{name}](logs/{name}.log)", outcome.status, outcome.message]
        for outcome in outcomes
        if outcome.status not in ("done", "not tuned") and (name := outcome.cell.name)
    ]
    for choice in comparison.choices().values():
        if choice.setting is None:
            rows.append([f"{choice.agent} + {choice.optim}", "not tuned", choice.reason])
        for run in choice.missing:
            name = run.cell.name
            rows.append([f"[{name}](logs/{name}.log)", *run.standing()])
    text = table(["run", "status", "reason"], rows) if rows else "None."
    return f"## Runs that are not done\n\n{text}"


NOTES = """## How to read this

The score of a run is its mean return over the evaluation episodes. Square brackets are 95 %
percentile bootstrap intervals over runs (2000 resamples, drawn within each environment): how the
number would vary with other seeds. `(one run)` marks a number without one. IQM is the mean of the
middle half of the runs. The probability of improvement counts ties as half. Definitions: Agarwal
et al. 2021."""


def _estimate(value: float, low: float, high: float, runs: int) -> str:
    """A number with its interval; a single run has none."""
    interval = f"[{number(low)}, {number(high)}]" if runs > 1 else "(one run)"
    return f"{number(value)} {interval}"


def write_report(comparison: Comparison) -> list[RunOutcome]:
    """Rebuild every table, figure and the report of a comparison from its run folders."""
    all_outcomes = outcomes(comparison)
    done = [outcome for outcome in all_outcomes if outcome.status == "done"]
    write_tuning(comparison)
    write_csv(comparison.out / "results.csv", RESULT_COLUMNS, [outcome.row for outcome in done])
    figures = {
        "Learning curves": _write_curves(comparison, done),
        "Performance profiles": _write_profiles(comparison, done),
    }
    sections = [
        _heading(comparison, all_outcomes),
        *_environment_sections(comparison, done),
        *_aggregate_sections(comparison, done),
        _improvement_section(comparison, done),
        tuning_section(comparison),
        *(f"## {title}\n\n![{title}]({name})" for title, name in figures.items() if name),
        hyperparameter_section(comparison, done),
        _protocol_section(comparison, done),
        _failure_section(comparison, all_outcomes),
        NOTES,
    ]
    text = "\n\n".join(section for section in sections if section)
    (comparison.out / "report.md").write_text(text + "\n", encoding="utf-8")
    return all_outcomes
