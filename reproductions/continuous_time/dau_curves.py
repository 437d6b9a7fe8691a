"""Learning curves of Deep Advantage Updating across time steps: figures 8.1, 8.2 and A.1 to A.4.

One configuration for every dt. Reported is the scaled return, comparable with the usual score at
the usual step: the undiscounted return of an evaluation episode of the deterministic policy, mean
over 64 environments, times dt over the usual step. The other learners (DDPG, on discrete actions
Q-learning, each unscaled as in the main figures and scaled as in the appendix) have the same
budget of physical time and the same networks. A score is the mean of the evaluations of the last
fifth of training; `area` is the mean distance over training of the highest and the lowest curve.
C. Tallec, PhD thesis, 2019, chapter 8.

The published claims concern Pendulum, BipedalWalker and Ant. On CartPole noise dominates, and
HalfCheetah has several gaits: their rows are not required.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from semigradient.domains.continuous_time.portraits import Portrait, pendulum_portrait
from semigradient.envs import make_vector
from semigradient.envs.clock import clock_of
from semigradient.experiments.curves import COLOURS
from semigradient.reproductions.report import Job, Report, Row
from semigradient.training.build import build
from semigradient.training.cli import parse
from semigradient.training.evaluation import SEED_OFFSET, evaluate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
Key = tuple[str, float]

CONTINUOUS = (("dau", ""), ("ddpg unscaled", "--time unscaled"), ("ddpg scaled", "--time scaled"))
DISCRETE = (("dau", ""), ("dqn unscaled", "--time unscaled"), ("dqn scaled", "--time scaled"))
_ENVS = 256
_SOURCE = "thesis, figure 8.2"


@dataclass(frozen=True)
class CurvesPlan:
    """The grid of runs.

    Attributes:
        env: environment.
        steps: time steps dt.
        learners: flags by label; the first word of a label is the agent.
        seconds: physical seconds in each of 256 environments.
        evaluations: number of evaluations, evenly spaced.
        published: published scaled returns of `dau`, by dt.
        least: scaled return that `dau` must reach at every dt.
        spread: largest difference of its means between time steps.
        time_limit: seconds of a training episode; 0: none.
        episode: seconds of an evaluation.
        portraits: seconds after which phase portraits are taken (pendulums only).
        scatters: whether the document says of the other learners that their variance grows as dt
            falls, instead of that they degrade.
        required: whether the document makes the claims for this environment.
        flags: flags of all learners.
    """

    env: str
    steps: tuple[float, ...]
    learners: tuple[tuple[str, str], ...]
    seconds: float
    evaluations: int
    published: Mapping[float, str]
    least: float
    spread: float
    time_limit: float = 0.0
    episode: float = 10.0
    portraits: tuple[float, ...] = ()
    scatters: bool = False
    required: bool = True
    flags: str = ""

    def command(self, label: str, dt: float, seed: int) -> list[str]:
        """The command line of a run."""
        extra = dict(self.learners)[label]
        words = f"--agent {label.split()[0]} --env {self.env} --seed {seed} --threads 1"
        words += f" --num-envs {_ENVS} {self.flags} {extra}"
        return f"{words} --env-options dt={dt} time_limit={self.time_limit:g}".split()

    @property
    def marks(self) -> Array:
        """Times of the evaluations in seconds, (evaluations,)."""
        return np.linspace(0, self.seconds, self.evaluations + 1)[1:]


def learn(plan: CurvesPlan, label: str, dt: float, seed: int) -> dict[str, Array]:
    """Train once: `curve` (evaluations,), and `value` and `policy` (portraits, 50, 50)."""
    agent: Any = build(parse(plan.command(label, dt, seed)).command)
    curve: list[float] = []
    portraits: list[Portrait] = []
    for mark in sorted({*plan.marks, *plan.portraits}):
        while agent.progress.steps < round(mark / dt) * _ENVS:
            agent.iterate()
        if mark in plan.marks:
            envs = make_vector(plan.env, 64, seed + SEED_OFFSET, dt=dt, time_limit=plan.episode)
            returns = evaluate(agent.policy(True), envs, 64).returns
            curve.append(returns.mean() * clock_of(envs).return_scale)
        if mark in plan.portraits:
            portraits.append(pendulum_portrait(agent))
    measured = {"curve": np.array(curve)}
    if portraits:
        measured |= {
            name: np.array([getattr(p, name) for p in portraits]) for name in ("value", "policy")
        }
    return measured


def score(run: dict[str, Array]) -> float:
    """Mean of the last fifth of the evaluations."""
    curve = run["curve"]
    return float(curve[-max(1, len(curve) // 5) :].mean())


@dataclass(frozen=True)
class Robustness:
    """Robustness of one learner to the time step.

    Attributes:
        worst: the lowest mean score over dt.
        spread: highest mean score less the lowest.
        area: mean over training of the distance between the highest and the lowest mean curve.
        fall: mean score at the largest dt less that at the smallest.
        scatter: range of scores over seeds at the smallest dt less that at the largest.
    """

    worst: float
    spread: float
    area: float
    fall: float
    scatter: float


def robustness(runs: dict[Key, list[dict[str, Array]]], label: str) -> Robustness:
    """Robustness of one learner over its time steps."""
    by_step = sorted((dt, seeds) for (name, dt), seeds in runs.items() if name == label)
    scores = [[score(run) for run in seeds] for _, seeds in by_step]  # from the smallest dt on
    curves = np.array([np.mean([run["curve"] for run in seeds], 0) for _, seeds in by_step])
    means, ranges = [np.mean(s) for s in scores], [np.ptp(s) for s in scores]
    area = (curves.max(0) - curves.min(0)).mean()
    fall, scatter = means[-1] - means[0], ranges[0] - ranges[-1]
    figures = min(means), max(means) - min(means), area, fall, scatter
    return Robustness(*(float(figure) for figure in figures))


def portrait_agreement(runs: dict[Key, list[dict[str, Array]]], label: str) -> float:
    """Mean correlation of the final policy portraits over all pairs of time steps."""
    last = [
        np.array([run["policy"][-1].ravel() for run in seeds])
        for (name, _), seeds in runs.items()
        if name == label
    ]
    # Seed k at one time step with seed k at another.
    pairs = [
        np.corrcoef(a, b)[0, 1]
        for one, other in combinations(last, 2)
        for a, b in zip(one, other, strict=True)
        if a.std() > 0 and b.std() > 0  # the correlation of a constant image is undefined
    ]
    return float(np.mean(pairs)) if pairs else 0.0


def claims(plan: CurvesPlan, runs: dict[Key, list[dict[str, Array]]]) -> list[Row]:
    """Rows comparing the published statements with the runs."""
    rows = [_level(plan, runs["dau", dt], dt) for dt in plan.steps]
    ours = robustness(runs, "dau")
    tolerance = f"< {plan.spread:g}"
    rows.append(
        _row(
            plan,
            "dau: spread of the mean over dt",
            "curves coincide",
            ours.spread,
            tolerance,
            ours.spread < plan.spread,
        )
    )
    for label, _ in plan.learners[1:]:
        rows += _beside(plan, label, robustness(runs, label), ours)
        if plan.portraits and len(plan.steps) > 1:
            mine, other = (portrait_agreement(runs, name) for name in ("dau", label))
            rows.append(
                replace(
                    _row(
                        plan,
                        f"dau: correlation of policy portraits over dt, beside {label}'s "
                        f"{other:.3f}",
                        "dau's look the same, ddpg's differ",
                        mine,
                        f"> {other:.3f}",
                        mine > other,
                        False,
                    ),
                    source="thesis, figures 8.1, A.1 to A.3",
                )
            )
    return rows


def _beside(plan: CurvesPlan, label: str, theirs: Robustness, ours: Robustness) -> list[Row]:
    """Rows of another learner beside `dau`; none is required."""
    coarse, fine = max(plan.steps), min(plan.steps)
    change = f"at dt = {coarse:g} less that at {fine:g}, beside dau's {ours.fall:.1f}"
    # A learner that gets better as dt falls does not degrade, however far its curves lie apart.
    least = max(0.0, ours.fall)
    rows = [
        (
            f"worst mean over dt, beside dau's {ours.worst:.1f}",
            "below dau",
            theirs.worst,
            f"< {ours.worst:.1f}",
            theirs.worst < ours.worst,
        ),
        (
            f"mean {change}",
            "not said" if plan.scatters else "degrades as dt falls",
            theirs.fall,
            f"> {least:.1f}",
            theirs.fall > least,
        ),
        (
            f"area between best and worst dt, beside dau's {ours.area:.1f}",
            "curves of different dt lie apart",
            theirs.area,
            f"> {ours.area:.1f}",
            theirs.area > ours.area,
        ),
    ]
    if plan.scatters:
        rows.append(
            (
                f"range over seeds at dt = {fine:g} less that at {coarse:g}",
                "variance grows as dt falls",
                theirs.scatter,
                "> 0",
                theirs.scatter > 0,
            )
        )
    return [
        _row(plan, f"{label}: {what}", published, value, tolerance, agrees, False)
        for what, published, value, tolerance, agrees in rows
    ]


def reproduce(job: Job, plan: CurvesPlan) -> Report:
    """Run whatever is not cached and compare it with the published claims."""
    runs: dict[Key, list[dict[str, Array]]] = {}
    for seed in range(job.seeds):
        for label, _ in plan.learners:
            for dt in plan.steps:
                run = job.cell(
                    f"{label.replace(' ', '-')}-dt{dt:g}-s{seed}",
                    (
                        plan.command(label, dt, seed),
                        plan.seconds,
                        plan.evaluations,
                        plan.episode,
                        plan.portraits,
                    ),
                    partial(learn, plan, label, dt, seed),
                )
                runs.setdefault((label, dt), []).append(run)
    tall = 9.0 if plan.portraits else 4.0
    return Report(claims(plan, runs), lambda figure: draw(figure, plan, runs), (12.0, tall))


def draw(figure: Figure, plan: CurvesPlan, runs: dict[Key, list[dict[str, Array]]]) -> None:
    """Curves over physical time above; below, the last portraits of the first seed by dt."""
    labels = [label for label, _ in plan.learners]
    above: Any = figure
    if plan.portraits:
        parts: Any = figure.subfigures(2, 1, height_ratios=(1, 1.6))
        above, below = parts
        _draw_portraits(below, plan, labels, runs)
    panels = above.subplots(1, len(labels), sharey=True, squeeze=False)[0]
    for axes, label in zip(panels, labels, strict=True):
        for dt, colour in zip(plan.steps, COLOURS, strict=False):
            curves = np.array([run["curve"] for run in runs[label, dt]])
            hours = plan.marks * _ENVS / 3600
            axes.plot(hours, curves.mean(0), color=colour, label=f"dt = {dt:g}")
            axes.fill_between(hours, curves.min(0), curves.max(0), color=colour, alpha=0.2)
        axes.set(title=label, xlabel="physical hours, all environments", ylabel="scaled return")
        axes.legend()


def _draw_portraits(
    figure: Any, plan: CurvesPlan, labels: list[str], runs: dict[Key, list[dict[str, Array]]]
) -> None:
    grid = figure.subplots(2 * len(labels), len(plan.steps), squeeze=False)
    for row, label in enumerate(labels):
        for column, dt in enumerate(plan.steps):
            run = runs[label, dt][0]
            portrait = Portrait(run["value"][-1], run["policy"][-1])
            portrait.draw(grid[2 * row][column], grid[2 * row + 1][column], f"{label}, dt = {dt:g}")


def _level(plan: CurvesPlan, runs: list[dict[str, Array]], dt: float) -> Row:
    values = np.array([score(run) for run in runs])
    mean = float(values.mean())
    return Row(
        f"dau, dt = {dt:g}: scaled return (range over seeds)",
        plan.published.get(dt, "not shown"),
        _SOURCE,
        mean,
        float(values.min()),
        float(values.max()),
        f"≥ {plan.least:g}",
        mean >= plan.least,
        plan.required,
    )


def _row(
    plan: CurvesPlan,
    quantity: str,
    published: str,
    value: float,
    tolerance: str,
    agrees: bool,
    required: bool = True,
) -> Row:
    return Row(
        quantity,
        published,
        _SOURCE,
        value,
        value,
        value,
        tolerance,
        agrees,
        required and plan.required,
    )
