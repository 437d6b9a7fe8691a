"""The reports about gradients of recurrent networks, at a size that takes little time."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from reproductions.recurrent.test_reports import made, shrink
from semigradient.reproductions.recurrent import recurrent_exact, uoro_variance


def test_every_required_exact_row_agrees(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shrink(monkeypatch, recurrent_exact, "DRAWS", 4000)
    rows = made(recurrent_exact, tmp_path, seeds=1).rows
    assert len(rows) == 34
    assert all(row.agrees for row in rows if row.required)
    assert sum(not row.required for row in rows) == 3


def test_a_wrong_estimator_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    uoro = importlib.import_module("semigradient.gradients.recurrent.uoro")
    monkeypatch.setattr(uoro, "scale", lambda row, column: 1 + 0 * row[..., :1])
    exact = recurrent_exact.means(0)
    assert exact["uoro"] < 1e-12  # any scale that signs do not change is unbiased
    monkeypatch.setattr(uoro, "scale", lambda row, column: 1 + column[..., :1].relu())
    assert recurrent_exact.means(0)["uoro"] > 1e-3


def test_the_variance_grows_with_the_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shrink(monkeypatch, uoro_variance, "SIZES", (2, 16))
    rows = made(uoro_variance, tmp_path).rows
    assert [row.agrees for row in rows] == [True] * 4
