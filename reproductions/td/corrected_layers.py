"""Correction of some of the layers: figure 4.15.

Source: E. Bengio, PhD thesis, sections 4.3.2.2 and 4.3.3.11. Six layers; the first k from the
input ("bottom") or the last k ("top") are corrected in full, the others by their diagonal or not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from semigradient.reproductions.report import Job, Report
from semigradient.reproductions.td.policy_evaluation import MOMENTUM, EvaluationSetting, Method
from semigradient.reproductions.td.pooled import lower, train, untrained
from semigradient.reproductions.td.problems import MountainCar
from semigradient.training.summary import bootstrap_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

TITLE = "Which layers to correct, six layers: thesis figure 4.15"
SEEDS = {"quick": 10, "full": 20}
LAYERS = 6
STEPS = 5000
SOURCE = "figure 4.15, section 4.3.2.2"
OTHERS = {"plain": False, "diagonal": True}


def reproduce(job: Job) -> Report:
    """Train whatever is not cached and compare it with the published claims."""
    counts = range(1, LAYERS) if job.full else (1, 3, 5)
    kinds = OTHERS if job.full else {"plain": False}
    every = _train(job, "all", Method("corrected"))
    none = _train(job, "momentum", MOMENTUM)
    bottom, top = (
        {
            (others, count): _train(job, f"{end}{count}-{others}", _partial(end, count, diagonal))
            for others, diagonal in kinds.items()
            for count in counts
        }
        for end in ("bottom", "top")
    )
    rows = []
    for (others, count), losses in bottom.items():
        words = f"the {count} bottom layers less that of the {count} top layers, others {others}"
        rival = top[others, count]
        rows.append(lower(f"4.15: loss correcting {words}", SOURCE, losses, rival, job.full))
    for name, groups in (("bottom", bottom), ("top", top)):
        for (others, count), losses in groups.items():
            words = f"all layers less that of the {count} {name} layers, others {others}"
            rows.append(lower(f"4.15: loss correcting {words}", SOURCE, every, losses, job.full))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        rng = np.random.default_rng(0)
        for name, groups in (("bottom", bottom), ("top", top)):
            for others in kinds:
                ends = [(0, none)] if others == "plain" else []
                points = [*ends, *((c, groups[others, c]) for c in counts), (LAYERS, every)]
                count = [c for c, _ in points]
                low, high = zip(
                    *(bootstrap_interval(np.mean, v, rng) for _, v in points), strict=True
                )
                axes.plot(count, [v.mean() for _, v in points], label=f"{name}, others {others}")
                axes.fill_between(count, low, high, alpha=0.2, linewidth=0)
        axes.set(xlabel="layers corrected in full", ylabel="MSE to $V^\\pi$", yscale="log")
        axes.legend(fontsize="small")

    return Report(rows, draw, inches=(5.0, 3.6))


def _partial(end: str, count: int, diagonal: bool) -> Method:
    layers = (0, count) if end == "bottom" else (LAYERS - count, LAYERS)
    return Method("corrected", layers, diagonal)


def _train(job: Job, name: str, method: Method) -> Array:
    """Final losses (S,)."""
    width = 16 if job.full else 8
    cell = EvaluationSetting(MountainCar(), (width,) * (LAYERS - 1), method, 0.9, 16, (0.1,), STEPS)
    return train(job, name, cell, untrained(MountainCar()))[0, :, -1]
