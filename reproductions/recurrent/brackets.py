"""UORO and truncated backpropagation on distant brackets: figure 3.2b.

One pass over lines `[s letters]k letters[the same s letters]`. Backpropagation that is truncated
to 4 steps cannot see from the second bracket to the first. Published are curves of the mean loss
so far, without printed numbers: UORO ends near the optimum with GRUs and LSTMs; truncated
backpropagation learns faster at first, then stays near the loss of who remembers no letter with
LSTMs, and goes on slowly with GRUs.

Source: C. Tallec, PhD thesis, 2019, §3.7; (s, k, a) = (1, 5, 10), 64 units, Adam with rate
1e-3 / (1 + 0.015 √t). At the quick scale (1, 2, 4), 32 units, 300,000
characters, and a rate three times as large.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from semigradient.reproductions.recurrent.text_runs import Reading, levels, read
from semigradient.reproductions.report import Array, Job, Report, Row
from semigradient.reproductions.rows import signed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "UORO and truncated backpropagation on distant brackets: UORO thesis chapter, figure 3.2b"
SEEDS = {"quick": 5, "full": 5}
KINDS = ("gru", "lstm")
TRUNCATION = 4


@dataclass(frozen=True)
class Setting:
    """Which brackets, and who reads how much of them how fast."""

    inside: int
    between: int
    alphabet: int
    hidden: int
    characters: int
    rate: float


SETTINGS = {
    "quick": Setting(1, 2, 4, 32, 300_000, 3e-3),
    "full": Setting(1, 5, 10, 64, 10_000_000, 1e-3),
}


def curves(job: Job) -> Mapping[tuple[str, str], Array]:
    """Mean losses in bits, (S, characters / 10⁴), by cell and method."""
    found = {}
    setting = SETTINGS[job.scale]
    for kind in KINDS:
        reading = Reading(
            "semigradient/Brackets-v0",
            kind,
            setting.hidden,
            setting.characters,
            decay=0.015,
            rate=setting.rate,
            options=_options(setting),
        )
        for method, memory in (("uoro", 1), ("tbptt", TRUNCATION)):
            part = job.cell(
                f"{kind}-{method}",
                (reading, memory),
                partial(_read, reading, memory, method == "uoro", job.seeds),
            )
            found[kind, method] = part["bits"][0]
    return found


def _read(reading: Reading, memory: int, is_uoro: bool, seeds: int) -> dict[str, Array]:
    return {"bits": read(reading, memory, [is_uoro], seeds)}


def reproduce(job: Job) -> Report:
    """Rows of the last and of the first tenth."""
    found = curves(job)
    optimum, form = levels("semigradient/Brackets-v0", **_options(SETTINGS[job.scale]))
    rows: list[Row] = []
    for kind in KINDS:
        uoro, truncated = found[kind, "uoro"], found[kind, "tbptt"]
        tenth = uoro.shape[1] // 10
        late = truncated[:, -tenth:].mean(1), uoro[:, -tenth:].mean(1)
        source = "figure 3.2b"
        rows += [
            signed(
                f"{kind}: last bits of truncation {TRUNCATION} less those of UORO",
                "UORO is better in the long run",
                source,
                late[0] - late[1],
                1,
            ),
            signed(
                f"{kind}: how much nearer UORO's last bits are to the optimum ({optimum:.3f}) than "
                f"to the form alone ({form:.3f})",
                "UORO is near the optimum",
                source,
                (optimum + form) / 2 - late[1],
                1,
            ),
            signed(
                f"{kind}: first bits of UORO less those of truncation {TRUNCATION}",
                "truncated backpropagation is faster at first",
                source,
                uoro[:, :tenth].mean(1) - truncated[:, :tenth].mean(1),
                1,
            ),
        ]
    return Report(rows, lambda figure: _draw(figure, found, optimum, form), (9.0, 3.6))


def _options(setting: Setting) -> dict[str, Any]:
    return {
        "inside": setting.inside,
        "between": setting.between,
        "alphabet": setting.alphabet,
    }


def _draw(
    figure: Figure, found: Mapping[tuple[str, str], Array], optimum: float, form: float
) -> None:
    axes = figure.subplots(1, 2, sharey=True)
    for axis, kind in zip(axes, KINDS, strict=True):
        for method, name in (("uoro", "UORO"), ("tbptt", f"truncated {TRUNCATION}")):
            bits = found[kind, method]
            at = (np.arange(bits.shape[1]) + 1) * 1e4
            axis.plot(at, bits.mean(0), label=name)
            axis.fill_between(at, bits.min(0), bits.max(0), alpha=0.2)
        for level in (optimum, form):
            axis.axhline(level, color="grey", linestyle=":")
        axis.set_title(kind.upper())
        axis.set_xlabel("characters")
        axis.set_ylim(0.95 * optimum, 1.2 * form)
    axes[0].set_ylabel("bits per character")
    axes[0].legend()
