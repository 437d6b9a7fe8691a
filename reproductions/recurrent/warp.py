"""Gates and the warping of time: figures 5.1 and 5.5.

Plain, leaky and gated recurrent networks say the previous character of sequences that are warped
or padded. Leaky networks solve uniform warpings, whose speed a constant can learn; only gates
solve variable ones. Networks that were trained on variable warps are then tested on longer ones.

Source: C. Tallec, PhD thesis, 2019, chapter 5. RMSprop with average 0.9, batches of 32; the rate
is halved where an evaluation after every 100 batches has not fallen. The first rate is not
printed: ours are below. The text of figure 5.5 says variable warps, its caption uniform ones; ours
are variable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from semigradient.envs.memory import streams
from semigradient.reproductions.recurrent.stacked import Stacked
from semigradient.reproductions.recurrent.supervised import (
    Halving,
    RMSprop,
    accuracies,
    losses,
    shared,
    train,
)
from semigradient.reproductions.report import Array, Job, Report, Row
from semigradient.reproductions.rows import signed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Gated networks under warps of time: time-warping thesis, figures 5.1 and 5.5"
SEEDS = {"quick": 5, "full": 5}
KINDS = ("rnn", "leaky", "gated")
JUDGE_EVERY = 100
"""Batches between evaluations."""


@dataclass(frozen=True)
class Setting:
    """How networks are trained and tested.

    Attributes:
        letters: without the dummy.
        length: of sequences.
        rate: at first.
        tested: sequences of an evaluation.
    """

    letters: int
    hidden: int
    length: int
    batch: int
    updates: int
    rate: float
    tested: int


SETTINGS = {
    "quick": Setting(5, 32, 200, 16, 800, 3e-3, 64),
    "full": Setting(9, 64, 500, 32, 3 * 50_000 // 32, 1e-3, 10_000),
}
WARPS = {"quick": (24,), "full": (2, 5, 10, 20, 50)}
TRAINED, FARTHER = {"quick": 24, "full": 50}, {"quick": (1, 2, 4, 10), "full": (1, 2, 4, 6, 8, 10)}
"""Longest warp in training, and multiples of it in figure 5.5's test."""
FORMS = {
    "uniform warp": {"variable": False},
    "variable warp": {"variable": True},
    "uniform padding": {"variable": False, "padded": True},
    "variable padding": {"variable": True, "padded": True},
}
QUICK_FORMS = ("uniform warp", "variable warp", "variable padding")


def outcome(job: Job, kind: str, form: str, warp: int) -> dict[str, Array]:
    """Losses (S,) on new sequences, the losses (S, updates / 100) of training, and accuracies.

    Accuracies (multiples, S) are those on longer warps, of variable warps only.
    """
    setting = SETTINGS[job.scale]

    def work() -> dict[str, Array]:
        options = {"letters": setting.letters, "length": setting.length, **FORMS[form]}
        make = lambda batch, seed, **more: streams.make(  # noqa: E731
            "semigradient/Warp-v0", batch, seed, **{**options, "warp": warp, **more}
        )
        symbols = setting.letters + 1
        net = Stacked(kind, symbols, setting.hidden, symbols)
        optimizer = RMSprop(net.initial(range(job.seeds)), setting.rate)
        halving, course = Halving(optimizer), []
        held_out = shared(make(min(setting.tested, 256), 1).whole(), 1, job.seeds)
        stream = make(job.seeds * setting.batch, 0)
        updates = train(net, optimizer, stream, job.seeds, setting.updates)
        for update, lost in enumerate(updates, 1):
            course.append(lost)
            if update % JUDGE_EVERY == 0:
                with torch.no_grad():
                    halving.judge(losses(net, optimizer.parameters, held_out))
        result = {
            "loss": _tested(net, optimizer.parameters, make, setting.tested, job.seeds),
            "course": _means(course, JUDGE_EVERY),
        }
        if form == "variable warp":
            result["farther"] = np.stack(
                [
                    _farther(net, optimizer.parameters, make, warp, times, job.seeds)
                    for times in FARTHER[job.scale]
                ]
            )
        return result

    name = f"{kind}-{form}-{warp}".replace(" ", "-")
    return job.cell(name, (setting, kind, form, warp, JUDGE_EVERY, FARTHER[job.scale]), work)


def reproduce(job: Job) -> Report:
    """Rows of all forms at the longest warp, and of longer ones."""
    forms = QUICK_FORMS if job.scale == "quick" else tuple(FORMS)
    found = {
        (kind, form, warp): outcome(job, kind, form, warp)
        for form in forms
        for warp in sorted({*WARPS[job.scale], *_trained(job, form)})
        for kind in KINDS
    }
    rows: list[Row] = []
    for form in forms:
        for warp in WARPS[job.scale]:
            if warp >= 20:
                rows += _rows(form, warp, [found[kind, form, warp]["loss"] for kind in KINDS])
    farther = {kind: found[kind, "variable warp", TRAINED[job.scale]]["farther"] for kind in KINDS}
    rows += _farther_rows(farther)
    return Report(rows, lambda figure: _draw(figure, job, found, forms, farther), (9.0, 6.4))


