"""Interference and the generalisation gap: figures 3.4, 3.5, 3.6 and 3.16.

Classifiers, Q-learners and REINFORCE are trained on the first n_T images only, at several
capacities. Then two things are measured: the function interference

    ρ̄ = mean over pairs u ≠ v of training examples of ∇_θ f(u) · ∇_θ f(v),    f = max of outputs

(for REINFORCE the mean of outputs), and the gap: performance on the training images minus
performance on unseen ones. Reported is how log ρ̄ and the gap correlate.

Source: E. Bengio, PhD thesis, section 3.2.2.3; what it leaves open (steps, rates) is from its
published code. Performance is accuracy for classifiers and the mean greedy return for agents;
"solved within 20 steps", which the code reports, is kept beside it, but guessing at random
already solves 0.88 of the episodes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from envs.glimpse import Glimpse, make
from envs.supervised import Supervised, make_classification
from errors import unknown
from training.agent import Agent, Policy
from training.build import build
from training.cli import parse

Head = Callable[[Tensor], Tensor]
HEADS: dict[str, Head] = {"max": lambda outputs: outputs.amax(-1), "mean": lambda o: o.mean(-1)}
EXAMPLES = {"classifier": 96, "dqn": 128, "reinforce": 128}
_IMAGES = 1000  # most images that a performance is measured on


@dataclass(frozen=True)
class Scale:
    """Which runs are made.

    Attributes:
        dataset: of `envs.images`.
        sizes: numbers of training images n_T.
        widths: capacities n_h.
        depths: extra layers n_L.
        seeds: how many.
        learners: flags of `train.py` by agent.
    """

    dataset: str
    sizes: tuple[int, ...]
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    seeds: int
    learners: Mapping[str, Sequence[str]]


_FULL_LEARNERS = {
    "classifier": ("--steps", "32000"),
    "dqn": ("--steps", "200000"),
    "reinforce": ("--steps", "200000"),
}
_QUICK_DQN = (
    "--steps 6000 --num-envs 2 --train-every 2 --batch-size 64 --learning-starts 500 "
    "--buffer-size 6000 --optim.lr 1e-3"
)
_SIZES = (20, 100, 250, 500, 1000, 5000, 10000, 50000)
SCALES = {
    "quick": Scale(
        "small-glyphs",
        (20, 100, 500),
        (4, 8),
        (0, 1),
        2,
        {
            "classifier": ("--steps", "16000"),
            "dqn": _QUICK_DQN.split(),
        },
    ),
    "full": Scale("svhn", _SIZES, (8, 16, 32), (0, 1, 2, 3), 3, _FULL_LEARNERS),
    "full-cifar10": Scale("cifar10", _SIZES, (16, 32, 64), (0, 1, 2, 3), 3, _FULL_LEARNERS),
}


@dataclass(frozen=True)
class Run:
    """One trained learner: its setting, ρ̄, and performance on training and unseen images."""

    learner: str
    size: int
    width: int
    depth: int
    seed: int
    parameters: int
    interference: float
    train: dict[str, float]
    test: dict[str, float]

    @property
    def gap(self) -> float:
        """Training minus test performance."""
        return self.train["performance"] - self.test["performance"]

    @property
    def log_interference(self) -> float:
        """Log ρ̄; a mean that is not positive counts as nearly none."""
        return float(np.log(max(self.interference, 1e-12)))


def function_interference(network: nn.Module, inputs: Tensor, head: Head, chunk: int = 8) -> float:
    """Mean of ∇f(u)·∇f(v) over the pairs of different inputs (N, …).

    Needs no N × N matrix: the pairs sum to ‖Σ_u ∇f(u)‖² - Σ_u ‖∇f(u)‖².
    """
    parameters = {name: p.detach() for name, p in network.named_parameters()}

    def value(of: dict[str, Tensor], one: Tensor) -> Tensor:
        return head(functional_call(network, of, (one[None],)))[0]

    total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in parameters.items()}
    squares = 0.0
    for part in inputs.split(chunk):
        gradients = vmap(grad(value), (None, 0))(parameters, part)
        for name, rows in gradients.items():
            squares += rows.double().square().sum().item()
            total[name] += rows.double().sum(0)
    whole = sum(each.square().sum().item() for each in total.values())
    return (whole - squares) / (len(inputs) * (len(inputs) - 1))


def play(policy: Policy, core: Glimpse) -> tuple[dict[str, float], Tensor]:
    """One episode on every image: its scores, and all observations met (m, *observation)."""
    count = min(_IMAGES, len(core.labels))
    state = core.reset(count, index=torch.arange(count))
    live, solved, guessed, first = torch.zeros(4, count, dtype=torch.bool)
    return_, length = torch.zeros(2, count, dtype=torch.float64)
    live, met = ~live, []
    while live.any():
        obs = core.observe(state)
        met.append(obs[live])
        actions = torch.from_numpy(policy(obs.numpy(), None))
        state, reward, terminated, truncated = core.step(state, actions)
        return_, length = return_ + reward * live, length + live
        solved |= terminated & live
        guesses = live & (state.guess >= 0)
        first |= guesses & ~guessed & terminated
        guessed |= guesses
        live &= ~(terminated | truncated)
    scores = {"performance": return_, "solved": solved, "first_guess": first, "length": length}
    return {name: float(each.double().mean()) for name, each in scores.items()}, torch.cat(met)


def classify(policy: Policy, core: Supervised) -> dict[str, float]:
    """Accuracy on the images."""
    obs, truth = core.inputs[:_IMAGES].numpy(), core.targets[:_IMAGES].numpy()
    return {"performance": float((policy(obs, None) == truth).mean())}


def train(
    learner: str,
    dataset: str,
    size: int,
    width: int,
    depth: int,
    seed: int,
    flags: Iterable[str],
    folder: str = "",
) -> tuple[Agent, dict[str, Any]]:
    """Train as `train.py` does; the agent, and the options of its training images."""
    env = "Classification" if learner == "classifier" else "Glimpse"
    options = {"dataset": dataset, "limit": size} | ({"folder": folder} if folder else {})
    words = ["--agent", learner, "--env", f"afterstate/{env}-v0", "--seed", str(seed)]
    words += ["--torso-width", str(width), "--torso-depth", str(depth)]
    # One thread: these networks are too small to be shared out.
    words += ["--hidden", str(4 * width), "--threads", "1", *flags, "--env-options"]
    command = parse([*words, *(f"{key}={value}" for key, value in options.items())]).command
    agent = build(command)
    while agent.steps < command.run.steps:
        agent.iterate()
    return agent, options


def measure(
    learner: str,
    dataset: str,
    size: int,
    width: int,
    depth: int,
    seed: int,
    flags: Iterable[str],
    folder: str = "",
) -> Run:
    """Train one learner and measure its interference and its gap."""
    agent, options = train(learner, dataset, size, width, depth, seed, flags, folder)
    unseen = {**options, "split": "test", "limit": 0}
    policy, network = agent.policy(True), agent.network  # type: ignore[attr-defined]
    if learner == "classifier":
        seen = make_classification(**options)
        scores, test = classify(policy, seen), classify(policy, make_classification(**unseen))
        inputs = seen.inputs
    else:
        scores, inputs = play(policy, make(**options))
        test, _ = play(policy, make(**unseen))
    draw = torch.Generator().manual_seed(seed)
    chosen = inputs[torch.randperm(len(inputs), generator=draw)[: EXAMPLES[learner]]]
    device = agent.setup.device
    head = HEADS["mean" if learner == "reinforce" else "max"]
    interference = function_interference(network, (chosen.float() / 255).to(device), head)
    count = sum(p.numel() for p in network.parameters())
    return Run(learner, size, width, depth, seed, count, interference, scores, test)


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Correlation coefficient (eq. 3.16); 0 where either does not vary."""
    centred = [(each := np.asarray(values, float)) - each.mean() for values in (x, y)]
    scale = float(np.sqrt((centred[0] @ centred[0]) * (centred[1] @ centred[1])))
    return float(centred[0] @ centred[1]) / scale if scale > 0 else 0.0


