"""Errors of neighbouring states whose signs disagree, and what they cost: figure 3.15.

Q-learners are trained at several learning rates and widths. After learning, the variance of the
sign of their temporal differences in windows of five consecutive states is compared with the
function interference ρ̄ of their values and with their reward. With positive ρ̄, an update at one of
two neighbours whose errors differ in sign increases the loss of the other.

The quick scale learns CartPole, the full scale MsPacman. The source states once that these
are the policy-evaluation runs of figure 3.8; since its figure shows rewards, they are control runs
here.

Source: E. Bengio, PhD thesis, section 3.2.3.2.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from semigradient.diagnostics import coherence, interference
from semigradient.diagnostics.observer import View
from semigradient.experiments.curves import COLOURS
from semigradient.reproductions.report import Job, Report, Row
from semigradient.reproductions.rows import separated
from semigradient.reproductions.td.generalisation_gap import interval, pearson
from semigradient.training.agent import generator
from semigradient.training.build import build
from semigradient.training.cli import parse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

TITLE = "Sign variance of temporal differences, interference and reward: thesis figure 3.15"
SEEDS = {"quick": 2, "full": 3}
SOURCE = "figure 3.15"
SAMPLES = 128
"""Examples in pairs; four times as many windows."""
MEASUREMENTS = 5
"""Measurements over the last fifth of learning, averaged because a single one is noisy."""


@dataclass(frozen=True)
class SignVariancePlan:
    """The grid of runs.

    Attributes:
        env: the environment.
        steps: environment steps.
        rates: learning rates, smallest first; the last but one is the normal one.
        widths: units of the hidden layers.
        layers: number of hidden layers.
        flags: further flags of `train.py`.
    """

    env: str
    steps: int
    rates: tuple[float, ...]
    widths: tuple[int, ...]
    layers: int
    flags: tuple[str, ...]


_QUICK_FLAGS = (
    "--preset none --num-envs 4 --loss mse --learning-starts 200 --buffer-size 2400 "
    "--train-every 4 --target-update-every 400 --epsilon-fraction 0.3 --epsilon-end 0.05"
)
QUICK = SignVariancePlan(
    "CartPole-v1",
    2400,
    (3e-5, 1e-3, 5e-3),
    (16, 64),
    2,
    tuple(_QUICK_FLAGS.split()),
)
FULL = SignVariancePlan(
    "ALE/MsPacman-v5",
    10_000_000,
    (1e-6, 1e-5, 1e-4, 1e-3),
    (32, 128, 512, 1024),
    1,
    ("--loss", "mse", "--clip-rewards"),
)


@dataclass(frozen=True)
class SignVarianceRun:
    """One learner after learning.

    Attributes:
        rate: its learning rate.
        width: its hidden units.
        seed: its seed.
        sign_variance: mean variance of signs in windows of five.
        interference: ρ̄ over pairs of different examples.
        reward: mean return of the episodes of the last fifth of learning.
    """

    rate: float
    width: int
    seed: int
    sign_variance: float
    interference: float
    reward: float

    @property
    def log_interference(self) -> float:
        """Log ρ̄; a mean that is not positive counts as nearly none."""
        return float(np.log(max(self.interference, 1e-12)))


def measure(plan: SignVariancePlan, rate: float, width: int, seed: int) -> dict[str, Array]:
    """Train one learner; `measured`: sign variance, ρ̄ and reward."""
    words = ["--agent", "dqn", "--env", plan.env, "--seed", str(seed), "--steps", str(plan.steps)]
    words += ["--optim", "adam", "--optim.lr", str(rate), "--threads", "1", *plan.flags]
    words += ["--hidden", *[str(width)] * plan.layers]
    agent: Any = build(parse(words).command)
    times = [plan.steps - 1 - k * plan.steps // (5 * MEASUREMENTS) for k in range(MEASUREMENTS)]
    numbers, returns = [], []
    while agent.progress.steps < plan.steps:
        agent.iterate()
        ended = agent.progress.pop_episodes()
        if agent.progress.steps > 0.8 * plan.steps:
            returns += [score for score, _ in ended]
        if times and agent.progress.steps >= times[-1]:
            numbers.append(_observed(agent, seed, times.pop()))
    variance, rho = np.mean(numbers, 0)
    return {"measured": np.array([variance, rho, np.mean(returns)])}


def _observed(agent: Any, seed: int, step: int) -> tuple[float, float]:
    """Present sign variance and ρ̄."""
    experience = agent.experience()
    view = View(experience, lambda: experience, generator(seed, step), SAMPLES)
    variance = coherence.measure(view).scalars["sign_variance"]
    rows = interference.head_rows(view.train)
    rho = interference.pair_mean(interference.products(rows, rows))
    return variance.item(), rho.item()


def reproduce(job: Job) -> Report:
    """Run whatever is not cached and compare it with the published claims."""
    plan = FULL if job.full else QUICK
    runs = []
    for rate, width, seed in itertools.product(plan.rates, plan.widths, range(job.seeds)):
        name = f"lr{rate:g}-h{width}-s{seed}"
        work = functools.partial(measure, plan, rate, width, seed)
        cell = job.cell(name, (plan, rate, width, seed), work)
        runs.append(SignVarianceRun(rate, width, seed, *cell["measured"].tolist()))

    def draw(figure: Figure) -> None:
        top, bottom = figure.subplots(2, 1, sharex=True)
        for rate, colour in zip(plan.rates, COLOURS, strict=False):
            some = [run for run in runs if run.rate == rate]
            x, sizes = [r.sign_variance for r in some], [8 + r.width / 4 for r in some]
            top.scatter(x, [r.reward for r in some], sizes, colour, label=f"α = {rate:g}")
            bottom.scatter(x, [r.interference for r in some], sizes, colour)
        top.set(ylabel="reward")
        bottom.set(xlabel="sign variance", ylabel="ρ̄", yscale="log")
        top.legend(fontsize="small")

    return Report(claims(runs), draw, inches=(6.0, 6.0))


def claims(runs: Sequence[SignVarianceRun]) -> list[Row]:
    """Rows comparing the published statements with the runs."""
    variance = np.array([run.sign_variance for run in runs])
    rho = np.array([run.log_interference for run in runs])
    r, (low, high) = pearson(rho, variance), interval(rho, variance)
    rows = [
        Row(
            "r(log ρ̄, sign variance)",
            "0.71",
            SOURCE,
            r,
            low,
            high,
            "the interval is above zero",
            low > 0,
        )
    ]
    both = (variance > np.median(variance)) & (rho > np.median(rho))
    reward = np.array([run.reward for run in runs])
    rows.append(
        separated(
            "reward of runs with both ρ̄ and sign variance above the median, less that of the rest",
            "much worse",
            SOURCE,
            reward[both],
            reward[~both],
            -1,
        )
    )
    rates = sorted({run.rate for run in runs})
    of_rate = {rate: variance[[run.rate == rate for run in runs]] for rate in rates}
    words = f"sign variance at learning rate {rates[0]:g} less that at {rates[-2]:g}"
    few, many = of_rate[rates[0]], of_rate[rates[-2]]
    rows.append(separated(words, "lessened by a much smaller rate", SOURCE, few, many, -1))
    return rows
