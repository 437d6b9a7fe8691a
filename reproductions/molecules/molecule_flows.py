"""Flow networks on molecules: figures 5.8 and 5.12 to 5.14, with random molecules as the baseline.

A flow network is trained by flow matching for three exponents β. Measured are: scores by β; the
correlation of the flow into a molecule, and of the probability of building it, with its reward;
and the discovered molecules, against as many random ones. The flow into a molecule is
the published measure. Its probability is exact: the sum over all orders of building it. Both are
judged on molecules whose R^β is at least the ε of the loss: below it the loss sees no difference,
and a few scores of 0 would decide the correlation. Correlations of ranks are given as well.

The quick scale takes 18 blocks, up to five in a molecule, the synthetic score `dock_like`, and a
network 64 wide with 4 convolutions; the full scale the published vocabulary and network, with the
published proxy from `--folder DIR`, if given, or with `dock_like`.

Source: E. Bengio, PhD thesis, section 5.4.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from semigradient.agents.gflownet.gflownet import GFlowNet
from semigradient.domains.flows.estimates import Estimates, with_parents
from semigradient.domains.flows.sample_counts import rank_correlation
from semigradient.domains.flows.terminal import log_terminal
from semigradient.domains.flows.top_molecules import TopMolecules
from semigradient.domains.flows.trajectories import forward, uniform, uniform_draws
from semigradient.envs.molecules.block_molecules import BlockMolecules
from semigradient.envs.molecules.fingerprints import similarity
from semigradient.experiments.curves import COLOURS
from semigradient.reproductions.gflownet.flow_runs import Array
from semigradient.reproductions.report import Job, Report, Row
from semigradient.training.agent import generator
from semigradient.training.build import build
from semigradient.training.cli import parse
from semigradient.training.summary import bootstrap_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = (
    "Flow networks on molecules: exponents, flows against rewards: thesis figures 5.8, 5.12 to 5.14"
)
SEEDS = {"quick": 2, "full": 3}
THRESHOLDS = (5.0, 6.0)
_LAST, _TESTED = 2000, 256


@dataclass(frozen=True)
class FlowSetting:
    """One training run.

    Attributes:
        beta: exponent of the reward.
        flags: of `train.py`, besides.
        options: of the environment, KEY=VALUE.
        molecules: number of molecules built.
        thresholds: scores above which modes count.
    """

    beta: int
    flags: str
    options: tuple[str, ...]
    molecules: int
    thresholds: tuple[float, ...] = THRESHOLDS

    def agent(self, seed: int) -> GFlowNet:
        """The untrained learner."""
        words = ["--agent", "gflownet", "--env", "semigradient/Molecule-v0", "--seed", str(seed)]
        words += ["--threads", "1", "--exact-every", "0", "--test-objects", "0"]
        words += ["--reward-exponent", str(self.beta), *self.flags.split()]
        agent = build(parse([*words, "--env-options", *self.options]).command)
        assert isinstance(agent, GFlowNet)
        assert agent.record is not None, "molecules are built of blocks"
        agent.record.discoveries = TopMolecules(self.thresholds)
        return agent

    def results(self, seed: int) -> dict[str, Array]:
        """Train, and evaluate the last molecules."""
        agent, losses = self.agent(seed), []
        rules, record = agent.rules, agent.record
        assert isinstance(rules, BlockMolecules)
        assert record is not None
        while record.discoveries.objects < self.molecules:
            scalars = agent.iterate()
            losses.append([float(scalars["leaf_loss"]), float(scalars["inner_loss"])])
        tested = record.recent.unique()[:_TESTED]
        return {
            **summary(rules, record.recent, record.discoveries),
            "log_reward": (self.beta * rules.log_reward(tested)).numpy(),
            "log_inflow": log_leaf_inflow(agent, tested).numpy(),
            "log_probability": log_terminal(rules, agent.look, tested).numpy(),
            "log_z": np.array([float(agent.log_z_estimate())]),
            "epsilon": np.array([agent.config.epsilon]),
            "losses": np.array(losses).T,
        }


def summary(rules: BlockMolecules, last: Tensor, discovered: TopMolecules) -> dict[str, Array]:
    """Scores of the last molecules; best scores, similarity of the best 100, modes."""
    metrics, best = discovered.metrics(), [name for name, _ in discovered.top(100)]
    return {
        "scores": rules.score(last).numpy(),
        "top_10": np.array(metrics["top_10"]),
        "top_100": np.array(metrics["top_100"]),
        "similarity": np.array(similarity(best)),
        "modes": np.array([len(modes) for modes in discovered.modes.values()], dtype=float),
    }


def random_baseline(setting: FlowSetting, seed: int) -> dict[str, Array]:
    """The same number of random molecules."""
    rules = setting.agent(seed).rules
    assert isinstance(rules, BlockMolecules)
    draws = uniform_draws(rules, setting.molecules, generator(seed, 7))
    objects, discovered = (
        forward(rules, uniform(rules), draws).objects,
        TopMolecules(setting.thresholds),
    )
    discovered.add(rules.smiles(objects), rules.score(objects).tolist())
    return summary(rules, objects[-_LAST:], discovered)


@torch.no_grad()
def log_leaf_inflow(agent: GFlowNet, objects: Tensor) -> Tensor:
    """Log of the flow into the sinks of objects (m,): by stopping, or by all parents' edges."""
    rules = agent.rules
    at: Estimates = agent.look(with_parents(rules, objects))
    stop = at.log_edges_of(objects, torch.full_like(objects, rules.actions - 1))
    return torch.where(rules.finished(objects), at.log_inflow(objects), stop).double()


