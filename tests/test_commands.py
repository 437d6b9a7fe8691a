"""The console script: one word, then the arguments of the script of that name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from semigradient import commands


def test_it_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main([]) == 2
    assert commands.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in commands.COMMANDS)


def test_an_unknown_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["trian", "--agent", "dqn"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "unknown command 'trian': did you mean train?" in line


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_every_command_has_its_own_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        commands.main([name, "--help"])
    assert leaving.value.code == 0
    assert f"{name}.py" in capsys.readouterr().out


def test_a_mistake_in_a_command_is_its_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        commands.main(["evaluate", "no/such/folder"])
    assert leaving.value.code == 2
    assert "run 'no/such/folder': no such folder" in capsys.readouterr().err
    assert commands.main(["compare", "--agent", "dqn"]) == 2


def test_the_installed_script_and_the_file_are_the_same_command(tmp_path: Path) -> None:
    """Both from a folder that is not the checkout."""
    words = ["--agent", "dqnn", "--env", "CartPole-v1"]
    script = [sys.executable, "-m", "semigradient.commands", "train", *words]
    file = [sys.executable, str(Path(commands.__file__).with_name("train.py")), *words]
    runs = [
        subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        for command in (script, file)
    ]
    assert [run.returncode for run in runs] == [2, 2]
    assert runs[0].stderr == runs[1].stderr
    assert "did you mean dqn" in runs[0].stderr
