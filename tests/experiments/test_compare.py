"""The comparison command, with programs that pretend to train and evaluate."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from semigradient import compare
from semigradient.experiments.comparison import Cell, Commands, grid
from support.commands import ROOT
from support.fake_runs import EVALUATE, TRAIN


@pytest.fixture
def commands(drawing, blank_pictures) -> Commands:
    return drawing


@pytest.fixture
def drawing(tmp_path, monkeypatch) -> Commands:
    """The same, with reports that show their figures."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fake_train.py").write_text(TRAIN)
    (tmp_path / "fake_evaluate.py").write_text(EVALUATE)
    return Commands.of(tmp_path / "fake_train.py", tmp_path / "fake_evaluate.py")


def call(commands: Commands, *flags: object, optims: str = "adam sgd", seeds: int = 2) -> int:
    words = ["--agent", "dqn", "--optim", *optims.split(), "--env", "CartPole-v1"]
    words += ["--seeds", seeds, "--out", "out", "--jobs", 2, *flags]
    return compare.main([str(word) for word in words], commands)


def calls() -> list[str]:
    lines = Path("out/calls.txt").read_text().splitlines()
    Path("out/calls.txt").unlink()
    return sorted(lines)


def rows(name: str) -> list[dict[str, str]]:
    with open(f"out/{name}", newline="") as file:
        return list(csv.DictReader(file))


def test_full_grid_tables_and_report(drawing, capsys):
    code = call(drawing, "--env", "CartPole-v1", "ALE/Pong-v5", "--episodes", 7)
    assert code == 0
    found = calls()
    assert len(found) == 16
    assert "fresh dqn.adam.ALE-Pong-v5.1" in found
    assert "evaluate dqn.sgd.CartPole-v1.0" in found

    results = rows("results.csv")
    assert len(results) == 8
    row = next(r for r in results if r["run"] == "runs/dqn.adam.CartPole-v1.1")
    assert [row[key] for key in ("agent", "optim", "env", "seed")] == [
        "dqn",
        "adam",
        "CartPole-v1",
        "1",
    ]
    assert [float(row[key]) for key in ("mean", "median", "iqm", "steps", "seconds")] == [
        210,
        211,
        212,
        100,
        2.5,
    ]
    assert row["normalised_kind"] == "range-normalised"
    points = [r for r in rows("curves.csv") if r["env"] == "ALE/Pong-v5" and r["optim"] == "sgd"]
    assert [(p["seed"], p["step"], float(p["return"])) for p in points] == [
        ("0", "0", 0.0),
        ("0", "50", 50.0),
        ("0", "100", 100.0),
        ("1", "0", 0.0),
        ("1", "50", 55.0),
        ("1", "100", 110.0),
    ]
    assert Path("out/curves.png").read_bytes().startswith(b"\x89PNG")
    assert Path("out/profile.png").stat().st_size > 10_000

    report = Path("out/report.md").read_text()
    assert "`python compare.py --agent dqn --optim adam sgd --env" in report
    for words in ("- torch: ", "- CPU: ", "8 of 8 runs done", "over 7 episodes", "curves.png"):
        assert words in report
    # Seeds 0 and 1 of adam score 200 and 210: a resampled mean is 200, 205 or 210.
    assert "| adam | 2 | 205 [200, 210] | 205 [200, 210] | 205 |" in report
    assert "## Probability of improvement over adam" in report
    assert "| sgd | 0 [0, 0] | 0 [0, 0] | 0 [0, 0] |" in report
    assert "human-normalised scores" in report
    assert "| frame_skip | 4 | 4 |" in report
    assert report.count("None.") == 1
    log = Path("out/logs/dqn.sgd.CartPole-v1.0.log").read_text()
    assert "--threads 1 --agent dqn --env CartPole-v1 --optim sgd --seed 0 --run-dir" in log
    assert "[8/8] " in capsys.readouterr().out


def test_a_second_start_runs_only_what_is_missing(commands):
    assert call(commands) == 0
    calls()
    assert call(commands) == 0
    assert not Path("out/calls.txt").exists()
    # More seeds: only the new ones. The report covers all.
    assert call(commands, seeds=3) == 0
    assert [line for line in calls() if line.startswith("fresh")] == [
        "fresh dqn.adam.CartPole-v1.2",
        "fresh dqn.sgd.CartPole-v1.2",
    ]
    # Another number of episodes: only evaluated again.
    assert call(commands, "--episodes", 3, seeds=3) == 0
    assert {line.split()[0] for line in calls()} == {"evaluate"}
    # Another optimizer joins those that are there.
    assert call(commands, "--episodes", 3, optims="rmsprop", seeds=1) == 0
    assert calls() == ["evaluate dqn.rmsprop.CartPole-v1.0", "fresh dqn.rmsprop.CartPole-v1.0"]
    assert {row["optim"] for row in rows("results.csv")} == {"adam", "sgd", "rmsprop"}
    assert Path("out/report.md").read_text().count("`python compare.py") == 5


