"""Trained models of chorales and their measurements, for the tables of chapter 3.

Coconet is trained as by `train.py`; the baselines are a recurrent network over frames
(`nets/frame_nade.py`) and counts of pitches and pairs of pitches (`domains/music/score_counts.py`).
Measurements use the beginnings of test pieces, or samples of the model.

Source: T. Cooijmans, PhD thesis, section 3.6.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semigradient.agents.music.coconet import Coconet
from semigradient.domains.music import score_counts
from semigradient.domains.music.framewise import chained, ensemble_nll, framewise
from semigradient.domains.music.gibbs import Rewrite, ancestral_gibbs, independent_gibbs
from semigradient.domains.music.piano_rolls import Frame, frames
from semigradient.envs.music import chorales
from semigradient.envs.music.chorale_setting import Conditionals
from semigradient.envs.music.chorales import VOICES, Chorales
from semigradient.nets.frame_nade import FrameNade
from semigradient.reproductions.report import Array, Job
from semigradient.training import parts
from semigradient.training.agent import generator
from semigradient.training.build import build
from semigradient.training.cli import parse

ORDERINGS = 5  # M of table 3.1
INDEPENDENT = "independent"
_LOSS = "valid loss"
_SAMPLES_AT_ONCE = 25


@dataclass(frozen=True)
class CoconetPlan:
    """One resolution at one scale.

    Attributes:
        grid: sixteenths per step.
        steps: T of training crops and of test pieces.
        flags: of `train.py`.
        pieces: test pieces whose likelihoods are measured.
        length: T of sampled scores.
        sweeps: N, Gibbs steps.
        runs: sampled scores.
        rates: ρ of ancestral Gibbs.
        recurrent: updates and width of the recurrent network.
    """

    grid: int
    steps: int
    flags: tuple[str, ...]
    pieces: int
    length: int
    sweeps: int
    runs: int
    rates: tuple[float, ...]
    recurrent: tuple[int, int]


@dataclass(frozen=True)
class Models:
    """The trained models of one resolution and seed."""

    agent: Coconet
    valid_loss: float
    """Nats per hidden note, on the validation split."""
    recurrent: FrameNade


def train(job: Job, plan: CoconetPlan, seed: int) -> Models:
    """Train both networks, or load them from the cache."""
    agent = _agent(plan, seed)

    def work() -> dict[str, Array]:
        every = max(1, agent.setup.total_steps // 10)
        progress = agent.progress
        while progress.steps < agent.setup.total_steps:
            before = progress.steps
            scalars = agent.iterate()
            if before // every < progress.steps // every:
                job.say(f"grid {plan.grid}, {progress.steps} crops: {float(scalars['loss']):.3f}")
        weights = {k: v.cpu().numpy() for k, v in parts.policy_state(agent)["network"].items()}
        return {**weights, _LOSS: np.array([agent.validation_loss()])}

    identity = (plan.grid, plan.steps, plan.flags, seed)
    arrays = job.cell(f"coconet-{plan.grid}-{seed}", identity, work)
    loss = float(arrays.pop(_LOSS)[0])
    parts.load_policy_state(agent, {"network": _tensors(arrays)})
    agent.setup.learning = False  # keep the trained batch statistics
    return Models(agent, loss, _recurrent(job, plan, seed))


def _recurrent(job: Job, plan: CoconetPlan, seed: int) -> FrameNade:
    """The recurrent network with the best weights on the validation split."""
    updates, width = plan.recurrent
    torch.manual_seed(seed)
    network = FrameNade(width)

    def work() -> dict[str, Array]:
        best = _fit_recurrent(network, plan, updates, seed)
        return {key: value.numpy() for key, value in best.items()}

    identity = (plan.grid, plan.steps, plan.recurrent, seed)
    network.load_state_dict(_tensors(job.cell(f"recurrent-{plan.grid}-{seed}", identity, work)))
    return network


def _tensors(arrays: dict[str, Array]) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in arrays.items()}


def table_1(job: Job, plan: CoconetPlan, seed: int, models: Models) -> dict[str, Array]:
    """NLL in nats per frame of the beginning of each test piece, (pieces,) by model and order."""
    agent, network = models.agent, models.recurrent
    pieces = beginnings(plan)

    def work() -> dict[str, Array]:
        nll: dict[str, list[float]] = {}

        def add(name: str, value: float) -> None:
            nll.setdefault(name, []).append(value)

        source = generator(seed, 7)
        counts = score_counts.count(chorales.load("train", plan.grid))
        for roll, name in zip(pieces.pieces, pieces.names, strict=True):
            one = Chorales((roll,), (name,), plan.grid)
            add("unigram", score_counts.frame_nll(counts, one, pairs=False))
            add("bigram", score_counts.frame_nll(counts, one, pairs=True))
            truth = chorales.indices(roll)
            for order in ("random", "chronological"):
                members = framewise(agent.conditionals, truth, ORDERINGS, order, generator=source)
                add(order, float(ensemble_nll(members).mean()))
                add(f"{order}, one", -float(members.mean()))
            for within in ("argmax", "truth"):
                members = framewise(
                    agent.conditionals, truth, ORDERINGS, within=within, generator=source
                )
                add(f"random, {within}", float(ensemble_nll(members).mean()))
            many = truth.expand(ORDERINGS, *truth.shape)
            sampled = ensemble_nll(chained(network, many, "sample", source))
            add("recurrent", float(sampled.mean()))
            add("recurrent, truth", -float(chained(network, truth[None], "truth").mean()))
        return {name: np.array(values) for name, values in nll.items()}

    return job.cell(f"table-1-{plan.grid}-{seed}", (plan, seed), work)


def table_2(job: Job, plan: CoconetPlan, seed: int, models: Models) -> dict[str, Array]:
    """NLL of samples of the model, (runs,) by scheme; `… curve` (places, runs) over steps.

    With a rate of 0 no part of the score is kept between steps: every step is a first one.
    """
    agent = models.agent
    measured: dict[str, Array] = {}
    for name in [INDEPENDENT, *map(str, plan.rates)]:

        def work(name: str = name) -> dict[str, Array]:
            source = generator(seed, 8)
            parts = []
            for start in range(0, plan.runs, _SAMPLES_AT_ONCE):
                count = min(_SAMPLES_AT_ONCE, plan.runs - start)
                chain = _chain(agent.conditionals, plan, name, count, source)
                kept = set(places(plan.sweeps)) if name != "0.0" else {0}
                scores = [step.pitches for at, step in enumerate(chain) if at in kept]
                parts.append(np.stack([_scores_nll(agent, pitches, source) for pitches in scores]))
            curve = np.concatenate(parts, axis=1)
            return {"curve": curve, "nll": curve[-1]}

        arrays = job.cell(f"table-2-{plan.grid}-{name}-{seed}", (plan, seed), work)
        measured[name], measured[f"{name} curve"] = arrays["nll"], arrays["curve"]
    return measured


def strip(job: Job, plan: CoconetPlan, seed: int, models: Models, rows: int = 5) -> list[Frame]:
    """Figure 3.1: a score at several steps of rewriting, from the first fill."""

    def work() -> dict[str, Any]:
        chain = list(_chain(models.agent.conditionals, plan, INDEPENDENT, 1, generator(seed, 9)))
        shown = np.unique(np.linspace(0, plan.sweeps, rows).round().astype(int)).tolist()
        drawn = frames(chain, shown)
        return {
            name: np.stack([np.asarray(getattr(frame, name)) for frame in drawn])
            for name in Frame._fields
        }

    arrays = job.cell(f"strip-{plan.grid}-{seed}", (plan, seed, rows), work)
    return [
        Frame(int(values[0]), *(torch.from_numpy(value) for value in values[1:]))
        for values in zip(*(arrays[name] for name in Frame._fields), strict=True)
    ]


def beginnings(plan: CoconetPlan) -> Chorales:
    """The first T steps of the first test pieces that are long enough."""
    test = chorales.load("test", plan.grid)
    long = [index for index, roll in enumerate(test.pieces) if roll.shape[1] >= plan.steps][
        : plan.pieces
    ]
    rolls = tuple(test.pieces[index][:, : plan.steps] for index in long)
    return Chorales(rolls, tuple(test.names[index] for index in long), plan.grid)


def places(sweeps: int) -> list[int]:
    """Steps of a chain whose scores are evaluated: 0, the powers of 4, and the last."""
    steps = {0, sweeps}
    step = 1
    while step < sweeps:
        steps.add(step)
        step *= 4
    return sorted(steps)


def _agent(plan: CoconetPlan, seed: int) -> Coconet:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    arguments = ["--agent", "coconet-small" if plan.steps < 32 else "coconet"]
    arguments += ["--env", "semigradient/Chorales-v0", "--seed", str(seed), "--device", device]
    arguments += ["--threads", str(torch.get_num_threads()), *plan.flags]
    options = [f"grid={plan.grid}", f"steps={plan.steps}"]
    agent = build(parse([*arguments, "--env-options", *options]).command)
    assert isinstance(agent, Coconet)
    return agent


def _fit_recurrent(
    network: FrameNade, plan: CoconetPlan, updates: int, seed: int
) -> dict[str, Tensor]:
    """Adam on crops; the weights of the best validation, one every fiftieth update."""
    pieces, source = chorales.load("train", plan.grid), generator(seed, 6)
    valid = chorales.crops(chorales.load("valid", plan.grid), 64, plan.steps, generator(0, 4))
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    best, weights = float("inf"), network.state_dict()
    for update in range(1, updates + 1):
        loss = _recurrent_loss(network, chorales.crops(pieces, 16, plan.steps, source))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if update % 50 == 0:
            with torch.no_grad():
                score = float(_recurrent_loss(network, valid))
            if score < best:
                best = score
                weights = {key: value.clone() for key, value in network.state_dict().items()}
    return weights


def _recurrent_loss(network: FrameNade, pitches: Tensor) -> Tensor:
    log_probs = network(pitches)
    return -log_probs.gather(-1, pitches.unsqueeze(-1)).mean()


def _chain(
    conditionals: Conditionals, plan: CoconetPlan, name: str, count: int, source: torch.Generator
) -> Iterator[Rewrite]:
    blank = torch.zeros(count, len(VOICES), plan.length, dtype=torch.int64)
    nothing = torch.zeros_like(blank, dtype=torch.bool)
    if name == INDEPENDENT:
        return independent_gibbs(conditionals, blank, nothing, plan.sweeps, source)
    rate = float(name)
    return ancestral_gibbs(conditionals, blank, nothing, plan.sweeps if rate else 0, rate, source)


def _scores_nll(agent: Coconet, scores: Tensor, source: torch.Generator) -> Array:
    """Framewise NLL of each of (B, I, T), in nats per frame."""
    return np.array(
        [
            float(
                ensemble_nll(
                    framewise(agent.conditionals, score, ORDERINGS, generator=source)
                ).mean()
            )
            for score in scores
        ]
    )


def averaged(parts: Sequence[dict[str, Array]], name: str) -> Array:
    """The mean over seeds, of the same pieces."""
    return np.mean([part[name] for part in parts], axis=0)


def pooled(parts: Sequence[dict[str, Array]], name: str) -> Array:
    """The samples of all seeds."""
    return np.concatenate([part[name] for part in parts], axis=-1)