def interval(x: ArrayLike, y: ArrayLike, resamples: int = 2000) -> tuple[float, float]:
    """90 % bootstrap interval of the correlation."""
    a, b, rng = np.asarray(x, float), np.asarray(y, float), np.random.default_rng(0)
    drawn = rng.integers(len(a), size=(resamples, len(a)))
    low, high = np.quantile([pearson(a[rows], b[rows]) for rows in drawn], [0.05, 0.95])
    return float(low), float(high)


def claims(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The published statements beside what the runs say: one row each."""
    found = []
    for learner in dict.fromkeys(run.learner for run in runs):
        ours = [run for run in runs if run.learner == learner]
        sizes = sorted({run.size for run in ours})
        for size in sizes:
            some = [run for run in ours if run.size == size]
            published = _SIGNS[learner] if size == sizes[-1] else "-"
            found.append(_row(learner, f"n_T = {size}", "figure 3.4", published, some))
        overall = {"classifier": "above 0.9"}.get(learner, "-")
        found.append(_row(learner, "all sizes", "figure 3.5", overall, ours))
        x, y = np.log([run.size for run in ours]), [run.gap for run in ours]
        driven = "-" if learner == "reinforce" else "below -0.91"
        found.append(_correlation(f"{learner}: log n_T, gap", "figure 3.6", driven, x, y))
        x = np.log([run.parameters for run in ours])
        y = [run.log_interference for run in ours]
        capacity = {"classifier": "positive", "dqn": "negative"}.get(learner, "-")
        found.append(
            _correlation(f"{learner}: log parameters, log ρ̄", "figure 3.16", capacity, x, y)
        )
    return found


_SIGNS = {"classifier": "positive", "dqn": "negative", "reinforce": "-"}
_AGREES: dict[str, Callable[[float], bool]] = {
    "positive": lambda r: r > 0,
    "negative": lambda r: r < 0,
    "above 0.9": lambda r: r > 0.9,
    "below -0.91": lambda r: r < -0.91,
}


def _row(
    learner: str, where: str, source: str, published: str, runs: Sequence[Run]
) -> dict[str, Any]:
    x, y = [run.log_interference for run in runs], [run.gap for run in runs]
    return _correlation(f"{learner}: log ρ̄, gap, {where}", source, published, x, y)


def _correlation(
    quantity: str, source: str, published: str, x: ArrayLike, y: ArrayLike
) -> dict[str, Any]:
    """Fields as in a row of a reproduction's report; `agrees` is None without a published value."""
    measured, (low, high) = pearson(x, y), interval(x, y)
    return {
        "quantity": f"r({quantity})",
        "published": published,
        "source": source,
        "measured": measured,
        "low": low,
        "high": high,
        "tolerance": published,
        "agrees": _AGREES[published](measured) if published in _AGREES else None,
    }


def reproduce(
    scale: str = "quick",
    seeds: int = 0,
    folder: str = "",
    note: Callable[[str], None] = lambda _: None,
) -> tuple[list[dict[str, Any]], list[Run]]:
    """All runs of a scale, and the rows about them.

    Args:
        scale: quick (minutes on two cores), full (SVHN) or full-cifar10, both from `folder`.
        seeds: how many; 0 takes the scale's.
        folder: the data set's published files.
        note: called with a line after every run.
    """
    if scale not in SCALES:
        unknown("scale", scale, SCALES)
    plan, runs = SCALES[scale], []
    settings = itertools.product(plan.sizes, plan.widths, plan.depths, range(seeds or plan.seeds))
    for (size, width, depth, seed), (learner, flags) in itertools.product(
        settings, plan.learners.items()
    ):
        run = measure(learner, plan.dataset, size, width, depth, seed, flags, folder)
        runs.append(run)
        note(
            f"{learner} n_T={size} n_h={width} n_L={depth} seed={seed}: "
            f"ρ̄ {run.interference:.4g}, gap {run.gap:.3f}"
        )
    return claims(runs), runs


def main(argv: list[str]) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="reproductions.generalisation_gap", description=__doc__)
    parser.add_argument("--scale", default="quick", choices=sorted(SCALES))
    parser.add_argument("--seeds", type=int, default=0)
    parser.add_argument("--folder", default="")
    parser.add_argument("--out", default="", help="also write a JSON file")
    chosen = parser.parse_args(argv)
    rows, runs = reproduce(chosen.scale, chosen.seeds, chosen.folder, print)
    for row in rows:
        agrees = {True: "agrees", False: "DIFFERS", None: ""}[row["agrees"]]
        where = f"{row['measured']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"
        print(f"{row['quantity']:52s} {where:22s} {row['published']:12s} {agrees}")
    if chosen.out:
        content = {"rows": rows, "runs": [asdict(run) for run in runs]}
        Path(chosen.out).write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