def test_runs_of_other_flags_or_cells_are_refused(commands, capsys):
    assert call(commands, "--steps", 100, seeds=1) == 0
    assert call(commands, "--steps", 200, seeds=1) == 2
    error = capsys.readouterr().err
    assert "has runs with the flags --steps 100, not --steps 200: choose another --out" in error
    config = Path("out/runs/dqn.sgd.CartPole-v1.0/config.toml")
    config.write_text(config.read_text().replace("seed = 0", "seed = 8"))
    assert call(commands, "--steps", 100, seeds=1) == 2
    assert "holds a run with seed 8, not 0" in capsys.readouterr().err


def test_a_failed_run_is_reported_and_stops_no_other(commands, capsys):
    assert call(commands, "--", "--fail", "1") == 1
    assert "failed: loss is not finite at step 7 (" in capsys.readouterr().out
    assert len(rows("results.csv")) == 2
    report = Path("out/report.md").read_text()
    name = "dqn.adam.CartPole-v1.1"
    assert f"| [{name}](logs/{name}.log) | failed | loss is not finite at step 7 |" in report
    assert "2 of 4 runs done" in report
    # Tried again: what it left without a checkpoint is kept aside.
    calls()
    assert call(commands, "--", "--fail", "1") == 1
    assert "fresh dqn.adam.CartPole-v1.1" in calls()
    assert sorted(p.name for p in Path("out/abandoned").iterdir()) == [
        "dqn.adam.CartPole-v1.1-1",
        "dqn.sgd.CartPole-v1.1-1",
    ]


def test_a_program_that_cannot_start_is_a_failed_run(commands, tmp_path):
    broken = Commands(("/nonexistent",), commands.evaluate)
    assert call(broken, seeds=1) == 1
    report = Path("out/report.md").read_text()
    assert "| stopped | /nonexistent: No such file or directory |" in report
    assert not Path("out/curves.png").exists()


def test_an_evaluation_that_fails_is_tried_again_without_training(commands, tmp_path):
    script = tmp_path / "fake_evaluate.py"
    script.write_text("import sys; sys.exit('no film today')")
    assert call(commands, seeds=1) == 1
    assert "| not evaluated | no film today |" in Path("out/report.md").read_text()
    calls()
    script.write_text(EVALUATE)
    assert call(commands, seeds=1) == 0
    assert {line.split()[0] for line in calls()} == {"evaluate"}


def test_a_damaged_log_costs_only_its_curve(commands, capsys):
    assert call(commands) == 0
    Path("out/runs/dqn.sgd.CartPole-v1.0/metrics.jsonl").unlink()
    assert compare.main(["--report-only", "out"]) == 0
    assert "no learning curve: " in capsys.readouterr().err
    assert len(rows("results.csv")) == 4


def test_ctrl_c_saves_and_the_same_command_resumes(commands, capsys):
    code = (
        "import sys; from pathlib import Path; from semigradient import compare\n"
        "from semigradient.experiments.comparison import *\n"
        "sys.exit(compare.main(sys.argv[1:], Commands.of(Path('fake_train.py').resolve(),"
        " Path('fake_evaluate.py').resolve())))"
    )
    flags = (
        "--agent dqn --optim adam sgd --env CartPole-v1 --seeds 2 --out out --jobs 2 -- --wait 1"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *flags.split()],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while len(list(Path("out/runs").glob("*/waiting"))) < 2:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130
    assert error == "interrupted; repeat the command to continue\n"
    for path in Path("out/runs").iterdir():
        assert json.loads((path / "summary.json").read_text())["status"] == "interrupted"
    calls()
    assert compare.main(["--report-only", "out"]) == 1
    assert Path("out/report.md").read_text().count("| interrupted |") == 2
    # Seeds 1 have not started: they would wait too, so give them a program that does not.
    again = Commands((*commands.train, "--wait", ""), commands.evaluate)
    patient = Path("fake_train.py").read_text().replace("if a.wait and", "if False and")
    Path("fake_train.py").write_text(patient)
    assert call(again, "--", "--wait", "1") == 0
    assert [line for line in calls() if not line.startswith("evaluate")] == [
        "fresh dqn.adam.CartPole-v1.1",
        "fresh dqn.sgd.CartPole-v1.1",
        "resume dqn.adam.CartPole-v1.0",
        "resume dqn.sgd.CartPole-v1.0",
    ]


