"""Deep Advantage Updating on the pendulum at several time steps: figures 8.1 and 8.2.

One configuration for every dt. Reported is the scaled return: the undiscounted return of 10
seconds of the deterministic policy times dt / 0.05, mean over 64 environments, which is
comparable with the usual score at the usual step. DDPG, in its unscaled setting as in the main
figures (at full scale in its scaled one too), has the same budget of physical time and the same
networks. A score is the mean of the evaluations of the last fifth of training.

At quick scale the hidden layers have 64 units and there are 10 seconds in each environment; at
full scale it is the published configuration with 25. C. Tallec, PhD thesis, 2019, chapter 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from envs import make_vector
from reproductions.report import Job, Report, Row
from training.build import build
from training.cli import parse
from training.curves import COLOURS
from training.evaluation import SEED_OFFSET, evaluate
from training.portraits import Portrait, pendulum_portrait

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
Key = tuple[str, float]

TITLE = "Deep Advantage Updating and DDPG on the pendulum across time steps: figures 8.1 and 8.2"
SEEDS = {"quick": 2, "full": 5}
_REFERENCE = 0.05
_ENVS = 256
_SOURCE = "thesis, figure 8.2"


@dataclass(frozen=True)
class Plan:
    """Which runs are made.

    Attributes:
        steps: time steps dt.
        learners: flags by label; the first word of a label is the agent.
        seconds: physical seconds in each of 256 environments.
        evaluations: how many, evenly spaced.
        flags: those of all learners.
    """

    steps: tuple[float, ...]
    learners: tuple[tuple[str, str], ...]
    seconds: float
    evaluations: int
    flags: str

    def command(self, label: str, dt: float, seed: int) -> list[str]:
        """The command line of a run."""
        extra = dict(self.learners)[label]
        words = f"--agent {label.split()[0]} --env afterstate/Pendulum-v0 --seed {seed} --threads 1"
        words += f" --num-envs {_ENVS} {self.flags} {extra} --env-options dt={dt} time_limit=0"
        return words.split()


QUICK = Plan(
    (0.05, 0.01, 0.005),
    (("dau", ""), ("ddpg unscaled", "--time unscaled")),
    10.0,
    10,
    "--hidden 64 64",
)
FULL = Plan(
    (0.05, 0.01, 0.005, 0.002, 0.001, 0.0005),
    (("dau", ""), ("ddpg unscaled", "--time unscaled"), ("ddpg scaled", "--time scaled")),
    25.0,
    25,
    "",
)


def learn(plan: Plan, label: str, dt: float, seed: int) -> dict[str, Array]:
    """Train once; `curve` (evaluations,) of scaled returns, and portraits of `value`, `policy`."""
    command = parse(plan.command(label, dt, seed)).command
    agent: Any = build(command)
    root = seed + SEED_OFFSET
    curve = []
    for mark in np.linspace(0, plan.seconds, plan.evaluations + 1)[1:]:
        while agent.steps < round(mark / dt) * _ENVS:
            agent.iterate()
        envs = make_vector("afterstate/Pendulum-v0", 64, root, dt=dt, time_limit=10.0)
        scores = evaluate(agent.policy(True), envs, 64)
        curve.append(scores.returns.mean() * dt / _REFERENCE)
    portrait = pendulum_portrait(agent)
    return {"curve": np.array(curve), "value": portrait.value, "policy": portrait.policy}


def score(run: dict[str, Array]) -> float:
    """Mean of the last fifth of the evaluations."""
    curve = run["curve"]
    return float(curve[-max(1, len(curve) // 5) :].mean())


def robustness(runs: dict[Key, list[dict[str, Array]]], label: str) -> tuple[float, float]:
    """(worst mean score over dt, spread of mean scores over dt)."""
    means = [
        np.mean([score(run) for run in each]) for (name, _), each in runs.items() if name == label
    ]
    return float(min(means)), float(max(means) - min(means))


def claims(plan: Plan, runs: dict[Key, list[dict[str, Array]]]) -> list[Row]:
    """The published statements beside what the runs say."""
    rows = []
    for dt in plan.steps:
        values = np.array([score(run) for run in runs["dau", dt]])
        mean = float(values.mean())
        low, high = float(values.min()), float(values.max())
        rows.append(
            Row(
                f"dau, dt = {dt:g}: scaled return (range over seeds)",
                "about -150",
                _SOURCE,
                mean,
                low,
                high,
                "≥ -200",
                mean >= -200,
            )
        )
    _, spread = robustness(runs, "dau")
    rows.append(
        Row(
            "dau: spread of the mean over dt",
            "curves coincide",
            _SOURCE,
            spread,
            spread,
            spread,
            "< 60",
            spread < 60,
        )
    )
    for label, _ in plan.learners[1:]:
        worst, theirs = robustness(runs, label)
        rows.append(
            Row(
                f"{label}: spread of the mean over dt, beside dau's {spread:.1f}",
                "degrades as dt falls",
                _SOURCE,
                theirs,
                theirs,
                theirs,
                "reported, whatever it is",
                True,
            )
        )
        rows.append(
            Row(
                f"{label}: worst mean over dt",
                "not above dau",
                _SOURCE,
                worst,
                worst,
                worst,
                "reported, whatever it is",
                True,
            )
        )
    return rows


def reproduce(job: Job) -> Report:
    """Make every run that is not there yet and set them beside the published claims."""
    plan = FULL if job.full else QUICK
    runs: dict[Key, list[dict[str, Array]]] = {}
    for seed in range(job.seeds):
        for label, _ in plan.learners:
            for dt in plan.steps:
                found = job.cell(
                    f"{label.replace(' ', '-')}-dt{dt:g}-s{seed}",
                    (plan.command(label, dt, seed), plan.seconds, plan.evaluations),
                    partial(learn, plan, label, dt, seed),
                )
                runs.setdefault((label, dt), []).append(found)
    return Report(claims(plan, runs), lambda figure: _draw(figure, plan, runs), (12.0, 9.0))


def _draw(figure: Figure, plan: Plan, runs: dict[Key, list[dict[str, Array]]]) -> None:
    """Curves against physical time above; below, portraits of the first seed, a column a dt."""
    labels = [label for label, _ in plan.learners]
    parts: Any = figure.subfigures(2, 1, height_ratios=(1, 1.6))
    above, below = parts
    for axes, label in zip(above.subplots(1, len(labels), sharey=True), labels, strict=True):
        for dt, colour in zip(plan.steps, COLOURS, strict=False):
            curves = np.array([run["curve"] for run in runs[label, dt]])
            hours = np.linspace(0, plan.seconds, plan.evaluations + 1)[1:] * _ENVS / 3600
            axes.plot(hours, curves.mean(0), color=colour, label=f"dt = {dt:g}")
            axes.fill_between(hours, curves.min(0), curves.max(0), color=colour, alpha=0.2)
        axes.set(title=label, xlabel="physical hours, all environments", ylabel="scaled return")
        axes.legend()
    grid = below.subplots(2 * len(labels), len(plan.steps), squeeze=False)
    for row, label in enumerate(labels):
        for column, dt in enumerate(plan.steps):
            run = runs[label, dt][0]
            portrait = Portrait(run["value"], run["policy"])
            portrait.draw(grid[2 * row][column], grid[2 * row + 1][column], f"{label}, dt = {dt:g}")
