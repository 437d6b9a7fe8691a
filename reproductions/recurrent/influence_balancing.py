"""Influence balancing: figures 3.2a and 4.3.

A parameter θ pushes ten of 23 units up and thirteen down; its first effects on the observed unit
are positive, its lasting effect is −6 θ. Truncated backpropagation sees the first effects only: it
leaves the solution θ* = −1/6 at any step size, unless pieces are longer than 110 steps. UORO and
ARTBP, which are unbiased, find it.

Source: C. Tallec, PhD thesis, 2019, chapters 3 (eq. 3.23, 3.24) and 4. Steps are those printed,
η/(1 + √t) for UORO with η = 3e-4 (of 3e-4, 1e-3, 3e-3 the largest that is stable), and
3e-4/√(1 + t) for pieces, whose gradients are sums. θ begins at 0.5 and the units at 0, which the
source leaves open. Published is a picture of the running average of the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from semigradient.envs.memory.influence_balance import dynamics
from semigradient.gradients.recurrent.artbp import PowerLaw
from semigradient.gradients.recurrent.uoro import EPSILON
from semigradient.reproductions.report import Array, Job, Report, Row
from semigradient.reproductions.rows import averaged

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Influence balancing: UORO and ARTBP theses, figures 3.2a and 4.3"
SEEDS = {"quick": 5, "full": 20}
STEPS = {"quick": 300_000, "full": 3_000_000}
UNITS, POSITIVE, START, BEST, FAR = 23, 10, 0.5, -1 / 6, 1e6
LENGTHS = (10, 100, 200)
LAW = PowerLaw(6.0, 16.0)
RATE = {"pieces": 3e-4, "uoro": 3e-4, "rtrl": 1e-3}
_BLOCK = 1000


@dataclass
class Learners:
    """One row for each: truncated ones, real-time recurrent learning, ARTBP's, UORO's.

    All but UORO carry a sensitivity G = ∂s/∂θ forwards, from the last cut on, which for one
    parameter is backpropagation; ARTBP multiplies it where backpropagation is multiplied.
    """

    lengths: Sequence[int]
    seeds: int
    theta: Array = field(init=False)
    step: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        _, signs = dynamics(UNITS, POSITIVE)
        self.b = signs.numpy()
        first = len(self.lengths)
        self.artbp = slice(first + 1, first + 1 + self.seeds)
        self.uoro = slice(first + 1 + self.seeds, first + 1 + 2 * self.seeds)
        self.rows = self.uoro.stop
        self.pieces = [*range(first), *range(self.artbp.start, self.artbp.stop)]
        self.s = np.zeros((self.rows, UNITS))
        self.sensitivity = np.zeros((self.uoro.start, UNITS))
        self.theta = np.full(self.rows, START)
        self.total = np.zeros(self.uoro.start)
        self.age = np.zeros(self.seeds)
        self.column, self.row = np.zeros((self.seeds, UNITS)), np.zeros(self.seeds)

    def advance(self, chances: Array, signs: Array) -> Array:
        """One step.

        Args:
            chances: (seeds,) uniform, which decide ARTBP's cuts.
            signs: (seeds, 23), UORO's.

        Returns:
            Losses (rows,).
        """
        self._cut(chances)
        self.s = _spread(self.s) + self.theta[:, None] * self.b
        self.sensitivity = _spread(self.sensitivity) + self.b
        error = self.s[:, 0] - 1
        self.total += error[: self.uoro.start] * self.sensitivity[:, 0]
        self.age += 1
        self.step += 1
        rtrl = len(self.lengths)
        self._move([rtrl], RATE["rtrl"] / (1 + self.step**0.5), self.total[[rtrl]])
        self.total[rtrl] = 0
        moved = _spread(self.column)
        gradient = error[self.uoro] * (moved[:, 0] * self.row + self.b[0])
        self._trace(moved, signs)
        rows = range(self.uoro.start, self.uoro.stop)
        self._move(rows, RATE["uoro"] / (1 + self.step**0.5), gradient)
        return 0.5 * error**2

    def _cut(self, chances: Array) -> None:
        """Before a step: pieces that end, whose parameters move; factors where ARTBP's do not."""
        if not self.step:
            return
        c = (LAW.alpha - 1) / ((LAW.alpha - 2) * LAW.mean + self.age)
        ends = chances < c
        self.age[ends] = 0
        self.sensitivity[self.artbp] *= np.where(ends, 0, 1 / (1 - c))[:, None]
        rows = [row for row, length in enumerate(self.lengths) if self.step % length == 0]
        self.sensitivity[rows] = 0
        rows += (np.flatnonzero(ends) + self.artbp.start).tolist()
        if rows:
            self._move(rows, RATE["pieces"] / (1 + self.step) ** 0.5, self.total[rows])
            self.total[rows] = 0

    def _trace(self, moved: Array, signs: Array) -> None:
        by_theta = signs @ self.b
        first = np.sqrt(abs(self.row) / (np.linalg.norm(moved, axis=1) + EPSILON)) + EPSILON
        second = np.sqrt(abs(by_theta) / (UNITS**0.5 + EPSILON)) + EPSILON
        self.column = first[:, None] * moved + second[:, None] * signs
        self.row = self.row / first + by_theta / second

    def _move(self, rows: Sequence[int], rate: float, gradient: Array) -> None:
        """Those that are too far away stay where they are."""
        index = np.asarray(rows)
        theta = self.theta[index]
        self.theta[index] = np.where(abs(theta) < FAR, theta - rate * gradient, theta)