def settings(job: Job) -> dict[int, FlowSetting]:
    """Training runs by β."""
    if job.full:
        reward: tuple[str, ...] = ("reward=dock_like",)
        if job.folder:
            reward = ("reward=proxy", f"reward_file={job.folder}/best_params.pkl.gz")
        return {
            beta: FlowSetting(beta, "--loss fm", reward, 100_000, (7.0, 8.0)) for beta in (1, 4, 10)
        }
    options = ("vocabulary=small", "max_blocks=5", "reward=dock_like")
    flags = "--loss fm --batch-size 16 --graph-width 64 --graph-steps 4 --bidirectional"
    lengths = {1: 6_000, 4: 6_000, 8: 24_000}
    return {beta: FlowSetting(beta, flags, options, count) for beta, count in lengths.items()}


def reproduce(job: Job) -> Report:
    """Train for every β, sample random molecules, compare."""
    chosen = settings(job)
    sharp = max(chosen)

    def cells(name: str, beta: int, chance: bool = False) -> list[dict[str, Array]]:
        setting = chosen[beta]
        work = partial(random_baseline, setting) if chance else setting.results
        return [
            job.cell(f"{name}-s{seed}", (setting, seed, chance), partial(work, seed))
            for seed in range(job.seeds)
        ]

    random = cells("random", sharp, True)
    trained = {beta: cells(f"beta-{beta}", beta) for beta in sorted(chosen, reverse=True)}
    rows = [
        *_shift(trained),
        *_against_random(trained[sharp], random),
        *_consistency(trained[sharp]),
    ]

    def draw(figure: Figure) -> None:
        (left, right), (below, last) = figure.subplots(2, 2)
        named = {"random": random, **{f"β = {beta}": runs for beta, runs in trained.items()}}
        for colour, (name, runs) in zip(COLOURS, named.items(), strict=False):
            scores = np.concatenate([run["scores"] for run in runs])
            left.hist(scores, 60, (0, 10), True, histtype="step", color=colour, label=name)
        left.set(xlabel="score of the last molecules", ylabel="density")
        left.legend()
        for runs_, key in ((trained[sharp], "log_inflow"), (trained[sharp], "log_probability")):
            x = np.concatenate([run["log_reward"] for run in runs_])
            y = np.concatenate([run[key] - run[key].mean() for run in runs_])
            right.plot(x, y, ".", markersize=2, label=key.replace("_", " "))
        right.set(xlabel="β log R", ylabel="log, less its mean", title=f"β = {sharp}")
        right.legend()
        _draw_losses(below, trained[sharp])
        _draw_flows(last, trained[sharp])

    return Report(rows, draw, (9.0, 7.2))


def _draw_losses(panel: Any, runs: list[dict[str, Array]]) -> None:
    """Figure 5.14: losses by update, means of a fiftieth of the run."""
    for column, (name, colour) in enumerate(zip(("leaf", "inner"), COLOURS, strict=False)):
        for index, run in enumerate(runs):
            parts = np.array_split(run["losses"][column], 50)
            at = np.cumsum([len(part) for part in parts])
            means = [part.mean() if len(part) else np.nan for part in parts]
            panel.plot(at, means, color=colour, label="" if index else f"{name} loss")
    panel.set(xlabel="updates", yscale="log")
    panel.legend()