def _trained(job: Job, form: str) -> tuple[int, ...]:
    return (TRAINED[job.scale],) if form == "variable warp" else ()


def _rows(form: str, warp: int, lost: list[Array]) -> list[Row]:
    """Of losses (S,) of plain, leaky and gated networks."""
    plain, leaky, gated = lost
    what, source = f"{form} of {warp}: loss of", "figure 5.1"
    rows = [
        signed(f"{what} rnn less gated", "gates significantly better", source, plain - gated, 1)
    ]
    if form.startswith("uniform"):
        words = "leaky solves uniform warps, plain networks do not"
        rows.append(signed(f"{what} rnn less leaky", words, source, plain - leaky, 1))
    else:
        words = "leaky does not reach the optimum, gates do"
        rows.append(signed(f"{what} leaky less gated", words, source, leaky - gated, 1))
    return rows


def _farther_rows(farther: Mapping[str, Array]) -> list[Row]:
    """Of accuracies (multiples, S) by kind."""
    gated, plain = farther["gated"], farther["rnn"]
    return [
        signed(
            "accuracy of gated less rnn at warps as trained",
            "gates are better overall",
            "figure 5.5",
            gated[0] - plain[0],
            1,
        ),
        signed(
            "accuracy of gated lost from warps as trained to ten times as long",
            "from 100 % to about 75 %",
            "figure 5.5",
            gated[0] - gated[-1],
            1,
        ),
        signed(
            "loss of accuracy by gated less that by rnn, at ten times as long",
            "plain networks are flatter",
            "figure 5.5",
            (gated[0] - gated[-1]) - (plain[0] - plain[-1]),
            1,
        ),
    ]


@torch.no_grad()
def _tested(net: Stacked, parameters: Any, make: Any, count: int, seeds: int) -> Array:
    """Mean losses (S,) on `count` new sequences, the same for all."""
    stream, piece = make(min(count, 250), 2), min(count, 250)
    found = [
        losses(net, parameters, shared(stream.whole(), 1, seeds)) for _ in range(count // piece)
    ]
    return torch.stack(found).mean(0).double().numpy()


@torch.no_grad()
def _farther(net: Stacked, parameters: Any, make: Any, warp: int, times: int, seeds: int) -> Array:
    """Accuracies (S,) at warps from twice the longest in training to `times` times it.

    With times = 1, at those of training. Sequences are so long that ten characters pass.
    """
    least, most = (1, warp) if times == 1 else (min(2, times) * warp, times * warp)
    stream = make(64, 3, least=least, warp=most, length=10 * most)
    return accuracies(net, parameters, shared(stream.whole(), 1, seeds)).double().numpy()


def _means(course: list[torch.Tensor], every: int) -> Array:
    rows = torch.stack(course).double()
    return np.ascontiguousarray(rows.view(-1, every, rows.shape[1]).mean(1).T.numpy())


def _draw(figure: Figure, job: Job, found: Any, forms: Any, farther: Mapping[str, Array]) -> None:
    axes = figure.subplots(2, 3).flatten()
    colours = dict(zip(KINDS, ("C0", "C1", "C2"), strict=True))
    for axis, form in zip(axes, forms, strict=False):
        for kind in KINDS:
            if len(WARPS[job.scale]) > 1:
                at = np.array(WARPS[job.scale])
                lost = np.stack([found[kind, form, warp]["loss"] for warp in at])
                axis.set_xlabel("warp")
            else:
                lost = found[kind, form, WARPS[job.scale][0]]["course"].T
                at = JUDGE_EVERY * (np.arange(len(lost)) + 1)
                axis.set_xlabel("batches")
            axis.plot(at, lost.mean(1), colours[kind], label=kind)
            axis.fill_between(at, lost.min(1), lost.max(1), color=colours[kind], alpha=0.2)
        axis.set_title(form, fontsize=9)
    for kind, right in farther.items():
        axes[-1].plot(FARTHER[job.scale], right.mean(1), colours[kind], marker="o", label=kind)
    axes[-1].set_title(f"trained on warps up to {TRAINED[job.scale]}", fontsize=9)
    axes[-1].set_xlabel("longest warp tested, in multiples of it")
    axes[-1].set_ylabel("accuracy")
    axes[0].set_ylabel("cross-entropy")
    axes[0].legend()
    for axis in axes[len(forms) : -1]:
        axis.set_axis_off()
