"""Which checkpoints of several runs are of one instant: `saved.json` beside their folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from semigradient.training.run_files import read_json, write_json

SAVED = "saved.json"


def note(folder: Path, steps: Sequence[int], keep: int) -> None:
    """Add the steps of the runs' checkpoints of this instant; the last `keep` stay."""
    earlier = [row for row in read(folder, len(steps)) if row != list(steps)]
    write_json(folder / SAVED, {"rounds": [list(steps), *earlier][:keep]})


def read(folder: Path, count: int) -> list[list[int]]:
    """The rounds of `count` runs, the newest first; what is damaged does not count."""
    rows: Any = read_json(folder / SAVED).get("rounds", [])
    rows = rows if isinstance(rows, list) else []
    return [row for row in rows if _is_round(row, count)]


def _is_round(row: Any, count: int) -> bool:
    is_list = isinstance(row, list) and len(row) == count
    return is_list and all(type(step) is int and step >= 0 for step in row)
