"""Interference and the generalisation gap: figures 3.4, 3.5, 3.6 and 3.16.

Classifiers, Q-learners and REINFORCE are trained on the first n_T images only, at several
capacities. Then the function interference is measured,

    ρ̄ = mean over pairs u ≠ v of training examples of ∇_θ f(u) · ∇_θ f(v),    f = max of outputs

(for REINFORCE the mean of outputs), and the gap: performance on the training images minus
performance on unseen ones. Reported is the correlation of log ρ̄ and the gap.

At full scale the images are those in `--folder`: SVHN or CIFAR-10. The quick scale draws glyphs.

Source: E. Bengio, PhD thesis, section 3.2.2.3; what it leaves open (steps, rates) is from its
published code. Performance is accuracy for classifiers and the mean greedy return for agents;
"solved within 20 steps", which the code reports, is also recorded, but random guessing
already solves 0.88 of the episodes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from semigradient.diagnostics.examples import Examples
from semigradient.diagnostics.interference import function_interference, pair_mean
from semigradient.envs.images.glimpse import Glimpse, GlimpseOptions
from semigradient.envs.images.supervised import ClassificationOptions, Supervised
from semigradient.errors import require
from semigradient.experiments.curves import COLOURS
from semigradient.reproductions.report import Job, Report, Row
from semigradient.training.agent import Agent, Policy
from semigradient.training.build import build
from semigradient.training.cli import parse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Interference and the generalisation gap: thesis figures 3.4, 3.5, 3.6 and 3.16"
SEEDS = {"quick": 2, "full": 3}
EXAMPLES = {"classifier": 96, "dqn": 128, "reinforce": 128}
_IMAGES = 1000  # maximum number of images for a performance


@dataclass(frozen=True)
class GapPlan:
    """The grid of runs.

    Attributes:
        dataset: of `envs.images.datasets`.
        sizes: numbers of training images n_T.
        widths: capacities n_h.
        depths: extra layers n_L.
        learners: flags of `train.py` by agent.
        folder: folder of the data set's published files.
    """

    dataset: str
    sizes: tuple[int, ...]
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    learners: Mapping[str, Sequence[str]]
    folder: str = ""


_QUICK_DQN = (
    "--steps 6000 --num-envs 2 --train-every 2 --batch-size 64 --learning-starts 500 "
    "--buffer-size 6000 --optim.lr 1e-3"
)
QUICK = GapPlan(
    "small-glyphs",
    (20, 100, 500),
    (4, 8),
    (0, 1),
    {"classifier": ("--steps", "16000"), "dqn": _QUICK_DQN.split()},
)


def full_plan(folder: str) -> GapPlan:
    """The published runs, on the images whose files are in `folder`."""
    require(folder != "", "generalisation-gap at full scale: needs --folder with SVHN or CIFAR-10")
    svhn = (Path(folder).expanduser() / "train_32x32.mat").exists()
    return GapPlan(
        "svhn" if svhn else "cifar10",
        (20, 100, 250, 500, 1000, 5000, 10000, 50000),
        (8, 16, 32) if svhn else (16, 32, 64),
        (0, 1, 2, 3),
        {
            "classifier": ("--steps", "32000"),
            "dqn": ("--steps", "200000"),
            "reinforce": ("--steps", "200000"),
        },
        folder,
    )


@dataclass(frozen=True)
class GapRun:
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


def interference(network: nn.Module, inputs: Tensor, mean: bool = False) -> float:
    """ρ̄ of a network with outputs (A,) over pairs of inputs (N, …); of their mean or their max."""

    def head(call: Callable[[Tensor], Tensor], sample: Mapping[str, Tensor]) -> Tensor:
        outputs = call(sample["inputs"])
        return outputs.mean() if mean else outputs.max()

    examples = Examples(network, {"inputs": inputs}, prediction=head, target=head)
    return pair_mean(function_interference(examples, examples)).item()


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
    return {name: float(score.double().mean()) for name, score in scores.items()}, torch.cat(met)


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
    """Train as `train.py` does; return the agent and the options of its training images."""
    env = "Classification" if learner == "classifier" else "Glimpse"
    options = {"dataset": dataset, "limit": size} | ({"folder": folder} if folder else {})
    words = ["--agent", learner, "--env", f"semigradient/{env}-v0", "--seed", str(seed)]
    words += ["--torso-width", str(width), "--torso-depth", str(depth)]
    # One thread: these networks are too small for more.
    words += ["--hidden", str(4 * width), "--threads", "1", *flags, "--env-options"]
    command = parse([*words, *(f"{key}={value}" for key, value in options.items())]).command
    agent = build(command)
    while agent.progress.steps < command.run.steps:
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
) -> GapRun:
    """Train one learner and measure its interference and its gap."""
    agent, options = train(learner, dataset, size, width, depth, seed, flags, folder)
    unseen = {**options, "split": "test", "limit": 0}
    policy, network = agent.policy(True), agent.network  # type: ignore[attr-defined]
    if learner == "classifier":
        seen = ClassificationOptions(**options).make()
        shown = ClassificationOptions(**unseen).make()
        scores, test = classify(policy, seen), classify(policy, shown)
        inputs = seen.inputs
    else:
        scores, inputs = play(policy, GlimpseOptions(**options).make())
        test, _ = play(policy, GlimpseOptions(**unseen).make())
    draw = torch.Generator().manual_seed(seed)
    chosen = inputs[torch.randperm(len(inputs), generator=draw)[: EXAMPLES[learner]]]
    device = agent.setup.device
    rho = interference(network, (chosen.float() / 255).to(device), mean=learner == "reinforce")
    count = sum(p.numel() for p in network.parameters())
    return GapRun(learner, size, width, depth, seed, count, rho, scores, test)


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Correlation coefficient (eq. 3.16); 0 where either does not vary."""
    centred = [(array := np.asarray(values, float)) - array.mean() for values in (x, y)]
    scale = float(np.sqrt((centred[0] @ centred[0]) * (centred[1] @ centred[1])))
    return float(centred[0] @ centred[1]) / scale if scale > 0 else 0.0


