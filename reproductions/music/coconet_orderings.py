"""Coconet by orderings and by samplers: thesis tables 3.1 and 3.2, figures 3.1 and 3.2.

Framewise likelihoods of test chorales, with frames in random and in chronological order, with a
recurrent network and counts as baselines; and likelihoods of the model's own samples, by ancestral
and by independent Gibbs sampling.

The chorales are those of `envs/music/chorales.py`, close relatives of the published split and not
the same, so published values are only roughly comparable; the rows test their orderings, by 95 %
bootstrap intervals over pieces and over samples.

Source: T. Cooijmans, PhD thesis, section 3.6; Huang et al. 2017.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from semigradient.domains.music.piano_rolls import film_strip
from semigradient.experiments.curves import COLOURS
from semigradient.nets.coconet import Coconet
from semigradient.reproductions.music import coconet_bench as bench
from semigradient.reproductions.music.coconet_bench import (
    INDEPENDENT,
    CoconetPlan,
    averaged,
    pooled,
)
from semigradient.reproductions.report import Array, Job, Report, Row
from semigradient.training.summary import bootstrap_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Coconet: orderings and Gibbs sampling, thesis tables 3.1 and 3.2, figures 3.1 and 3.2"
SEEDS = {"quick": 2, "full": 2}

QUICK = (CoconetPlan(4, 16, ("--steps", "48000"), 12, 16, 50, 20, (0.0, 0.5), (600, 64)),)
FULL = tuple(
    CoconetPlan(grid, 128 // grid, (), 70, 32, 100, 100, (0.0, 0.05, 0.1, 0.25, 0.5), (10_000, 256))
    for grid in (4, 2, 1)
)
_GRIDS = {4: "quarters", 2: "eighths", 1: "sixteenths"}
_TABLE_1 = {  # by sixteenths per step: recurrent, chronological, random
    4: (5.03, 7.79, 5.03),
    2: (3.78, 4.21, 1.84),
    1: (2.05, 2.22, 0.57),
}


def reproduce(job: Job) -> Report:
    """Train, evaluate test pieces, sample, evaluate samples."""
    plans, seeds = FULL if job.full else QUICK, range(job.seeds)
    rows = [_parameters()]
    first: dict[int, list[dict[str, Array]]] = {}
    for plan in plans:
        models = [bench.train(job, plan, seed) for seed in seeds]
        first[plan.grid] = [bench.table_1(job, plan, seed, models[seed]) for seed in seeds]
        rows += _rows_1(plan, first[plan.grid], [model.valid_loss for model in models], job.full)
    rows += _finer(first) if len(plans) > 1 else []
    # The thesis samples sixteenths, the last plan; the quick scale has quarters.
    second = [bench.table_2(job, plan, seed, models[seed]) for seed in seeds]
    rows += _rows_2(plan, second)
    frames = bench.strip(job, plan, 0, models[0])

    def draw(figure: Figure) -> None:
        above, below = figure.subfigures(2, 1, height_ratios=(1, 2))  # type: ignore[misc]
        left, right = above.subplots(1, 2)
        _draw_1(left, first)
        _draw_2(right, plan, second)
        film_strip(below, frames)

    return Report(rows, draw, (9.0, 9.0))


def _parameters() -> Row:
    with torch.device("meta"):
        count = sum(p.numel() for p in Coconet().parameters())
    return Row(
        "parameters at the published size",
        "64 layers of 128 channels: 9,087,752 by the equations",
        "section 3.3",
        count,
        count,
        count,
        "equal",
        count == 9_087_752,
    )


def _rows_1(
    plan: CoconetPlan, parts: list[dict[str, Array]], losses: list[float], full: bool
) -> list[Row]:
    values = {name: averaged(parts, name) for name in parts[0]}
    grid = _GRIDS[plan.grid]
    recurrent, chronological, random = _TABLE_1[plan.grid]
    source = f"table 3.1, {grid}"
    loss = float(np.mean(losses))
    rows = [
        Row(
            f"{grid}: loss per hidden note on the validation split",
            "below what counts of pairs give",
            "anchor of our own: a quarter of the bigram's NLL per frame",
            loss,
            min(losses),
            max(losses),
            f"below {_note(values):.3f}",
            loss < _note(values),
        ),
        _less(f"{grid}: random orders", "bigram", values["random"], values["bigram"], "-", source),
        _less(
            f"{grid}: random orders",
            "chronological order",
            values["random"],
            values["chronological"],
            f"{random} below {chronological}",
            source,
        ),
        _less(
            f"{grid}: the ensemble of {bench.ORDERINGS}",
            "its members",
            values["random"],
            values["random, one"],
            "averaging in probability cannot lose (Jensen)",
            "algorithm 1",
        ),
        _less(
            f"{grid}: recurrent network",
            "chronological order",
            values["recurrent"],
            values["chronological"],
            f"{recurrent} below {chronological}",
            source,
            required=full,
        ),
    ]
    for name, published in (
        ("random", f"{random}"),
        ("chronological", f"{chronological}"),
        ("recurrent", f"{recurrent} (an implementation of its own)"),
        ("recurrent, truth", "-"),
        ("random, argmax", "- (what the published code computes)"),
        ("random, truth", "- (note by note)"),
        ("bigram", "-"),
        ("unigram", "-"),
    ):
        rows.append(_value(f"{grid}: {name}", values[name], published, source))
    return rows


def _finer(first: dict[int, list[dict[str, Array]]]) -> list[Row]:
    """Finer grids have a lower NLL per frame, because notes are held."""
    rows = []
    for fine, coarse in ((2, 4), (1, 2)):
        for name in ("random", "chronological"):
            low, high = (averaged(first[grid], name) for grid in (fine, coarse))
            label = f"{_GRIDS[fine]}, {name}"
            claim = "finer grids are easier per frame"
            rows.append(_less(label, _GRIDS[coarse], low, high, claim, "section 3.6.1"))
    return rows


def _rows_2(plan: CoconetPlan, parts: list[dict[str, Array]]) -> list[Row]:
    values = {name: pooled(parts, name) for name in [INDEPENDENT, *map(str, plan.rates)]}
    source = "table 3.2"
    published = {"0.0": 1.09, "0.05": 1.08, "0.1": 0.97, "0.25": 0.80, "0.5": 0.74}
    rows = [
        _less(
            "samples: independent Gibbs",
            "ancestral (ρ = 0)",
            values[INDEPENDENT],
            values["0.0"],
            "0.52 below 1.09",
            source,
        )
    ]
    for rate in plan.rates[1:]:
        name = str(rate)
        claim = f"{published[name]} below 1.09"
        required = rate >= 0.25
        rows.append(
            _less(
                f"samples: ancestral Gibbs, ρ = {name}",
                "ancestral (ρ = 0)",
                values[name],
                values["0.0"],
                claim,
                source,
                required,
            )
        )
    best = str(plan.rates[-1])
    claim = f"0.52 below {published[best]}"
    rows.append(
        _less(
            "samples: independent Gibbs",
            f"ancestral Gibbs, ρ = {best}",
            values[INDEPENDENT],
            values[best],
            claim,
            source,
        )
    )
    for name in values:
        text = "0.52" if name == INDEPENDENT else f"{published[name]}"
        label = name if name == INDEPENDENT else f"ancestral, ρ = {name}"
        rows.append(_value(f"samples: {label}", values[name], text, source))
    return rows


def _note(values: dict[str, Array]) -> float:
    return float(values["bigram"].mean()) / 4


def _less(
    name: str,
    other: str,
    low: Array,
    high: Array,
    claim: str,
    source: str,
    required: bool = True,
) -> Row:
    """A row for a difference of NLLs, paired by piece or sample."""
    difference = high - low
    ends = bootstrap_interval(np.mean, difference, np.random.default_rng(0))
    mean = float(difference.mean())
    quantity = f"{name}, nats per frame below {other}"
    agrees = ends[0] > 0
    return Row(quantity, claim, source, mean, *ends, "the interval is above 0", agrees, required)


def _value(name: str, values: Array, published: str, source: str) -> Row:
    """A row for a level, not required because data and size differ from the published ones."""
    low, high = bootstrap_interval(np.mean, values, np.random.default_rng(0))
    mean = float(values.mean())
    inside = low <= float(published.split()[0]) <= high if published[0].isdigit() else True
    words = "the published value is inside" if published[0].isdigit() else "shown only"
    return Row(f"{name}, NLL", published, source, mean, low, high, words, inside, required=False)


def _draw_1(axes: Axes, first: dict[int, list[dict[str, Array]]]) -> None:
    names = ("random", "chronological", "recurrent", "bigram")
    for row, name in enumerate(names):
        for column, parts in enumerate(first.values()):
            values = averaged(parts, name)
            low, high = bootstrap_interval(np.mean, values, np.random.default_rng(0))
            mean = values.mean()
            place = column + (row - 1.5) * 0.2
            label = name if column == 0 else None
            axes.bar(place, mean, 0.18, color=COLOURS[row], label=label)
            axes.errorbar(place, mean, [[mean - low], [high - mean]], color="black", capsize=2)
    axes.set_xticks(range(len(first)), [_GRIDS[grid] for grid in first])
    axes.set_ylabel("NLL, nats per frame")
    axes.legend(fontsize=7)
    axes.set_title("Test chorales (table 3.1)", fontsize=9)


def _draw_2(axes: Axes, plan: CoconetPlan, parts: list[dict[str, Array]]) -> None:
    steps = np.array(bench.places(plan.sweeps))
    for index, name in enumerate([INDEPENDENT, *map(str, plan.rates)]):
        curve = pooled(parts, f"{name} curve")
        mean = curve.mean(1)
        error = 1.96 * curve.std(1, ddof=1) / curve.shape[1] ** 0.5
        if len(curve) == 1:  # nothing changes from step to step
            mean, error = mean.repeat(len(steps)), error.repeat(len(steps))
        label = name if name == INDEPENDENT else f"ancestral, ρ = {name}"
        colour = COLOURS[index % len(COLOURS)]
        axes.plot(steps + 1, mean, color=colour, label=label)
        axes.fill_between(steps + 1, mean - error, mean + error, color=colour, alpha=0.15)
    axes.set_xscale("log")
    axes.set_xlabel("Gibbs step + 1")
    axes.set_ylabel("NLL of samples")
    axes.legend(fontsize=7)
    axes.set_title("Samples under the model (figure 3.2)", fontsize=9)
