"""A package that is not ours brings an environment, an agent, an optimizer and a diagnostic."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from semigradient import agents, compare, diagnostics, evaluate, optim
from semigradient.commands import train
from semigradient.errors import UserError
from semigradient.experiments.comparison import Cell, read_optimizer
from semigradient.registry import RUNNERS, Entry
from support.commands import QUIET, ROOT
from support.runs import assert_same_run, kill_after_first_checkpoint, untimed_metrics

SHORT = "--steps 512 --eval-episodes 2 --eval-every 256 --log-every 64 --checkpoint-every 64"
DQN = "--hidden 8 --learning-starts 32 --batch-size 8 --buffer-size 128 --target none"
BY_MODULE = f"--agent crafted.learner:Learner --env crafted:Corridor-v0 {SHORT}"
BY_NAME = f"--agent linear-q --env Corridor-v0 --optim adagrad {SHORT}"
# Ours, with the optimizer and the diagnostic of the package.
MIXED = (
    f"--agent dqn --env crafted:Corridor-v0 --optim crafted.parts:Adagrad {SHORT} {DQN} "
    "--diagnose crafted.parts:measure,gain --diagnose-every 128"
)


def run_here(words: str, *more: object) -> None:
    assert train([*words.split(), *map(str, more), *QUIET]) == 0


@pytest.mark.parametrize("words", [BY_MODULE, MIXED], ids=["agent", "optimizer and diagnostic"])
def test_by_module_it_trains_resumes_after_a_kill_and_is_evaluated(
    words: str, package: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_here(words, "--run-dir", whole)
    kill_after_first_checkpoint(*words.split(), "--run-dir", killed)
    with pytest.raises(SystemExit):
        train(["--resume", str(killed), *QUIET])
    run_here(f"--resume {killed} --trust")
    assert_same_run(whole, killed)
    evaluate.main([str(killed), "--episodes", "3", "--trust"])
    assert json.loads((killed / "evaluation.json").read_text())["episodes"] == 3
    if "--diagnose" in words:
        key = "diagnose/crafted.parts:measure/error"
        assert any(key in row for row in untimed_metrics(killed))
        assert (killed / "diagnostics" / "crafted.parts-measure.png").exists()


def test_by_entry_point_it_trains_resumes_and_is_evaluated_without_trust(
    package: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_here(BY_NAME, "--run-dir", whole)
    kill_after_first_checkpoint(*BY_NAME.split(), "--run-dir", killed)
    run_here(f"--resume {killed}")
    assert_same_run(whole, killed)
    evaluate.main([str(killed), "--episodes", "3"])
    assert json.loads((killed / "evaluation.json").read_text())["episodes"] == 3


def test_its_names_are_in_the_help(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train(["--help"])
    shown = capsys.readouterr().out
    assert "linear-q  of the package crafted" in shown
    assert "adagrad" in shown
    assert "environments   Corridor-v0" in shown
    assert "diagnostics    size-of-errors" in shown
    assert "size-of-errors" in diagnostics.names()
    with pytest.raises(SystemExit):
        train(["--agent", "linear-q", "--optim", "adagrad", "--help"])
    shown = capsys.readouterr().out
    for word in ("--epsilon", "Share of random actions", "--optim.lr"):
        assert word in shown


def test_it_is_compared_by_both_names(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RUNNERS.entries, "local", Entry("support.processes:run_forked"))
    out = tmp_path / "comparison"
    names = "--agent crafted.learner:Learner linear-q --env crafted:Corridor-v0"
    optims = "--optim crafted.parts:Adagrad:lr=0.1"
    words = f"{names} {optims} --seeds 1 --steps 128 --episodes 2 --jobs 2 --out {out}"
    arguments = [*words.split(), "--", "--eval-episodes", "1"]
    assert compare.main(arguments) == 0
    rows = (out / "results.csv").read_text().splitlines()
    assert len(rows) == 3
    scores = {row.split(",")[5] for row in rows[1:]}
    assert len(scores) == 1  # two names of one thing
    assert sorted(path.name for path in (out / "runs").iterdir()) == [
        "crafted.learner-Learner.crafted.parts-Adagrad-lr-0.1.crafted-Corridor-v0.0",
        "linear-q.crafted.parts-Adagrad-lr-0.1.crafted-Corridor-v0.0",
    ]


MISTAKES = {
    "agent of no module": ("--agent no_such:Agent --env CartPole-v1", "No module named 'no_such'"),
    "no such agent": (
        "--agent crafted.learner:Lerner --env CartPole-v1",
        "agent 'crafted.learner:Lerner': module 'crafted.learner' has no attribute 'Lerner'",
    ),
    "no config": ("--agent crafted.parts:measure --env CartPole-v1", "has no attribute 'Config'"),
    "no optimizer": (
        "--agent linear-q --env CartPole-v1 --optim crafted.parts:measure",
        "must be a dataclass with a method build(params)",
    ),
    "no diagnostic": (
        f"--agent dqn --env CartPole-v1 {DQN} --diagnose crafted.parts:mesure",
        "diagnostic 'crafted.parts:mesure'",
    ),
    "id of a module": ("--agent dqn --env crafted:Corridr-v0", "'Corridr-v0'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_is_not_there_is_one_line(
    name: str, package: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words, message = MISTAKES[name]
    with pytest.raises(SystemExit) as leaving:
        train([*words.split(), *QUIET, "--run-dir", str(tmp_path / "run")])
    assert leaving.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_two_packages_with_one_name_are_refused(package: Path) -> None:
    other = package / "rival-2.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: rival\nVersion: 2.0\n")
    (other / "entry_points.txt").write_text("[semigradient.agents]\nlinear-q = rival:Agent\n")
    with pytest.raises(UserError, match="agent 'linear-q': crafted and rival each define one"):
        agents.entry("linear-q")


def test_our_names_come_first(package: Path) -> None:
    path = package / "crafted-1.0.dist-info" / "entry_points.txt"
    path.write_text("[semigradient.optimizers]\nadam = crafted.parts:Adagrad\n")
    assert optim.config_class("adam").__name__ == "AdamConfig"


def test_names_with_colons_keep_their_options_apart() -> None:
    assert read_optimizer("adam:lr=1e-3,eps=1") == ("adam", {"lr": "1e-3", "eps": "1"})
    assert read_optimizer("m.n:Config") == ("m.n:Config", {})
    assert read_optimizer("m:Config:lr=2") == ("m:Config", {"lr": "2"})
    with pytest.raises(UserError, match="accepted is NAME"):
        read_optimizer("adam:lr")
    flags = Cell("m:A", "m:Config:lr=2", "m:E-v0", 1).flags
    words = ["--agent", "m:A", "--env", "m:E-v0", "--optim", "m:Config", "--optim.lr", "2"]
    assert flags == [*words, "--seed", "1"]


def test_help_of_the_console_script_lists_the_package(package: Path) -> None:
    command = [sys.executable, "-m", "semigradient.commands", "train", "--help"]
    shown = subprocess.run(command, cwd=ROOT.parent, capture_output=True, text=True, timeout=300)
    assert shown.returncode == 0, shown.stderr
    assert "linear-q" in shown.stdout
