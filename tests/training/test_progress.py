"""Progress on the console: lines, a bar on a terminal, and little cost."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from semigradient.training import progress as progress_module
from semigradient.training.progress import Progress
from support.commands import ROOT


def test_progress_prints_plain_lines_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now)
    with Progress(100_000, True, first_step=1000) as progress:
        for second in range(1, 62):
            now = 1000.0 + second
            progress.update(
                1000 + 100 * second,
                evaluation=12.5 if second == 40 else None,
                episode_return=torch.tensor(21.0),
            )
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "4,000 / 100,000 steps (4 %)  100 steps/s  ETA 0:16:00  return 21",
        "7,000 / 100,000 steps (7 %)  100 steps/s  ETA 0:15:30  return 21  eval 12.5",
        "7,100 / 100,000 steps (7 %)  100 steps/s  ETA 0:15:29  return 21  eval 12.5",
    ]


def test_progress_is_silent_when_off_and_survives_a_closed_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Progress(10, enabled=False) as progress:
        progress.update(1)
    assert capsys.readouterr().err == ""
    with open(tmp_path / "closed", "w") as closed:
        pass
    with Progress(10) as progress:
        monkeypatch.setattr(sys, "stderr", closed)
        progress.update(1)


def test_progress_costs_one_look_at_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now, looks, shown = 0.0, 0, []

    def monotonic() -> float:
        nonlocal looks
        looks += 1
        return now

    monkeypatch.setattr(progress_module.time, "monotonic", monotonic)
    monkeypatch.setattr(Progress, "_note", lambda *_: shown.append(now) or "")
    with Progress(1_000_000) as progress:
        looks = 0
        for step in range(2000):
            progress.update(step, episode_return=1.0)
        assert (looks, shown) == (2000, [])
        now = 31.0
        progress.update(2000)
        assert shown == [31.0]


BAR = """
import time, sys
from semigradient.training.progress import Progress
from semigradient.errors import warn
with Progress(1000) as progress:
    for step in range(1001):
        progress.update(step, evaluation=3.25)
        time.sleep(0.0006)
        if step == 500:
            warn("a sink is off")
"""


def test_progress_draws_a_bar_on_a_terminal() -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    child = subprocess.Popen(
        [sys.executable, "-c", BAR], cwd=ROOT, stderr=theirs, stdout=theirs, env=environment
    )
    os.close(theirs)
    data = b""
    try:
        while piece := os.read(ours, 4096):
            data += piece
    except OSError:  # how a terminal says that the other side is closed
        pass
    os.close(ours)
    assert child.wait() == 0
    text = data.decode()
    assert "1,000 / 1,000" in text
    assert "eval 3.25" in text
    assert "steps/s" in text
    assert "warning: a sink is off" in text
