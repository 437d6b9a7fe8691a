"""What is compiled is kept on disk, and what compiling costs is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from semigradient.training import compiling
from semigradient.training.compiling import Stopwatch, default_place, maybe_compile


def test_nothing_is_compiled_unless_asked() -> None:
    assert maybe_compile(torch.sin, False) is torch.sin


def test_compilations_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter((1.0, 3.5, 10.0, 10.25))
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    watch = Stopwatch()
    for _ in range(2):
        watch.start(None)
        watch.end(None)
    assert watch.seconds == 2.75


def test_the_place_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_place() == tmp_path / "semigradient" / "compiled"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_place() == Path.home() / ".cache" / "semigradient" / "compiled"


def test_the_cost_is_told_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "STOPWATCH", Stopwatch())
    assert compiling.report() == ""
    compiling.STOPWATCH.seconds = 12.34
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "somewhere")
    assert compiling.report() == "compiling took 12.3 s; kept in somewhere"


@pytest.mark.slow
def test_a_second_run_finds_what_the_first_has_compiled(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    kept = []
    for run in ("first", "second"):
        command = [sys.executable, "-m", "semigradient.train", "--agent", "a2c"]
        command += ["--env", "CartPole-v1", "--compile", "--steps", "400", "--eval-episodes", "1"]
        command += ["--run-dir", str(tmp_path / run), "--wandb", "disabled"]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "compiling took" in done.stdout + done.stderr
        summary = json.loads((tmp_path / run / "summary.json").read_text())
        assert summary["compiling_seconds"] > 0
        place = tmp_path / "semigradient" / "compiled" / "fxgraph"
        kept.append(sorted(str(file.relative_to(place)) for file in place.rglob("*")))
    assert kept[0]
    assert kept[0] == kept[1]
