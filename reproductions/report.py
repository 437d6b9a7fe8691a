"""The input and the output of a reproduction, and the files that hold both.

A `Report` has rows: each compares one published claim with the measured value and its interval, and
states whether they agree within a tolerance that was fixed in advance. The folder holds

    result.json     the rows and their provenance: command, commit, versions, seeds, seconds
    figure.png      the figure
    cells/          cached results of finished parts, so that interrupted work continues

A cached part is identified by a digest of everything that determines it; if anything differs, the
seeds included, it is computed anew. The code itself is not part of the digest: use a new folder
after a change of the code.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from semigradient.errors import UserError, require
from semigradient.training.run import provenance, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
_SPENT = "seconds of wall and processor"


@dataclass(frozen=True)
class Row:
    """One published claim and the measured value."""

    quantity: str
    """What is measured."""
    published: str
    """The published value or statement."""
    source: str
    """Document and figure, section or line."""
    measured: float
    low: float
    """Lower end of the measured value's 95 % interval."""
    high: float
    tolerance: str
    """Criterion of agreement, in words."""
    agrees: bool
    required: bool = True
    """Whether --check requires agreement. Published settings that are known not to give the
    published result are reported, but not required, beside settings that do."""


@dataclass
class Report:
    """The result of a reproduction."""

    rows: list[Row]
    draw: Callable[[Figure], None]
    """Draws the figure."""
    inches: tuple[float, float] = (9.0, 3.6)


@dataclass
class Job:
    """One run of a reproduction: its scale, its seeds, and its folder."""

    scale: str
    seeds: int
    out: Path
    folder: str = ""
    """Folder of published data files, for reproductions that need them."""
    say: Callable[[str], None] = print
    seconds: float = field(default=0.0, init=False)
    """Wall-clock seconds spent on all parts, including those of earlier, interrupted runs."""
    cpu_seconds: float = field(default=0.0, init=False)
    """Processor seconds: an upper bound of `seconds` on an idle machine."""

    @property
    def full(self) -> bool:
        """Whether to run at the published scale."""
        return self.scale == "full"

    def cell(self, name: str, identity: Any, work: Callable[[], Mapping[str, Array]]) -> Any:
        """Return the arrays of one part of the work, computed unless cached.

        The `repr` of `identity` must include everything that determines the result.
        """
        digest = hashlib.sha256(repr((identity, self.seeds)).encode()).hexdigest()[:16]
        path = self.out / "cells" / f"{name}-{digest}.npz"
        arrays = _load(path)
        if arrays is None:
            start = np.array([time.perf_counter(), time.process_time()])
            arrays = dict(work())
            arrays[_SPENT] = np.array([time.perf_counter(), time.process_time()]) - start
            _save(path, arrays)
            self.say(f"{name}: {arrays[_SPENT][0]:.1f} s")
        wall, processor = arrays.pop(_SPENT)
        self.seconds += float(wall)
        self.cpu_seconds += float(processor)
        return arrays


def prepare(out: Path) -> None:
    """Create the folder; `UserError` if that fails."""
    try:
        (out / "cells").mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(
            f"--out {str(out)!r}: cannot be made ({problem.strerror}); accepted is any folder "
            "that can be written"
        ) from None
    require(os.access(out / "cells", os.W_OK), f"--out {str(out)!r}: cannot be written")


def write(report: Report, job: Job, name: str, title: str) -> None:
    """Write `result.json` and `figure.png`."""
    from matplotlib.figure import Figure

    content = {
        "name": name,
        "title": title,
        "scale": job.scale,
        "seeds": job.seeds,
        "seconds": round(job.seconds, 1),
        "cpu_seconds": round(job.cpu_seconds, 1),
        "agrees": all(row.agrees for row in report.rows if row.required),
        "rows": [_finite(asdict(row)) for row in report.rows],
        **provenance(),
    }
    write_json(job.out / "result.json", content)
    figure = Figure(figsize=report.inches, layout="constrained")
    report.draw(figure)
    temporary = job.out / ".figure.png"
    figure.savefig(temporary, dpi=120)
    os.replace(temporary, job.out / "figure.png")


def table(rows: Sequence[Row]) -> str:
    """The rows as text, several lines per row so that nothing is truncated."""
    lines = []
    for row in rows:
        mark = "agrees   " if row.agrees else "DISAGREES" if row.required else "disagrees"
        lines.append(f"{mark}  {row.quantity}")
        lines.append(f"           published  {row.published} ({row.source})")
        lines.append(
            f"           measured   {row.measured:.4g} [{row.low:.4g}, {row.high:.4g}]; "
            f"agrees if {row.tolerance}"
        )
    return "\n".join(lines)


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """The row with non-finite numbers as text, which JSON lacks."""
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }


def _save(path: Path, arrays: Mapping[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)
    os.replace(temporary, path)


def _load(path: Path) -> dict[str, Array] | None:
    """The arrays of a finished part; None if missing or unreadable."""
    try:
        # Opened explicitly: `np.load` would leave a damaged archive open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return dict(stored)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
