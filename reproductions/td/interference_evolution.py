"""The change of interference along an update, in three terms: figure 3.17.

    ρ'_AB = -(r1 + r2 + r3)

of `diagnostics.evolution`, over pairs of steps drawn from recorded episodes, early in learning:
for a regression to an expert's values (`reg`), and for temporal differences whose target is a copy
renewed at intervals (`dqn`), a copy that follows with rate 0.01 (`ddqn`), or the network itself
(`ql`). For fixed targets, their term in the formula for temporal differences is zero, as
is their derivative. The factor 2 that the source prints before r2 does not follow from its
derivation and is omitted.

The quick scale is on Mountain Car, as in `gain_profiles`, with state values and SGD.

Source: E. Bengio, PhD thesis, section 3.2.3.3, eq. 3.23-3.26, and section 3.2.4.2.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from semigradient.diagnostics.evolution import evolution
from semigradient.nets.bricks import mlp
from semigradient.optim.configs import AdamConfig, OptimizerConfig, SGDConfig
from semigradient.reproductions.report import Job, Report, Row
from semigradient.reproductions.rows import signed
from semigradient.reproductions.td import replayed
from semigradient.reproductions.td.gain_profiles import ExpertRecord
from semigradient.reproductions.td.recorded import (
    Expert,
    Recorded,
    expert,
    mountain_car_record,
    mountain_car_values,
)
from semigradient.reproductions.td.replayed import OneStep, ReplayedLearner, Targets, TargetTable
from semigradient.training.agent import generator

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

TITLE = "The evolution of interference and its three parts: thesis figure 3.17"
SEEDS = {"quick": 3, "full": 3}
SOURCE = "figure 3.17"
CASES = ("reg", "dqn", "ddqn", "ql")
BOOTSTRAPPED = CASES[1:]
PARTS = ("r1", "r2", "r3")


@dataclass(frozen=True)
class EvolutionPlan:
    """The size of the runs.

    Attributes:
        steps: recorded steps.
        updates: minibatches of 32.
        every: updates between measurements.
        side: examples on each side of the pairs.
        renewed: updates between copies (`dqn`).
        optimizer: the optimizer.
    """

    steps: int
    updates: int
    every: int
    side: int
    renewed: int
    optimizer: OptimizerConfig


QUICK = EvolutionPlan(3000, 600, 30, 8, 100, SGDConfig(lr=1e-2))
FULL = EvolutionPlan(500_000, 100_000, 1000, 32, 10_000, AdamConfig(lr=1e-4, weight_decay=1e-4))


def network(recorded: Recorded, seed: int, frames: bool) -> nn.Module:
    """State values of a 2-16-16-1 perceptron, or action values of frames."""
    if frames:
        return replayed.network(recorded, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return mlp((2, 16, 16, 1), "leaky_relu")


def targets(case: str, plan: EvolutionPlan, values: Tensor) -> Targets:
    """Targets of one case; `values` (T,) are those of the expert."""
    if case == "reg":
        return TargetTable(lambda _: values)
    return {
        "dqn": OneStep(every=plan.renewed),
        "ddqn": OneStep(rate=0.01),
        "ql": OneStep(),
    }[case]


def measure(
    record: ExpertRecord, case: str, plan: EvolutionPlan, seed: int, frames: bool = False
) -> dict[str, Array]:
    """Train one network and measure every `plan.every` updates.

    Returns `parts` (M, 3, 3): for r1, r2, r3 the mean over pairs, the mean of the positive ones and
    that of the negative ones; `positive` (M, 3), the fraction of positive pairs; and `negative`
    (M, 3), the fraction of the sum of absolute values from negative pairs.
    """
    made = ReplayedLearner(
        network(record.recorded, seed, frames),
        record.recorded,
        targets(case, plan, record.values),
        plan.optimizer,
        seed,
    )
    drawing = generator(seed, 9)
    parts, positive, negative = [], [], []
    for update in range(plan.updates):
        if update % plan.every == 0:
            drawn = torch.randint(record.recorded.size, (2, plan.side), generator=drawing)
            one, other = (made.examples(index.to(made.action.device)) for index in drawn)
            terms = evolution(one, other)
            pairs = torch.stack([getattr(terms, part).flatten().double() for part in PARTS])
            up, down = pairs.clamp(min=0), pairs.clamp(max=0)
            parts.append(torch.stack([pairs.mean(1), _mean(up), _mean(down)], 1))
            positive.append((pairs > 0).double().mean(1))
            negative.append(-down.sum(1) / pairs.abs().sum(1).clamp(min=1e-300))
        made.learn(made.draw(made.batch_size))
    arrays = {"parts": parts, "positive": positive, "negative": negative}
    return {name: torch.stack(list_).cpu().numpy() for name, list_ in arrays.items()}


def _mean(clamped: Tensor) -> Tensor:
    """Means (3,) over the entries (3, n) that are not zero."""
    return clamped.sum(1) / (clamped != 0).sum(1).clamp(min=1)


def subject(plan: EvolutionPlan, seed: int, player: Expert | None) -> ExpertRecord:
    """Recorded episodes with the expert's values: of states on Mountain Car, of actions else."""
    if player is None:
        recorded = mountain_car_record(plan.steps, seed)
        values = mountain_car_values(recorded)[0].gather(1, recorded.action[:, None])[:, 0]
    else:
        recorded = player.record(plan.steps, seed)
        values = recorded.evaluate(player.network).gather(1, recorded.action[:, None])[:, 0]
    return ExpertRecord(recorded, values, values)


