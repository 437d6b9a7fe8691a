"""Chrono initialisation on tasks with long delays: figures 5.3, 5.4 and 5.6.

An LSTM with biases of 1 in its forget gates is compared with one whose forget and input gates
remember for a time that is uniform on [2, T_max]. Both read the same sequences. Published are
curves of losses, without numbers on their axes in the text that we have: the rows are orderings,
and levels that are known (the loss of a guess without memory).

Source: C. Tallec, PhD thesis, 2019, chapter 5. RMSprop with rate 1e-3 and average 0.9, no clipping.
Batches and numbers of updates are not printed; ours are below. Text8 and the highway networks on
Penn Treebank are left out: there is neither the data nor, in the source, the networks' equations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from semigradient.envs.memory import streams
from semigradient.reproductions.recurrent.pixels import Pixels
from semigradient.reproductions.recurrent.stacked import Stacked
from semigradient.reproductions.recurrent.supervised import RMSprop, accuracies, shared, train
from semigradient.reproductions.report import Array, Job, Report, Row
from semigradient.reproductions.rows import signed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Chrono initialisation on copying, adding and pixels: time-warping thesis, figures 5.3–5.6"
SEEDS = {"quick": 5, "full": 5}
RATE = 1e-3
POINTS = 50
"""Of a curve."""


@dataclass(frozen=True)
class Task:
    """Sequences, and a pair of networks that learn them.

    Attributes:
        figure: of the source.
        env_id, options: of the stream.
        t_max: of the chrono initialisation.
        alike: whether both are published as doing well, so that no difference is required.
    """

    name: str
    figure: str
    env_id: str
    options: Mapping[str, Any]
    t_max: float
    hidden: int
    batch: int
    updates: int
    alike: bool = False


@dataclass(frozen=True)
class PixelTask:
    """Images that are read pixel by pixel."""

    name: str
    permuted: bool
    published: str
    hidden: int
    batch: int
    updates: int
    pixels: int = field(default=64)


def _long(
    name: str, figure: str, env: str, t_max: float, alike: bool = False, **options: int
) -> Task:
    """A task at the published size."""
    env_id = f"semigradient/{env}-v0"
    return Task(name, figure, env_id, options, t_max, 128, 128, 10_000, alike)


TASKS = {
    "quick": (
        Task(
            "adding, T = 100", "5.4", "semigradient/Adding-v0", {"length": 100}, 100, 32, 32, 3000
        ),
    ),
    "full": (
        _long("adding, T = 200", "5.4", "Adding", 200, length=200),
        _long("adding, T = 750", "5.4", "Adding", 750, length=750),
        _long("copy, T = 500", "5.3", "Copy", 750, delay=500),
        _long("copy, T = 2000", "5.3", "Copy", 3000, delay=2000),
        _long("variable copy, T = 500", "5.3", "VariableCopy", 500, True, delay=500),
        _long("variable copy, T = 1000", "5.3", "VariableCopy", 1000, delay=1000),
    ),
}
_PLAIN = "no clear difference"
_PERMUTED = "96.3 against 95.4 % on permuted MNIST"
PIXELS = {
    "quick": (
        PixelTask("digits pixel by pixel", False, _PLAIN, 32, 32, 1500),
        PixelTask("permuted digits", True, _PERMUTED, 32, 32, 1500),
    ),
    "full": (
        PixelTask("digits pixel by pixel", False, _PLAIN, 128, 64, 10_000),
        PixelTask("permuted digits", True, _PERMUTED, 128, 64, 10_000),
    ),
}


def pair(inputs: int, hidden: int, outputs: int, t_max: float, seeds: int) -> tuple[Stacked, Any]:
    """S networks with standard gates, then the same S with chrono gates."""
    net = Stacked("lstm", inputs, hidden, outputs)
    both = [net.initial(range(seeds), chrono) for chrono in (None, t_max)]
    return net, {
        name: torch.cat([one[name].detach() for one in both]).requires_grad_() for name in both[0]
    }


def curves(job: Job, task: Task) -> Array:
    """Mean losses (2, S, POINTS): standard, chrono."""

    def work() -> dict[str, Array]:
        stream = streams.make(task.env_id, job.seeds * task.batch, 0, **task.options)
        shown = stream.take(1).inputs.shape[-1]
        answers = getattr(stream.source, "answers", 1)
        net, parameters = pair(shown, task.hidden, answers, task.t_max, job.seeds)
        course = train(net, RMSprop(parameters, RATE), stream, job.seeds, task.updates)
        return {"losses": _binned(course, task.updates, job.seeds)}

    return job.cell(task.name.replace(" ", "-"), (task, RATE, POINTS), work)["losses"]


def scores(job: Job, task: PixelTask) -> Array:
    """Shares (2, S) of test images that are recognised at the end: standard, chrono."""

    def work() -> dict[str, Array]:
        train_images = Pixels("train", job.seeds * task.batch, 0, task.permuted)
        test = shared(Pixels("test", 1, 0, task.permuted).every(), 1, 2 * job.seeds)
        net, parameters = pair(1, task.hidden, Pixels.classes, task.pixels, job.seeds)
        course = train(net, RMSprop(parameters, RATE), train_images, job.seeds, task.updates)
        losses = _binned(course, task.updates, job.seeds)
        right = accuracies(net, parameters, test).view(2, job.seeds).double().numpy()
        return {"losses": losses, "right": right}

    return job.cell(task.name.replace(" ", "-"), (task, RATE, POINTS), work)["right"]


def reproduce(job: Job) -> Report:
    """Rows of all tasks, and their curves."""
    drawn, rows = {}, []
    for task in TASKS[job.scale]:
        losses = drawn[task.name] = curves(job, task)
        rows += _rows(task, losses[..., -POINTS // 10 :].mean(-1))
    for one in PIXELS[job.scale]:
        right = scores(job, one)
        row = signed(
            f"{one.name}: accuracy with chrono less that with standard gates",
            one.published,
            "figure 5.6",
            right[1] - right[0],
            1 if one.permuted else 0,
        )
        rows.append(_shown(row, one.permuted))
    return Report(rows, lambda figure: _draw(figure, drawn, job), (4 * len(drawn), 3.6))


def _rows(task: Task, final: Array) -> list[Row]:
    """Of losses (2, S) over the last tenth of training."""
    source = f"figure {task.figure}"
    options = streams.make(task.env_id, 1, 0, **task.options)
    guess = options.source.losses["memoryless"]
    better = signed(
        f"{task.name}: standard loss less that with chrono gates",
        "even" if task.alike else "chrono is better",
        source,
        final[0] - final[1],
        1,
    )
    learned = signed(
        f"{task.name}: loss of a guess without memory ({guess:.4f}) less that with chrono gates",
        "chrono does not stay there",
        source,
        guess - final[1],
        1,
    )
    return [better if not task.alike else _shown(better, False), learned]


def _shown(row: Row, is_published: bool) -> Row:
    """A row that is not required; where no difference is published, none is asked for."""
    if is_published:
        return Row(**{**row.__dict__, "required": False})
    words = {"tolerance": "is reported", "agrees": True, "required": False}
    return Row(**{**row.__dict__, **words})


def _binned(course: Any, updates: int, seeds: int) -> Array:
    """Losses of all updates as means of POINTS stretches, (2, S, POINTS)."""
    rows = torch.stack(list(course)).double()
    means = rows.view(POINTS, updates // POINTS, -1).mean(1)
    return np.ascontiguousarray(means.T.reshape(2, seeds, POINTS).numpy())


def _draw(figure: Figure, drawn: Mapping[str, Array], job: Job) -> None:
    axes = np.atleast_1d(figure.subplots(1, len(drawn)))
    tasks = {task.name: task for task in TASKS[job.scale]}
    for axis, (name, losses) in zip(axes, drawn.items(), strict=True):
        task = tasks[name]
        steps = (np.arange(POINTS) + 1) * task.updates / POINTS
        for label, colour, values in zip(("standard", "chrono"), ("C0", "C3"), losses, strict=True):
            axis.plot(steps, values.mean(0), colour, label=label)
            axis.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.2)
        guess = streams.make(task.env_id, 1, 0, **task.options).source.losses["memoryless"]
        axis.axhline(guess, color="grey", linestyle=":")
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("updates")
        axis.set_ylim(0, 1.3 * guess)
    axes[0].set_ylabel("loss")
    axes[0].legend()
