"""Run folders and config files are data: code that they name is not executed unless trusted."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import semigradient
from semigradient import evaluate
from semigradient.agents.games import coin_league, tournament
from semigradient.commands import train
from semigradient.domains.music import __main__ as music
from semigradient.errors import UserError
from semigradient.experiments.comparison import Cell, Commands, Run
from semigradient.training import trust
from semigradient.training.cli import parse
from support.commands import QUIET

PLAIN = {"agent": "dqn", "env": "CartPole-v1", "optim": "adam"}

# Where in a file code may be named: lines of config.toml, and what the refusal must quote.
# `trap` is a module that leaves a mark when it is imported.
TRAPS: dict[str, tuple[dict[str, str], str, str]] = {
    "agent": ({"agent": "trap:Agent"}, "", "agent=trap:Agent"),
    "environment": ({"env": "trap:Maze-v0"}, "", "env=trap:Maze-v0"),
    "more than an id of ours": (
        {"env": "semigradient:trap:Maze-v0"},
        "",
        "env=semigradient:trap:Maze-v0",
    ),
    "optimizer": ({"optim": "trap:Config"}, "", "optim=trap:Config"),
    "diagnostic": ({}, '[run]\ndiagnose = "gain,trap:measure"', "diagnose=trap:measure"),
    "reward": (
        {"env": "semigradient/Molecule-v0"},
        '[run]\nenv_options = ["reward=trap:score", "reward_file=touch mark"]',
        "reward=trap:score",
    ),
    "quoted reward": (
        {"env": "semigradient/Molecule-v0"},
        "[run]\nenv_options = ['reward=\"trap:score\"']",
        "reward=trap:score",
    ),
    "command": (
        {"env": "semigradient/Molecule-v0"},
        '[run]\nenv_options = ["reward=os:system", "reward_file=touch mark"]',
        "reward=os:system",
    ),
    "model": (
        {"env": "semigradient/ChoraleFill-v0"},
        "[run]\neval_env_options = [\"model=cProfile:run@open('mark', 'w')\"]",
        "model=cProfile:run@open",
    ),
    "base": (
        {"env": "semigradient/TimeStep-v0"},
        '[run]\nenv_options = ["base=trap:Maze-v0"]',
        "base=trap:Maze-v0",
    ),
    "core": (
        {"env": "semigradient/IPD-v0"},
        '[run]\nenv_options = ["core=trap:make"]',
        "core=trap:make",
    ),
    "in a list": ({}, "[run]\nenv_options = ['x=[1, [\"trap:make\"]]']", "x=trap:make"),
    "cluster": (
        {"env": "semigradient/Molecule-v0"},
        '[run]\nenv_options = ["engine=ray", "ray_address=far.example:10001"]',
        "ray_address=far.example:10001",
    ),
    "agent's option": ({}, '[agent_config]\ntorso = "trap:network"', "torso=trap:network"),
}

DOORS: dict[str, Callable[[Path], Any]] = {
    "evaluate": lambda folder: evaluate.main([str(folder)]),
    "resume": lambda folder: train(["--resume", str(folder), *QUIET]),
    "config": lambda folder: train(["--config", str(folder / "config.toml"), *QUIET]),
    "load": semigradient.load,
    "resume from Python": semigradient.resume,
    "tournament": lambda folder: tournament.main(["naive", str(folder)]),
    "coin league": lambda folder: coin_league.main([str(folder)]),
    "music": lambda folder: music.main([str(folder), "--render", "1"]),
}


@pytest.fixture
def trapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose module `trap` leaves a mark when it is imported."""
    (tmp_path / "trap.py").write_text("open('mark', 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("trap", None)


def write(folder: Path, names: dict[str, str], tables: str) -> Path:
    folder.mkdir(exist_ok=True)
    lines = [f"{key} = {json.dumps(value)}" for key, value in {**PLAIN, **names}.items()]
    (folder / "config.toml").write_text("\n".join([*lines, tables]) + "\n")
    return folder


def refused(door: Callable[[Path], Any], folder: Path, capsys: Any) -> str:
    """The one line with which a door refuses a folder."""
    try:
        with pytest.raises(SystemExit) as leaving:
            door(folder)
    except UserError as problem:
        return str(problem)
    assert leaving.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return str(line)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", TRAPS)
def test_a_file_that_names_code_is_refused_and_nothing_executed(
    door: str, name: str, trapped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names, tables, quoted = TRAPS[name]
    line = refused(DOORS[door], write(trapped / "run", names, tables), capsys)
    assert "asks for code of its own" in line
    assert quoted in line
    assert "--trust" in line
    assert "\n" not in line
    assert not (trapped / "mark").exists()
    assert "trap" not in sys.modules


def test_a_trusted_file_is_taken(trapped: Path) -> None:
    folder = write(trapped / "run", {"agent": "trap:Agent"}, "")
    with pytest.raises(UserError, match=r"agent 'trap:Agent': .* has no attribute"):
        parse(["--config", str(folder / "config.toml"), "--trust"])
    assert (trapped / "mark").exists()


@pytest.mark.parametrize(
    ("name", "again"),
    [
        ("agent", "--agent trap:Agent"),
        ("agent", "--agent dqn"),  # the file's is not used
        ("optimizer", "--optim trap:Config"),
        ("reward", "--env-options reward=trap:score"),
        ("diagnostic", "--diagnose=gain,trap:measure"),
    ],
)
def test_what_is_named_on_the_command_line_too_is_taken(
    name: str, again: str, trapped: Path
) -> None:
    names, tables, _ = TRAPS[name]
    folder = write(trapped / "run", names, tables)
    problems = []
    try:
        parse(["--config", str(folder / "config.toml"), *again.split()])
    except UserError as problem:  # such as of an agent that is not in the module
        problems.append(str(problem))
    assert not any("asks for code" in text for text in problems)


def test_a_plain_file_needs_no_trust() -> None:
    options = ["task=voice:0", "folder=/data/a:b", "source=C:/x", "ray_address=", "dt=0.1"]
    tables = {
        **PLAIN,
        "env": "semigradient:semigradient/IPD-v0",
        "run": {"env_options": options, "diagnose": "gain,drift"},
        "agent_config": {"hidden": [8, 8], "target": "hard"},
    }
    assert trust.named_code(tables) == {}


def test_a_comparison_vouches_for_what_it_names_and_no_more(tmp_path: Path) -> None:
    cell = Cell("m:Agent", "adam", "CartPole-v1", 0)
    run = Run(cell, tmp_path, ("--env-options", "reward=os:path"), 3)
    commands = Commands(("train",), ("evaluate",))

    def flags(tables: str) -> list[bool]:
        write(run.folder, {"agent": "m:Agent"}, tables)
        return ["--trust" in words for words in run.remaining(commands)]

    (run.folder / "checkpoints" / "step-1").mkdir(parents=True)
    (run.folder / "checkpoints" / "step-1" / "manifest.json").touch()
    assert flags("") == [True, True]
    assert flags('[run]\nenv_options = ["reward=os:path"]') == [True, True]
    assert flags('[run]\nenv_options = ["reward=os:system"]') == [False, False]
    write(run.folder, {}, "")
    assert ["--trust" in words for words in run.remaining(commands)] == [False, False]
