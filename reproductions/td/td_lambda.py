"""Less bootstrapping, more coherent gradients: TD(λ) policy evaluation, figures 3.12 and 3.13.

    J = (V(S_t) - G^λ_t)² / 2,    G^λ_t = R_t + γ [(1 - λ) V̄(S_{t+1}) + λ G^λ_{t+1}]

with V̄ a copy of the network; copy and targets are renewed at intervals. Measured are the cosine of
gradients and the gain of one update, by distance in time. The published code weights the last
return of an episode by a power of λ that is off by two; here the weights sum to one.

The quick scale is on Mountain Car, as in `gain_profiles`.

Source: E. Bengio, PhD thesis, section 3.2.3.1, eq. 3.18-3.19, and section 3.2.4.2.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from semigradient.diagnostics.interference import measure_stiffness
from semigradient.diagnostics.spectrum import singular_values
from semigradient.optim.configs import AdamConfig
from semigradient.reproductions.report import Job, Report, Row
from semigradient.reproductions.rows import signed
from semigradient.reproductions.td import gain_profiles, replayed
from semigradient.reproductions.td.gain_claims import NEAR, OFFSETS, near
from semigradient.reproductions.td.gain_profiles import instants
from semigradient.reproductions.td.generalisation_gap import pearson
from semigradient.reproductions.td.recorded import Expert, Recorded, expert, mountain_car_record
from semigradient.reproductions.td.replayed import ReplayedLearner, TargetTable, nearby_gain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

TITLE = "TD(λ): cosine of gradients and gain by distance in time: thesis figures 3.12 and 3.13"
SEEDS = {"quick": 3, "full": 5}
STIFFNESS = 5
"""Measurements of the cosine, over the second half of learning."""
WINDOWS = 16


@dataclass(frozen=True)
class LambdaPlan:
    """The size of the runs; those of Q-learning are as in `gain_profiles`."""

    lambdas: tuple[float, ...]
    runs: gain_profiles.GainPlan

    @property
    def optimizer(self) -> AdamConfig:
        """Adam, with the learning rate of the other runs."""
        config = self.runs.optimizers["adam"]
        assert isinstance(config, AdamConfig)
        return config


QUICK = LambdaPlan((0.0, 0.5, 0.9, 0.99, 1.0), gain_profiles.QUICK)
FULL = LambdaPlan((0.0, 0.5, 0.8, 0.9, 0.95, 0.99, 1.0), gain_profiles.FULL)


def targets(recorded: Recorded, lambda_: float) -> Callable[[nn.Module], Tensor]:
    """λ-returns (T,) of all steps, that bootstrap from a network of state values."""

    def make(frozen: nn.Module) -> Tensor:
        following = recorded.evaluate(frozen, successors=True)[:, 0]
        return recorded.lambda_returns(following, lambda_)

    return make


def train(recorded: Recorded, plan: LambdaPlan, lambda_: float, seed: int) -> dict[str, Array]:
    """Train one network of state values.

    Returns `gain` (M, 61) at each measurement, `cosine` (M', 61), NaN at unmeasured distances, and
    the final `singular` values of the last hidden layer.
    """
    runs, table = plan.runs, TargetTable(targets(recorded, lambda_), plan.runs.renewed)
    network = replayed.network(recorded, seed, outputs=1)
    made = ReplayedLearner(network, recorded, table, plan.optimizer, seed)
    gains, cosines = [], []
    late = {runs.updates - 1 - k * runs.updates // (2 * STIFFNESS) for k in range(STIFFNESS)}
    chosen = instants(runs, seed)
    for update in range(runs.updates):
        index = made.draw(made.batch_size)
        if update in chosen:
            total, count = nearby_gain(made, index)
            gains.append(total.double() / count)
        else:
            made.learn(index)
        if update in late:
            profile = measure_stiffness(made.view(WINDOWS, seed + update)).profiles["offset"]
            curve = torch.full((len(OFFSETS),), torch.nan, dtype=torch.float64)
            curve[profile.x.cpu() + 30] = profile.curves["cosine"].double().cpu()
            cosines.append(curve)
    values = singular_values(made.experience().hidden).double()
    return {
        "gain": torch.stack(gains).cpu().numpy(),
        "cosine": torch.stack(cosines).numpy(),
        "singular": values.cpu().numpy(),
    }


Runs = dict[float, list[dict[str, Array]]]
"""Results of `train` for each seed, by λ."""


def trained(job: Job, plan: LambdaPlan, player: Expert | None) -> Runs:
    """All runs, computed unless cached."""
    runs: Runs = {}
    for seed in range(job.seeds):
        for lambda_, run in _of_seed(job, plan, player, seed):
            runs.setdefault(lambda_, []).append(run)
    return runs


def _of_seed(
    job: Job, plan: LambdaPlan, player: Expert | None, seed: int
) -> Iterator[tuple[float, dict[str, Array]]]:
    """Yield the runs of one seed, which learn from the same episodes."""
    steps = plan.runs.steps

    @functools.lru_cache(1)
    def recorded() -> Recorded:
        return player.record(steps, seed) if player else mountain_car_record(steps, seed)

    for lambda_ in plan.lambdas:
        setting = (job.folder, plan.runs, lambda_, seed)
        work = functools.partial(_train, recorded, plan, lambda_, seed)
        yield lambda_, job.cell(f"lambda-{lambda_:g}-s{seed}", setting, work)


def _train(
    recorded: Callable[[], Recorded], plan: LambdaPlan, lambda_: float, seed: int
) -> dict[str, Array]:
    return train(recorded(), plan, lambda_, seed)


def reproduce(job: Job) -> Report:
    """Train whatever is not cached and compare it with the published claims."""
    plan = FULL if job.full else QUICK
    player = expert(job.folder, "td-lambda at full scale") if job.full else None
    runs = trained(job, plan, player)
    q_learning = gain_profiles.trained(job, plan.runs, player, ("batch",), ("adam",))

    def draw(figure: Figure) -> None:
        for axes, key, title in zip(
            figure.subplots(1, 2), ("cosine", "gain"), ("3.12", "3.13"), strict=True
        ):
            for lambda_, seeds in runs.items():
                table = np.concatenate([run[key] for run in seeds])
                shown = np.isfinite(table).any(0) & (OFFSETS != 0)
                mean = np.nanmean(table[:, shown], 0)
                axes.plot(OFFSETS[shown], mean, marker=".", label=f"λ = {lambda_:g}")
            axes.set(title=title, xlabel="distance in time", ylabel=key)
            axes.legend(fontsize="small")

    return Report(claims(runs, q_learning["batch", "adam"]), draw)


def claims(runs: Runs, q_learning: list[Array]) -> list[Row]:
    """Rows comparing the published statements with the runs."""
    gains = of_lambda(runs, lambda run: near(run["gain"]))
    cosines = of_lambda(runs, lambda run: near(run["cosine"]))
    after = OFFSETS > 0
    sides = [near(f["gain"], NEAR & after) - near(f["gain"], NEAR & ~after) for f in runs[1.0]]
    rival = np.array([near(curves) for curves in q_learning])
    return [
        *rising("cosine of gradients at distances 1 to 10", "figure 3.12", cosines),
        *rising("gain at distances 1 to 10", "figure 3.13", gains),
        signed(
            "gain at distances 1 to 10, TD(1) less Q-learning",
            "surpasses that of Q-learning",
            "figure 3.13",
            gains[1.0] - rival,
            1,
        ),
        signed(
            "gain at distances 1 to 10, later steps less earlier ones, λ = 1",
            "asymmetric around 0",
            "figure 3.13",
            np.array(sides),
            0,
        ),
    ]


def of_lambda(runs: Runs, number: Callable[[dict[str, Array]], float]) -> dict[float, Array]:
    """One number per run, (S,) for each λ."""
    return {lam: np.array([number(run) for run in seeds]) for lam, seeds in runs.items()}


def rising(quantity: str, source: str, values: dict[float, Array]) -> list[Row]:
    """Rows for a quantity (S,) by λ that is published as rising with it."""
    table = np.stack(list(values.values()), axis=1)
    ranks = np.array([rank_correlation(np.array(list(values)), row) for row in table])
    first, last = min(values), max(values)
    words = f"{quantity}, λ = {last:g} less λ = {first:g}"
    return [
        signed(f"rank correlation of λ and {quantity}", "rises with λ", source, ranks, 1),
        signed(words, "rises with λ", source, values[last] - values[first], 1),
    ]


def rank_correlation(x: Array, y: Array) -> float:
    """Spearman's rank correlation without ties."""
    return pearson(np.argsort(np.argsort(x)), np.argsort(np.argsort(y)))
