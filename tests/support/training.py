"""The training command in this process: what it refuses, and what it says."""

from __future__ import annotations

import pytest

from semigradient.commands import train
from support.commands import QUIET


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line with which train.py refuses a command, before training."""
    with pytest.raises(SystemExit) as leaving:
        train([*arguments, *QUIET])
    assert leaving.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train.py: error: ")
    return line