def _draw_flows(panel: Any, runs: list[dict[str, Array]]) -> None:
    """Figure 5.13: rewards and flows into the last molecules, over Z."""
    for colour, key in zip(COLOURS, ("log_reward", "log_inflow"), strict=False):
        values = np.concatenate([run[key] - run["log_z"] for run in runs])
        label = key.replace("log_", "log ") + " - log Z"
        panel.hist(values, 40, histtype="step", color=colour, label=label)
    panel.set(xlabel="nats")
    panel.legend()


def _shift(trained: Mapping[int, list[dict[str, Array]]]) -> list[Row]:
    """Figure 5.8: rewards increase with β."""
    means = {
        beta: np.array([run["scores"].mean() for run in runs]) for beta, runs in trained.items()
    }
    betas = sorted(trained)
    return [
        _row(
            f"mean score of the last molecules, β = {high} minus β = {low}",
            ("higher for the higher β", "figure 5.8"),
            means[high] - means[low],
            "> 0",
        )
        for low, high in pairwise(betas)
    ]


def _against_random(learned: list[dict[str, Array]], random: list[dict[str, Array]]) -> list[Row]:
    """Better, more modes, and higher similarity than random molecules."""

    def gap(key: str) -> Array:
        pairs = zip(learned, random, strict=True)
        return np.array([float(np.ravel(a[key])[0] - np.ravel(b[key])[0]) for a, b in pairs])

    source = "section 5.4.2"
    what = "flow network minus random"
    return [
        _row(f"mean of the 100 best, {what}", ("> 0", source), gap("top_100"), "> 0"),
        _row(f"modes above {THRESHOLDS[0]:g}, {what}", ("> 0", source), gap("modes"), "> 0"),
        _row(
            f"similarity of the 100 best, {what}",
            ("0.44 against 0.231: > 0", source),
            gap("similarity"),
            "> 0",
        ),
    ]


def _consistency(learned: list[dict[str, Array]]) -> list[Row]:
    """Figure 5.12: flow correlates with reward, with a slope below 1."""
    rows = []
    for key, words in (("log_inflow", "log leaf in-flow"), ("log_probability", "log P")):
        fits = np.array([_fit(*_above_epsilon(run, key)) for run in learned])
        inflow = key == "log_inflow"
        claims = ("r = 0.69", "slope 0.58") if inflow else ("1 for an exact sampler",) * 2
        place = "figure 5.12" if inflow else "proposition 2"
        rows.append(_row(f"{words} against β log R: r", (claims[0], place), fits[:, 0], "≥ 0.5"))
        rows.append(
            _row(f"{words} against β log R: slope", (claims[1], place), fits[:, 1], "in (0, 1.2)")
        )
        ranks = _row(f"{words} against β log R: ranks", ("not said", place), fits[:, 2], "> 0")
        rows.append(replace(ranks, required=False))
    return rows


def _above_epsilon(run: dict[str, Array], key: str) -> tuple[Array, Array]:
    """β log R and another quantity of the molecules whose R^β is at least ε."""
    kept = run["log_reward"] >= np.log(np.maximum(run["epsilon"], 1e-300))
    return run["log_reward"][kept], run[key][kept]


def _fit(x: Array, y: Array) -> tuple[float, float, float]:
    """Correlation and slope of y over x, and correlation of ranks; NaN of fewer than three."""
    if len(x) < 3:
        return np.nan, np.nan, np.nan
    ranks = rank_correlation(torch.from_numpy(x), torch.from_numpy(y))
    return float(np.corrcoef(x, y)[0, 1]), float(np.polyfit(x, y, 1)[0]), ranks


def _row(quantity: str, claim: tuple[str, str], values: Array, rule: str) -> Row:
    """The mean over seeds, tested by one of three criteria."""
    low, high = bootstrap_interval(np.mean, values, np.random.default_rng(0))
    mean = float(values.mean())
    agrees = {"> 0": mean > 0, "≥ 0.5": mean >= 0.5, "in (0, 1.2)": 0 < mean < 1.2}[rule]
    return Row(f"{quantity} ({len(values)} seeds)", *claim, mean, low, high, rule, agrees)