def learn(steps: int, seeds: int) -> dict[str, Array]:
    """Running averages (times, rows) of losses, the times, and θ at the end."""
    learners, rng = Learners(LENGTHS, seeds), np.random.default_rng(0)
    times = np.unique(np.geomspace(10, steps, 60).astype(int))
    total = np.zeros(learners.rows)
    averages: list[Array] = []
    for step in range(steps):
        if step % _BLOCK == 0:
            chances = rng.random((_BLOCK, seeds))
            signs = 2.0 * rng.integers(0, 2, (_BLOCK, seeds, UNITS)) - 1
        total += learners.advance(chances[step % _BLOCK], signs[step % _BLOCK])
        if step + 1 == times[len(averages)]:
            averages.append(total / (step + 1))
    return {"times": times, "averages": np.array(averages), "theta": learners.theta}


def sensitivities(steps: int) -> Array:
    """∂s¹/∂θ after 1, 2, … steps: what a piece of that length sees at its end."""
    a, b = (part.numpy() for part in dynamics(UNITS, POSITIVE))
    g, found = np.zeros(UNITS), []
    for _ in range(steps):
        g = a @ g + b
        found.append(g[0])
    return np.array(found)


def reproduce(job: Job) -> Report:
    """Where every learner ends, and why."""
    steps = STEPS[job.scale]
    found = job.cell("learn", (steps, RATE, LAW, LENGTHS), lambda: learn(steps, job.seeds))
    theta, first = found["theta"], len(LENGTHS)
    seen = sensitivities(400)
    means = seen.cumsum() / np.arange(1, 401)
    rows = [
        _number("lasting effect of θ, 1/θ*", "θ* = −1/6", 1 / seen[-1], BEST, 1e-9),
        _number("first step at which the effect is negative", "about 40", 1.0 + (seen < 0).argmax(),
                41, 0),
        _number("shortest piece whose mean effect has the right sign",
                "fails at 100, works at 200", 1.0 + (means < 0).argmax(), 110, 0),
    ]  # fmt: skip
    for index, length in enumerate(LENGTHS):
        distance = abs(theta[index] - BEST)
        away = length < 110
        start = START - BEST
        rows.append(
            Row(
                f"pieces of {length}: distance of θ from −1/6 at the end (0.667 at first)",
                "diverges" if away else "converges",
                "figures 3.2a, 4.3",
                float(distance),
                float(distance),
                float(distance),
                f"above {start:.3f}" if away else "below 0.05",
                bool(distance > start if away else distance < 0.05),
            )
        )
    for name, part in (("ARTBP", slice(first + 1, first + 1 + job.seeds)),
                       ("UORO", slice(first + 1 + job.seeds, None))):  # fmt: skip
        distances = abs(theta[part] - BEST)
        rows.append(averaged(f"{name}: distance of θ from −1/6 at the end", "converges",
                             "figures 3.2a, 4.3", distances, "below 0.01 with every seed",
                             (distances < 0.01).all()))  # fmt: skip
    rows.append(_number("real-time recurrent learning: θ at the end", "exact: θ* = −1/6",
                        theta[first], BEST, 0.01))  # fmt: skip
    return Report(rows, lambda figure: _draw(figure, found, job.seeds), (7.0, 4.2))


def _spread(units: Array) -> Array:
    """A times rows of units: half of each and half of the next."""
    found = 0.5 * units
    found[:, :-1] += 0.5 * units[:, 1:]
    return found


def _number(quantity: str, published: str, value: float, target: float, tolerance: float) -> Row:
    text = f"within {tolerance:g} of {target:.5g}"
    agrees = bool(abs(value - target) <= tolerance)
    return Row(quantity, published, "chapters 3 and 4", value, value, value, text, agrees)


def _draw(figure: Figure, found: dict[str, Array], seeds: int) -> None:
    axis, first = figure.subplots(), len(LENGTHS)
    names = [f"pieces of {length}" for length in LENGTHS]
    names += ["real-time recurrent learning", *["ARTBP"] * seeds, *["UORO"] * seeds]
    colours = [f"C{min(row, first) if row <= first else first + 1 + (row > first + seeds)}"
               for row in range(len(names))]  # fmt: skip
    for row, name in enumerate(names):
        label = name if name not in names[:row] else None
        axis.loglog(found["times"], found["averages"][:, row], color=colours[row], label=label)
    axis.set_xlabel("steps")
    axis.set_ylabel("running average of the loss")
    axis.legend(fontsize=7)
