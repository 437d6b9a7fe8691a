"""Policy evaluation from Atari frames, with and without correction: figures 4.16 and 4.18.

    δ = Q(s, a) - r - γ Q(s', a'),    a' the recorded next action, no target network

An expert is recorded twice, once to learn from and once to test on. The error is that of Q(s, a) to
the discounted return that followed, on the test episodes. Compared are Adam, the diagonal
correction over Adam's denominator, momentum with and without that correction, and Adam with frozen
targets. `adam-same` is Adam with the rates of the corrected one, which separates the effect of the
correction from that of the published settings.

With a run folder the expert is its Q-learner. The quick scale needs none: it evaluates a random
policy on MsPacman with a network of 12 745 parameters and ten times the published rates, because it
has few updates.

Source: E. Bengio, PhD thesis, sections 4.3.2.3 and 4.3.3.8. Rates of the two without a denominator
are not published.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from semigradient.envs import make_vector
from semigradient.experiments.curves import COLOURS
from semigradient.nets.padded import padded_cnn, small_cnn
from semigradient.optim.configs import (
    AdamConfig,
    CorrectedAdamConfig,
    CorrectedMomentumConfig,
    MomentumConfig,
    OptimizerConfig,
)
from semigradient.reproductions.report import Job, Report, Row
from semigradient.reproductions.rows import signed
from semigradient.reproductions.td.pooled import lower
from semigradient.reproductions.td.recorded import Expert, Recorded, expert, record
from semigradient.reproductions.td.replayed import OneStep, ReplayedLearner
from semigradient.training.summary import bootstrap_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

TITLE = "Policy evaluation from Atari frames: thesis figures 4.16 and 4.18"
SEEDS = {"quick": 2, "full": 20}
STAND_IN = "ALE/MsPacman-v5"
GAMMA = 0.99
_FULL = "atari-policy-evaluation at full scale"
TEST_SEED = 1_000
"""Offset of the seeds of test episodes from those of training episodes."""


@dataclass(frozen=True)
class AtariPlan:
    """The size of the runs.

    Attributes:
        steps: recorded training steps.
        test: recorded test steps.
        updates: of minibatches of 32.
        every: updates between measurements.
        renewed: updates between renewals of frozen targets.
        width: of the published network; 0: the small one.
        optimizers: the methods; `frozen` has frozen targets.
    """

    steps: int
    test: int
    updates: int
    every: int
    renewed: int
    width: int
    optimizers: Mapping[str, OptimizerConfig]


def methods(factor: float) -> dict[str, OptimizerConfig]:
    """The published rates times a factor."""
    adam = AdamConfig(lr=5e-5 * factor, beta1=0.99)
    return {
        "adam": adam,
        "adam-same": AdamConfig(lr=1e-4 * factor, beta1=0.9),
        "corrected-adam": CorrectedAdamConfig(lr=1e-4 * factor, beta=0.9),
        "momentum": MomentumConfig(lr=1e-2, beta=0.9),
        "corrected-momentum": CorrectedMomentumConfig(lr=1e-2, beta=0.9, correction="diagonal"),
        "frozen": adam,
    }


QUICK = AtariPlan(1000, 300, 40, 10, 20, 0, methods(10))
FULL = AtariPlan(100_000, 10_000, 500_000, 2500, 2500, 64, methods(1))


@dataclass(frozen=True)
class TrainTestEpisodes:
    """Training and test episodes."""

    train: Recorded
    test: Recorded


def episodes(plan: AtariPlan, seed: int, player: Expert | None) -> TrainTestEpisodes:
    """Record the expert, or without one a random policy."""
    if player is not None:
        test = player.record(plan.test, seed + TEST_SEED, gamma=GAMMA)
        return TrainTestEpisodes(player.record(plan.steps, seed, gamma=GAMMA), test)
    train, test = (
        at_random(steps, number)
        for steps, number in ((plan.steps, seed), (plan.test, seed + TEST_SEED))
    )
    return TrainTestEpisodes(train, test)


def at_random(steps: int, seed: int, env: str = STAND_IN) -> Recorded:
    """Episodes of uniformly random actions, with the signs of rewards."""
    envs = make_vector(env, 1, seed)
    actions = int(envs.single_action_space.n)  # type: ignore[attr-defined]
    rng = np.random.default_rng((seed, 5))
    recorded = record(
        lambda obs, mask: rng.integers(actions, size=len(obs)), envs, steps, GAMMA, signs=True
    )
    envs.close()
    return recorded


def network(plan: AtariPlan, recorded: Recorded, seed: int) -> nn.Module:
    """The untrained network of action values."""
    channels = recorded.observation.shape[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if plan.width:
            made: nn.Module = padded_cnn(recorded.actions, plan.width, channels)
        else:
            made = small_cnn(recorded.actions, channels=channels)
    return made.to(recorded.action.device)


def measure(
    episodes: TrainTestEpisodes, method: str, plan: AtariPlan, seed: int
) -> dict[str, Array]:
    """Train with one method; `error` (T,) to the test returns, before learning and at intervals.

    `spread` is the error of predicting the mean of the test returns. Errors are bounded by
    that of predicting zero, which also replaces diverged ones.
    """
    frozen = method == "frozen"
    targets = OneStep(every=plan.renewed if frozen else 0, sarsa=True)
    made_network = network(plan, episodes.train, seed)
    made = ReplayedLearner(made_network, episodes.train, targets, plan.optimizers[method], seed)
    returns = episodes.test.returns()
    errors = [_error(made, episodes.test)]
    for update in range(1, plan.updates + 1):
        made.learn(made.draw(made.batch_size))
        if update % plan.every == 0:
            errors.append(_error(made, episodes.test))
    worst = returns.double().square().mean().item()
    bounded = np.minimum(np.nan_to_num(np.array(errors), nan=worst), worst)
    return {"error": bounded, "spread": np.array([returns.double().var(unbiased=False).item()])}


def _error(learner: ReplayedLearner, test: Recorded) -> float:
    """Mean squared error of Q(s, a) to the returns."""
    values = test.evaluate(learner.network).gather(1, test.action[:, None])[:, 0]
    return (values - test.returns()).double().square().mean().item()


def reproduce(job: Job) -> Report:
    """Train whatever is not cached and compare it with the published claims."""
    plan = FULL if job.full else QUICK
    player = expert(job.folder, _FULL) if job.full or job.folder else None
    who = f"the Q-learner of {job.folder}" if player else f"random actions on {STAND_IN}"
    job.say(f"policy: {who}")
    losses: dict[str, list[Array]] = {}
    spreads: list[float] = []
    for seed in range(job.seeds):
        for method, run in _of_seed(job, plan, player, seed):
            losses.setdefault(method, []).append(run["error"])
            spreads.append(float(run["spread"][0]))
    runs = {method: np.stack(seeds) for method, seeds in losses.items()}
    last = ", ".join(f"{method} {r[:, -1].mean():.4g}" for method, r in runs.items())
    job.say(f"final errors: {last}; of predicting the mean return: {np.mean(spreads):.4g}")

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        steps = np.arange(0, plan.updates + 1, plan.every)
        rng = np.random.default_rng(0)
        for (method, table), colour in zip(runs.items(), COLOURS, strict=False):
            ends = [bootstrap_interval(np.mean, column, rng, 500) for column in table.T]
            low, high = np.array(ends).T
            axes.plot(steps, table.mean(0), color=colour, label=method)
            axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.axhline(float(np.mean(spreads)), color="0.8", zorder=0)
        axes.set(title=who, xlabel="update", ylabel="error to sampled returns", yscale="log")
        axes.legend(fontsize="small")

    return Report(claims(runs, who, job.full), draw, inches=(6.0, 4.0))


def _of_seed(
    job: Job, plan: AtariPlan, player: Expert | None, seed: int
) -> Iterator[tuple[str, dict[str, Array]]]:
    """Yield the methods of one seed, which learn from the same episodes."""
    recorded = functools.lru_cache(1)(lambda: episodes(plan, seed, player))

    def work(method: str) -> dict[str, Array]:
        return measure(recorded(), method, plan, seed)

    for method in plan.optimizers:
        yield (
            method,
            job.cell(
                f"{method}-s{seed}",
                (job.folder, plan, method, seed),
                functools.partial(work, method),
            ),
        )


def claims(runs: Mapping[str, Array], who: str, full: bool) -> list[Row]:
    """Rows comparing the published statements with the runs (S, T)."""
    last = {method: errors[:, -1] for method, errors in runs.items()}
    words = f"final error of corrected Adam less that of Adam ({who})"
    rows = [lower(words, "figure 4.16", last["corrected-adam"], last["adam"], full, level=0.01)]
    frozen, adam = runs["frozen"], runs["adam"]
    early = max(1, frozen.shape[1] // 4)
    apart = frozen[:, early] - adam[:, early]
    words = f"error of frozen targets less that of Adam, a quarter of the way ({who})"
    rows.append(signed(words, "frozen targets are slower", "figure 4.18", apart, 1))
    if full:
        words = f"final error of frozen targets less that of Adam ({who})"
        published = "eventually more precise"
        rows.append(signed(words, published, "figure 4.18", last["frozen"] - last["adam"], -1))
    return rows