def interval(x: ArrayLike, y: ArrayLike, resamples: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the correlation."""
    a, b, rng = np.asarray(x, float), np.asarray(y, float), np.random.default_rng(0)
    drawn = rng.integers(len(a), size=(resamples, len(a)))
    low, high = np.quantile([pearson(a[rows], b[rows]) for rows in drawn], [0.025, 0.975])
    return float(low), float(high)


def claims(runs: Sequence[GapRun]) -> list[Row]:
    """Rows comparing the published statements with the runs."""
    rows = []
    for learner in dict.fromkeys(run.learner for run in runs):
        ours = [run for run in runs if run.learner == learner]
        largest = max(run.size for run in ours)
        some = [run for run in ours if run.size == largest]
        rho, gap = _columns(some)
        if learner in _SIGNS:
            where = f"{learner}: log ρ̄, gap, n_T = {largest}"
            rows.append(_row(where, "figure 3.4", _SIGNS[learner], rho, gap))
        rho, gap = _columns(ours)
        if learner == "classifier":
            where = f"{learner}: log ρ̄, gap, all sizes"
            rows.append(_row(where, "figure 3.5", "above 0.9", rho, gap))
        if learner in _SIGNS:
            sizes = np.log([run.size for run in ours])
            where = f"{learner}: log n_T, gap"
            rows.append(_row(where, "figure 3.6", "below -0.91", sizes, gap))
            counts = np.log([run.parameters for run in ours])
            where = f"{learner}: log parameters, log ρ̄"
            rows.append(_row(where, "figure 3.16", _SIGNS[learner], counts, rho))
    return rows


_SIGNS = {"classifier": "positive", "dqn": "negative"}
_AGREES: dict[str, Callable[[float], bool]] = {
    "positive": lambda r: r > 0,
    "negative": lambda r: r < 0,
    "above 0.9": lambda r: r > 0.9,
    "below -0.91": lambda r: r < -0.91,
}


def _columns(runs: Sequence[GapRun]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log ρ̄ and gap (n,) of runs."""
    return np.array([run.log_interference for run in runs]), np.array([run.gap for run in runs])


def _row(quantity: str, source: str, published: str, x: ArrayLike, y: ArrayLike) -> Row:
    measured, (low, high) = pearson(x, y), interval(x, y)
    agrees = _AGREES[published](measured)
    return Row(f"r({quantity})", published, source, measured, low, high, published, agrees)


def reproduce(job: Job) -> Report:
    """Run whatever is not cached and compare it with the published claims."""
    plan = full_plan(job.folder) if job.full else QUICK
    settings = itertools.product(plan.sizes, plan.widths, plan.depths, range(job.seeds))
    runs = [_run(job, plan, learner, *setting) for setting in settings for learner in plan.learners]

    def draw(figure: Figure) -> None:
        for axes, learner in zip(
            np.atleast_1d(figure.subplots(1, len(plan.learners))), plan.learners, strict=True
        ):
            for size, colour in zip(plan.sizes, itertools.cycle(COLOURS)):
                rho, gap = _columns([r for r in runs if (r.learner, r.size) == (learner, size)])
                axes.scatter(rho, gap, color=colour, s=14, label=f"n_T = {size}")
            axes.set(title=learner, xlabel="log ρ̄", ylabel="train - test performance")
            axes.legend()

    return Report(claims(runs), draw)


def _run(
    job: Job, plan: GapPlan, learner: str, size: int, width: int, depth: int, seed: int
) -> GapRun:
    """The run of one setting, computed unless cached."""
    setting = (learner, plan.dataset, size, width, depth, seed, plan.learners[learner])

    def work() -> dict[str, Any]:
        run = measure(*setting, plan.folder)
        scores = [[split[name] for name in sorted(run.train)] for split in (run.train, run.test)]
        return {
            "names": np.array(sorted(run.train)),
            "scores": np.array(scores),
            "numbers": np.array([run.parameters, run.interference]),
        }

    stored = job.cell(f"{learner}-n{size}-h{width}-l{depth}-s{seed}", setting, work)
    train_, test = (
        {str(k): v for k, v in zip(stored["names"], row.tolist(), strict=True)}
        for row in stored["scores"]
    )
    count, rho = stored["numbers"].tolist()
    return GapRun(learner, size, width, depth, seed, int(count), rho, train_, test)