def test_report_only_rebuilds_everything(drawing):
    assert call(drawing) == 0
    calls()
    made = ("results.csv", "curves.csv", "report.md", "curves.png", "profile.png")
    before = {name: Path("out", name).read_bytes() for name in made}
    for name in made:
        Path("out", name).unlink()
    assert compare.main(["--report-only", "out"]) == 0
    assert {name: Path("out", name).read_bytes() for name in made} == before
    assert not Path("out/calls.txt").exists()
    assert compare.main(["--report-only", "elsewhere"]) == 2


def test_default_optimizer_and_several_agents(commands):
    words = "--agent dqn ppo --env CartPole-v1 --seed-list 3 --out out"
    assert compare.main(words.split(), commands) == 0
    assert [(row["agent"], row["optim"], row["seed"]) for row in rows("results.csv")] == [
        ("dqn", "default", "3"),
        ("ppo", "default", "3"),
    ]
    report = Path("out/report.md").read_text()
    assert "| ppo | 1 | 180 (one run) |" in report
    assert "--optim" not in Path("out/logs/ppo.default.CartPole-v1.3.log").read_text()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--agent dqnn --env CartPole-v1", "unknown agent 'dqnn': did you mean"),
        (
            "--agent dqn --env CartPole-v1 --optim sgd:lt=1",
            "unknown option of sgd 'lt': did you mean lr",
        ),
        ("--agent dqn --env CartPole-v1 --optim sgd:lr", "accepted is NAME or NAME:KEY=VALUE"),
        ("--agent dqn --env CartPole-v1 --optim default:lr=1", "'default' takes no options"),
        ("--agent dqn --env CartPole-v1 --optim adm", "unknown optimizer 'adm': did you mean"),
        ("--agent dqn --env CartPol-v1", "unknown environment 'CartPol-v1'"),
        ("--agent dqn --env CartPole-v1 --seeds 0", "--seeds 0: must be at least 1"),
        ("--agent dqn --env CartPole-v1 --seeds x", "invalid int value: 'x'"),
        ("--agent dqn --env CartPole-v1 --jobs 0", "--jobs 0: must be at least 1"),
        ("--agent dqn --env CartPole-v1 --engine slurm", "invalid choice: 'slurm'"),
        ("--agent dqn --env CartPole-v1 -- --seed=3", "--seed after --: compare.py sets it"),
        ("--agent dqn --env CartPole-v1 -- --run_dir x", "--run_dir after --: compare.py"),
        ("--env CartPole-v1", "name at least one --agent and one --env"),
    ],
)
def test_mistakes_are_one_line_before_anything_runs(words, expected, commands, capsys):
    assert compare.main(["--out", "out", *words.split()], commands) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert expected in error
    assert error.count("\n") == 1
    assert not Path("out").exists()


def test_help_needs_no_heavy_import():
    code = (
        "import sys\n"
        "from semigradient import compare\n"
        "try: compare.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print({'torch', 'tyro', 'ray', 'matplotlib'} & set(sys.modules))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.splitlines()[-1] == "set()"


def test_grid_is_balanced_seed_by_seed_and_has_no_doubles():
    cells = grid(["a"], ["x", "y", "x"], ["e"], [0, 1])
    assert [(cell.optim, cell.seed) for cell in cells] == [("x", 0), ("y", 0), ("x", 1), ("y", 1)]
    assert Cell("a", "x", "ALE/Pong-v5", 3).name == "a.x.ALE-Pong-v5.3"


def test_options_of_an_optimizer_are_a_method_of_its_own(commands):
    optims = "corrected-momentum:correction=diagonal corrected-momentum:correction=kronecker,lr=0.5"
    assert call(commands, optims=optims, seeds=1) == 0
    assert [row["optim"] for row in rows("results.csv")] == optims.split()
    names = [
        "dqn.corrected-momentum-correction-diagonal.CartPole-v1.0",
        "dqn.corrected-momentum-correction-kronecker-lr-0.5.CartPole-v1.0",
    ]
    assert sorted(p.name for p in Path("out/runs").iterdir()) == names
    words = "--optim corrected-momentum --optim.correction kronecker --optim.lr 0.5"
    assert words in Path(f"out/logs/{names[1]}.log").read_text()
