"""The reports of figures about recurrent networks, at a size that takes no time."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from semigradient.gradients.recurrent import Estimator, make
from semigradient.gradients.recurrent.forward import Forward
from semigradient.gradients.recurrent.unrolled import Network
from semigradient.nets.cells import Headed, make_cell
from semigradient.reproductions.recurrent import anbn, brackets, chrono, queue, warp
from semigradient.reproductions.report import Job, Report, prepare, write


def made(module: ModuleType, folder: Path, seeds: int = 2) -> Report:
    job = Job("quick", seeds, folder, say=lambda _: None)
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
    assert truncated.agrees
    assert truncated.tolerance == "the interval is above 0.409"
    assert not cells["gru, truncation 16"].agrees
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
    monkeypatch.setattr(chrono, "POINTS", 10)
    tasks = [
        dataclasses.replace(task, hidden=4, batch=2, updates=chrono.POINTS)
        for task in chrono.TASKS["quick"]
    ]
    short = [dataclasses.replace(task, options={"length": 6}) for task in tasks]
    shrink(monkeypatch, chrono, "TASKS", short)
    pixels = [
        dataclasses.replace(task, hidden=4, batch=2, updates=chrono.POINTS)
        for task in chrono.PIXELS["quick"]
    ]
    shrink(monkeypatch, chrono, "PIXELS", pixels)
    rows = made(chrono, tmp_path).rows
    assert [row.required for row in rows] == [True, True, False, False]


def test_warps_have_rows_for_every_form(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    setting = dataclasses.replace(
        warp.SETTINGS["quick"], hidden=4, length=30, batch=2, updates=20, tested=4
    )
    monkeypatch.setattr(warp, "JUDGE_EVERY", 10)
    shrink(monkeypatch, warp, "FARTHER", (1, 2))
    shrink(monkeypatch, warp, "SETTINGS", setting)
    rows = made(warp, tmp_path).rows
    assert len(rows) == 2 * 3 + 3


def test_the_queue_takes_the_best_rate_of_each_method(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    levels = {"neither": 0.1, "spatial": 0.2, "temporal": 0.3, "both": 0.5}

    def learn(setting: Any, projected: str, rate: float, seed: int) -> np.ndarray:
        return np.full(queue.POINTS, levels[projected] + abs(rate - 0.002) + 1e-3 * seed)

    monkeypatch.setattr(queue, "learn", learn)
    rows = made(queue, tmp_path).rows
    assert [round(row.measured, 3) for row in rows[:4]] == [0.3, 0.2, 0.1, 0.2]
    assert all("(0.002)" in row.quantity for row in rows[:4])
    assert all(row.agrees for row in rows)


@pytest.mark.parametrize("projected", ["neither", "spatial", "temporal", "both"])
def test_all_estimators_learn_the_queue_online(projected: str) -> None:
    setting = queue.Setting("rnn", 6, 1, 8, 150)
    course = queue.learn(setting, projected, 0.008, 0)
    assert course[:5].mean() > 0.5
    assert course[-5:].mean() < 0.4


def test_projecting_in_space_alone_is_exact_on_average() -> None:
    """Over all signs of two steps of a network of two units, as RTRL's."""
    module = Headed(make_cell("rnn", 2, 2, torch.Generator().manual_seed(0)), 2).double()
    x = torch.randn(3, 1, 2, generator=torch.Generator().manual_seed(1)).double()

    def gradient(learner: Estimator) -> torch.Tensor:
        for step in x:
            outputs = learner.step(step)
        return learner.gradient(torch.ones_like(outputs))

    exact = gradient(make("rtrl", module, 1))
    found = []
    for choice in itertools.product([-1.0, 1.0], repeat=4):
        drawn = iter(torch.tensor(choice).double().view(2, 1, 2))
        trace = queue.Spatial(Network(module), 1, torch.Generator())
        trace.draw = lambda drawn=drawn: next(drawn)
        found.append(gradient(Forward(module, 1, trace)))
    torch.testing.assert_close(torch.stack(found).mean(0), exact)
    assert torch.stack(found).std(0).max() > 1e-3
