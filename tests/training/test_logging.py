"""The local record of metrics, and sinks that fail."""

from __future__ import annotations

import errno
import json
import math
import os
import resource
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from semigradient.errors import UserError
from semigradient.training.logging import Logger, MetricsFile, read_metrics
from semigradient.training.sinks import Sink


def without_time(path: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "time"} for row in read_metrics(path)]


def test_lines_are_valid_json_and_visible_at_once(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    file = MetricsFile(path)
    values = {"a": torch.tensor(1.5), "b": np.float32(2), "n": 3, "t": "text", "none": None}
    file.write(1, {**values, "x": math.nan, "y": torch.tensor(math.inf), "z": -math.inf})

    def strict(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    row = json.loads(path.read_text(), parse_constant=strict)
    assert list(row)[:2] == ["step", "time"]
    assert [row[k] for k in "xyz"] == ["nan", "inf", "-inf"]
    (read,) = read_metrics(path)
    assert math.isnan(read["x"])
    assert (read["y"], read["z"]) == (math.inf, -math.inf)
    assert [read[k] for k in values] == [1.5, 2.0, 3, "text", None]
    with pytest.raises(ValueError, match="not names"):
        file.write(2, {"time": 1})
    file.close()
    file.close()


@pytest.mark.parametrize("torn", [b"{", b'{"step": 3, "time"', b"x" * 200_000])
def test_a_torn_last_line_is_left_out_and_not_glued_to(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "m.jsonl"
    for lines in (b"", b'{"step": 1, "time": 5.0}\n'):
        path.write_bytes(lines + torn)
        before = [row["step"] for row in read_metrics(path)]
        with closing(MetricsFile(path)) as file:
            file.write(2, {})
        assert [row["step"] for row in read_metrics(path)] == [*before, 2]
    assert read_metrics(path)[-1]["time"] >= 5.0  # the clock runs on


def test_damage_before_the_last_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b'{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(UserError, match="line 2 is damaged"):
        read_metrics(tmp_path / "m")


def test_truncate_after_then_continue(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    file = MetricsFile(path)
    for step in (1, 2, 2, 3, 4):
        file.write(step, {"x": step})
    with open(path, "ab") as torn:
        torn.write(b'{"step": 2, "ti')
    file.truncate_after(2)
    file.write(3, {"x": "new"})
    file.close()
    expected = [{"step": 1, "x": 1}, {"step": 2, "x": 2}, {"step": 2, "x": 2}]
    assert without_time(path) == [*expected, {"step": 3, "x": "new"}]
    assert os.listdir(tmp_path) == ["m.jsonl"]


def test_truncate_keeps_the_file_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = MetricsFile(tmp_path / "m.jsonl")
    for step in (1, 2):
        file.write(step, {})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        file.truncate_after(1)
    monkeypatch.undo()
    file.write(3, {})
    file.close()
    assert [row["step"] for row in read_metrics(file.path)] == [1, 2, 3]
    assert os.listdir(tmp_path) == ["m.jsonl"]


def test_a_full_disk_propagates_and_leaves_whole_lines(tmp_path: Path) -> None:
    logger = Logger(tmp_path)

    def fill() -> None:
        for step in range(1000):
            logger.scalars(step, {"x": 1.0})

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError):
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    path = tmp_path / "metrics.jsonl"
    assert path.read_bytes().endswith(b"}\n")
    logger.scalars(1000, {"x": 2.0})
    logger.close()
    assert [row["x"] for row in read_metrics(path)][-2:] == [1.0, 2.0]


class Recorder(Sink):
    def __init__(self) -> None:
        self.calls: list[Any] = []

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        self.calls.append((step, dict(values)))

    def summary(self, values: Mapping[str, Any]) -> None:
        self.calls.append(dict(values))


class Failing(Recorder):
    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def open(self) -> None:
        self._fail("open")

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        super().scalars(step, values)
        self._fail("scalars")

    def close(self) -> None:
        self._fail("close")

    def _fail(self, where: str) -> None:
        if where == self.where:
            raise RuntimeError("quota\nexceeded")


@pytest.mark.parametrize(("where", "calls"), [("open", 0), ("scalars", 1), ("close", 3)])
def test_a_failing_sink_warns_once_and_is_dropped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str, calls: int
) -> None:
    bad, working = Failing(where), Recorder()
    with Logger(tmp_path, [bad, working]) as logger:
        for step in range(3):
            logger.scalars(step, {"x": torch.tensor(2.0)})
        logger.summary({"best": np.float64(3.0)})
    assert working.calls == [(0, {"x": 2.0}), (1, {"x": 2.0}), (2, {"x": 2.0}), {"best": 3.0}]
    assert len([call for call in bad.calls if isinstance(call, tuple)]) == calls
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "warning: Failing failed and is off from here on (RuntimeError: quota exceeded)"
    ]
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 3


def test_a_closed_stderr_does_not_stop_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(tmp_path / "closed", "w") as closed:
        monkeypatch.setattr(sys, "stderr", closed)
    with Logger(tmp_path, [Failing("scalars")]) as logger:
        logger.scalars(1, {})
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1


def test_keyboard_interrupt_is_not_swallowed(tmp_path: Path) -> None:
    class Interrupted(Sink):
        def scalars(self, step: int, values: Mapping[str, Any]) -> None:
            raise KeyboardInterrupt

    with Logger(tmp_path, [Interrupted()]) as logger, pytest.raises(KeyboardInterrupt):
        logger.scalars(1, {})
