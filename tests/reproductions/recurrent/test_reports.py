"""The reports of figures about recurrent networks, at a size that takes no time."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from semigradient.reproductions.recurrent import anbn, brackets, chrono, warp
from semigradient.reproductions.report import Job, Report, prepare, write


def made(module: ModuleType, folder: Path) -> Report:
    job = Job("quick", 2, folder, say=lambda _: None)
    prepare(folder)
    report = module.reproduce(job)
    write(report, job, "name", module.TITLE)
    assert (folder / "figure.png").stat().st_size > 5000
    return report


def shrink(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, value: Any) -> None:
    monkeypatch.setitem(getattr(module, name), "quick", value)


def test_the_table_has_a_row_for_each_cell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def read(reading: Any, memory: int, are_uoro: list[bool], seeds: int) -> np.ndarray:
        """Published values, of which the truncated ones rise."""
        keys = [("uoro" if flag else "tbptt", reading.kind, memory) for flag in are_uoro]
        level = 2 * np.array([anbn.PUBLISHED[key] for key in keys])[:, None, None]
        rise = np.where(are_uoro, 0.0, 0.3)[:, None, None]
        return level + rise * np.linspace(0, 1, 30) + 1e-3 * np.arange(seeds)[:, None]

    monkeypatch.setattr(anbn, "read", read)
    rows = made(anbn, tmp_path).rows
    cells = {row.quantity.split(":")[0]: row for row in rows[:12]}
    assert len(cells) == 12
    uoro = cells["gru, UORO, memory 2"]
    assert uoro.measured == pytest.approx(2 * 0.174 + 5e-4)
    assert uoro.agrees
    assert uoro.tolerance == "the interval is below 0.409"
    truncated = cells["gru, truncation 2"]
    assert truncated.measured == pytest.approx(
        2 * 0.285 + 0.3 * np.linspace(0, 1, 30)[-5:].mean(), abs=1e-3
    )
    assert not truncated.agrees
    assert not truncated.required
    assert all(row.agrees for row in rows[12:])


def test_the_table_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shrink(monkeypatch, anbn, "HIDDEN", 4)
    shrink(monkeypatch, anbn, "CHARACTERS", 10_000)
    monkeypatch.setattr(anbn, "MEMORIES", (16,))
    monkeypatch.setattr(anbn, "_rows_of_gru", lambda *_: [])
    rows = made(anbn, tmp_path).rows
    assert len(rows) == 4
    assert all(0.27 < row.measured < 1.7 for row in rows)


def test_brackets_compare_late_and_early_losses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def read(reading: Any, memory: int, are_uoro: list[bool], seeds: int) -> np.ndarray:
        ends = (1.2, 0.5) if are_uoro[0] else (0.9, 0.6)
        return np.linspace(*ends, 30) + np.zeros((1, seeds, 1))

    monkeypatch.setattr(brackets, "read", read)
    rows = made(brackets, tmp_path).rows
    assert len(rows) == 6
    assert all(row.agrees for row in (rows[0], rows[2], rows[3], rows[5]))


def test_chrono_compares_pairs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tasks = [
        dataclasses.replace(task, hidden=4, batch=2, updates=chrono.POINTS)
        for task in chrono.TASKS["quick"]
    ]
    short = [dataclasses.replace(tasks[0], options={"length": 6}), *tasks[1:]]
    shrink(monkeypatch, chrono, "TASKS", short)
    pixels = [
        dataclasses.replace(task, hidden=4, batch=2, updates=chrono.POINTS)
        for task in chrono.PIXELS["quick"]
    ]
    shrink(monkeypatch, chrono, "PIXELS", pixels)
    rows = made(chrono, tmp_path).rows
    assert [row.required for row in rows] == [True, True, True, True, False, True, False, False]


def test_warps_have_rows_for_every_form(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    setting = dataclasses.replace(
        warp.SETTINGS["quick"], hidden=4, length=30, batch=2, updates=100, tested=4
    )
    shrink(monkeypatch, warp, "SETTINGS", setting)
    rows = made(warp, tmp_path).rows
    assert len(rows) == 2 * 3 + 3
