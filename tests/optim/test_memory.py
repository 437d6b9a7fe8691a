"""Memory for matrices: no promise of the same bytes twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from semigradient.errors import UserError
from semigradient.optim import CorrectedMomentum, Diagonal, Full, memory, promises
from semigradient.training.build import build
from semigradient.training.cli import parse

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    return tmp_path


def notes() -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in promises.folder().glob("*.json")]


def weight(n: int = 100) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.zeros(n))


def test_a_promise_lasts_until_the_memory_is_taken(monkeypatch) -> None:
    monkeypatch.setattr(promises, "SMALLEST", 0)
    p = weight()
    optimizer = CorrectedMomentum([p], 0.1, zeta=Full())
    (note,) = notes()
    assert (note["pid"], note["bytes"], note["device"]) == (os.getpid(), 100 * 100 * 4, "cpu")
    p.grad = torch.zeros_like(p)
    optimizer.pass_over()
    optimizer.step()
    assert notes() == []
    one = CorrectedMomentum([weight()], 0.1, zeta=Full())
    assert len(notes()) == 1
    del one
    assert notes() == [], "an owner that is gone needs nothing"


def test_an_agent_that_only_acts_is_promised_nothing(monkeypatch) -> None:
    monkeypatch.setattr(promises, "SMALLEST", 0)
    flags = "--agent dqn --env CartPole-v1 --preset none --hidden 4 --optim corrected-momentum"
    command = parse(flags.split()).command
    acting = build(command, learning=False)
    assert notes() == []
    learning = build(command)
    assert len(notes()) == 1
    del acting, learning


def test_of_two_runs_that_start_together_the_second_one_is_refused(monkeypatch) -> None:
    """Another process was promised the memory and has not taken it."""
    monkeypatch.setattr(memory, "available_memory", lambda device: 2 * 40_000)
    CorrectedMomentum([weight()], 0.1, zeta=Full())
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = promises._started(other.pid)
    note = {"pid": other.pid, "started": started, "device": "cpu", "bytes": 40_000}
    path = promises.folder() / "other.json"
    path.write_text(json.dumps(note))
    assert promises.of_others("cpu") == 40_000
    assert promises.of_others("cuda:0") == 0
    with pytest.raises(UserError, match="correction=full: 100 parameters need a matrix of"):
        CorrectedMomentum([weight()], 0.1, zeta=Full())
    CorrectedMomentum([weight()], 0.1, zeta=Diagonal())
    # A process that took its number is not the one that was promised.
    path.write_text(json.dumps({**note, "started": "1"}))
    assert promises.of_others("cpu") == 0
    path.write_text(json.dumps(note))
    other.communicate(b"\n")
    assert promises.of_others("cpu") == 0
    assert not path.exists(), "notes of processes that have ended are cleared away"


def test_damaged_notes_and_foreign_folders_are_no_obstacle(own_folder, monkeypatch) -> None:
    (promises.folder() / "1.json").write_text("[")
    (promises.folder() / "2.json").write_text('{"pid": 1, "bytes": "many", "device": "cpu"}')
    assert promises.of_others("cpu") == 0
    promises.folder().chmod(0o777)
    monkeypatch.setattr(promises, "SMALLEST", 0)
    with pytest.raises(OSError, match="not this user's own"):
        promises.folder()
    CorrectedMomentum([weight()], 0.1, zeta=Full())
    assert len(list(own_folder.glob("*/*.json"))) == 2