Runs = dict[str, list[dict[str, Array]]]
"""Results of `measure` for each seed, by case."""


def reproduce(job: Job) -> Report:
    """Train whatever is not cached and compare it with the published claims."""
    plan = FULL if job.full else QUICK
    player = expert(job.folder, "interference-evolution at full scale") if job.full else None
    runs: Runs = {}
    for seed in range(job.seeds):
        for case, run in _of_seed(job, plan, player, seed):
            runs.setdefault(case, []).append(run)

    def draw(figure: Figure) -> None:
        time = np.arange(0, plan.updates, plan.every)
        for axes, (case, seeds) in zip(figure.subplots(1, len(CASES)), runs.items(), strict=True):
            mean = np.mean([run["parts"] for run in seeds], 0)
            for index, (part, colour) in enumerate(zip(PARTS, ("C0", "C1", "C2"), strict=True)):
                axes.plot(time, mean[:, index, 0], "--", color=colour, alpha=0.5)
                axes.plot(time, mean[:, index, 1], color=colour, label=part)
                axes.plot(time, mean[:, index, 2], color=colour)
            axes.set_yscale("symlog", linthresh=1e-4)
            axes.set(title=case, xlabel="update")
        figure.axes[0].legend(fontsize="small")

    return Report(claims(runs), draw, inches=(12.0, 3.6))


def _of_seed(
    job: Job, plan: EvolutionPlan, player: Expert | None, seed: int
) -> Iterator[tuple[str, dict[str, Array]]]:
    """Yield the cases of one seed, which learn from the same episodes."""
    recorded = functools.lru_cache(1)(lambda: subject(plan, seed, player))

    def work(case: str) -> dict[str, Array]:
        return measure(recorded(), case, plan, seed, frames=player is not None)

    for case in CASES:
        setting = (job.folder, plan, case, seed)
        yield case, job.cell(f"{case}-s{seed}", setting, functools.partial(work, case))


def claims(runs: Runs) -> list[Row]:
    """Rows comparing the published statements with the runs."""
    share = {case: np.stack([f["positive"].mean(0) for f in seeds]) for case, seeds in runs.items()}
    mass = {case: np.stack([f["negative"].mean(0) for f in seeds]) for case, seeds in runs.items()}
    mean = {case: np.stack([f["parts"][:, :, 0] for f in seeds]) for case, seeds in runs.items()}
    rows = []
    for index in (0, 1):
        words = f"share of positive pairs of {PARTS[index]} less a half, reg"
        rows.append(
            signed(words, "positive much more often", SOURCE, share["reg"][:, index] - 0.5, 1)
        )
    for case in BOOTSTRAPPED:
        for index in (0, 1):
            words = f"negative share of the size of {PARTS[index]} less a half, {case}"
            published = "positive samples tend to dominate"
            rows.append(signed(words, published, SOURCE, mass[case][:, index] - 0.5, -1))
        words = f"negative share of the size of r2, {case} less reg"
        rows.append(signed(words, "much larger", SOURCE, mass[case][:, 1] - mass["reg"][:, 1], 1))
        size = np.abs(mean[case]).mean(1)
        words = f"size of the mean of r3 less that of r1 and r2, {case}"
        rows.append(signed(words, "smaller", SOURCE, size[:, 2] - size[:, :2].mean(1), -1))
        rows.append(
            signed(f"mean of r3, {case}", "negative", SOURCE, mean[case][:, :, 2].mean(1), -1)
        )
    return rows
