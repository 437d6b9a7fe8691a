"""Correction of some of the layers: figure 4.15.

Source: E. Bengio, PhD thesis, sections 4.3.2.2 and 4.3.3.11. Six layers; the first k from the
input ("bottom") or the last k ("top") are corrected in full, the others by their diagonal or not.
Required is the correction in the form of the published code's first release, whose code for this
figure knows no other; beside it stands the derivative of the loss itself, which diverges here in
some runs, the more the more layers it corrects (it was the required one before).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from semigradient.reproductions.report import Job, Report, Row
from semigradient.reproductions.td.policy_evaluation import (
    FULL,
    MOMENTUM,
    RELEASED,
    EvaluationSetting,
    Method,
)
from semigradient.reproductions.td.pooled import lower, train, untrained
from semigradient.reproductions.td.problems import MountainCar
from semigradient.training.summary import bootstrap_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

TITLE = "Which layers to correct, six layers: thesis figure 4.15"
SEEDS = {"quick": 10, "full": 20}
LAYERS = 6
STEPS = 5000
SOURCE = "figure 4.15, section 4.3.2.2"
OTHERS = {"plain": False, "diagonal": True}


FORMS = {"first release": RELEASED, "consistent": FULL}


@dataclass
class Losses:
    """Final losses (S,) with one form of the correction."""

    every: Array
    """Of all layers."""
    bottom: dict[tuple[str, int], Array] = field(default_factory=dict)
    """By the kind of the others and the number of corrected layers."""
    top: dict[tuple[str, int], Array] = field(default_factory=dict)


def reproduce(job: Job) -> Report:
    """Train whatever is not cached and compare it with the published claims."""
    none = _train(job, "momentum", MOMENTUM)
    found = {form: _trained(job, form, method) for form, method in FORMS.items()}
    rows = [
        replace(row, required=form == "first release")
        for form, losses in found.items()
        for row in _claims(form, losses, job.full)
    ]

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, len(found), sharey=True)
        for axes, (form, losses) in zip(panels, found.items(), strict=True):
            _curves(axes, losses, none)
            axes.set(title=f"Z: {form}", xlabel="layers corrected in full", yscale="log")
        panels[0].set(ylabel="MSE to $V^\\pi$")
        panels[0].legend(fontsize="small")

    return Report(rows, draw)


def _trained(job: Job, form: str, method: Method) -> Losses:
    """The published numbers of layers; at the quick scale fewer of the consistent form."""
    short = form == "consistent" and not job.full
    kinds = ["plain"] if short else list(OTHERS)
    losses = Losses(_train(job, f"{form}-all", method))
    for others in kinds:
        for count in (1, 3, 5) if short else range(1, LAYERS):
            for name, group in (("bottom", losses.bottom), ("top", losses.top)):
                layers = (0, count) if name == "bottom" else (LAYERS - count, LAYERS)
                partial = replace(method, full_layers=layers, diagonal=OTHERS[others])
                part = f"{form}-{name}{count}-{others}"
                group[others, count] = _train(job, part, partial)
    return losses


def _claims(form: str, losses: Losses, full: bool) -> list[Row]:
    """The bottom layers before the top ones, and all before both."""
    rows = []
    for (others, count), bottom in losses.bottom.items():
        top = losses.top[others, count]
        words = f"the {count} bottom layers less that of the {count} top layers, others {others}"
        rows.append(lower(f"4.15, Z {form}: loss correcting {words}", SOURCE, bottom, top, full))
    for name, group in (("bottom", losses.bottom), ("top", losses.top)):
        for (others, count), part in group.items():
            words = f"all layers less that of the {count} {name} layers, others {others}"
            quantity = f"4.15, Z {form}: loss correcting {words}"
            rows.append(lower(quantity, SOURCE, losses.every, part, full))
    return rows


def _curves(axes: Axes, losses: Losses, none: Array) -> None:
    rng = np.random.default_rng(0)
    for name, group in (("bottom", losses.bottom), ("top", losses.top)):
        for others in dict.fromkeys(kind for kind, _ in group):
            points = [(0, none)] if others == "plain" else []
            points += [(count, part) for (kind, count), part in group.items() if kind == others]
            points.append((LAYERS, losses.every))
            count = [c for c, _ in points]
            ends = (bootstrap_interval(np.mean, v, rng) for _, v in points)
            low, high = zip(*ends, strict=True)
            axes.plot(count, [v.mean() for _, v in points], label=f"{name}, others {others}")
            axes.fill_between(count, low, high, alpha=0.2, linewidth=0)


def _train(job: Job, name: str, method: Method) -> Array:
    """Final losses (S,)."""
    width = 16 if job.full else 8
    cell = EvaluationSetting(MountainCar(), (width,) * (LAYERS - 1), method, 0.9, 16, (0.1,), STEPS)
    return train(job, name.replace(" ", "-"), cell, untrained(MountainCar()))[0, :, -1]
