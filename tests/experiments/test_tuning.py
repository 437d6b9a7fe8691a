"""Grids of settings: what is tried, what is chosen, what the report says, what a kill leaves."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from semigradient import compare
from semigradient.errors import UserError
from semigradient.experiments import curves
from semigradient.experiments.cells import Run
from semigradient.experiments.comparison import Cell, Commands
from semigradient.experiments.settings import labels, read_grid
from semigradient.experiments.tuning import Choice, Trial
from support.fake_runs import EVALUATE, TRAIN

GRID = "adam:lr=1e-4,1e-3,1e-2"


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


def call(commands: Commands, optims: str, *flags: object) -> int:
    words = ["--agent", "dqn", "--optim", *optims.split(), "--env", "CartPole-v1"]
    words += ["--seeds", 2, "--out", "out", "--jobs", 2, *flags]
    return compare.main([str(word) for word in words], commands)


def calls() -> list[str]:
    lines = Path("out/calls.txt").read_text().splitlines()
    Path("out/calls.txt").unlink()
    return sorted(line for line in lines if not line.startswith("evaluate"))


def rows(name: str) -> list[dict[str, str]]:
    with open(f"out/{name}", newline="") as file:
        return list(csv.DictReader(file))


def test_a_grid_is_all_combinations_and_has_edges():
    grid = read_grid("corrected-momentum:correction=diagonal,lr=1e-3,1e-2,0.1,beta=.9,.99")
    assert len(grid.settings) == 6
    assert grid.settings[0] == "corrected-momentum:correction=diagonal,lr=1e-3,beta=.9"
    assert grid.settings[-1] == "corrected-momentum:correction=diagonal,lr=0.1,beta=.99"
    assert grid.label == "corrected-momentum:correction=diagonal,lr=*,beta=*"
    middle, corner = grid.settings[2], grid.settings[5]
    assert [s.split(":")[0] for s in grid.edges(middle)] == [
        "beta=.9 is the smallest value of its grid"
    ]
    assert [s[:22] for s in grid.edges(corner)] == [
        "lr=0.1 is the largest ",
        "beta=.99 is the larges",
    ]
    assert read_grid("m:Config:lr=1,2").settings == ["m:Config:lr=1", "m:Config:lr=2"]
    assert read_grid("adam").settings == ["adam"]
    # No order, no edge.
    assert not read_grid("m:Config:kind=a,b").edges("m:Config:kind=a")
    assert labels(["adam:lr=1,2", "sgd"]) == {"adam:lr=1,2": "adam:lr=*", "sgd": "sgd"}
    twins = ["adam:lr=1,2", "adam:lr=3,4"]
    assert labels(twins) == {text: text for text in twins}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("adam:lr=1e-3,0.001", "lr has the value \\[0.001\\] twice"),
        ("adam:lr=1,lr=2", "lr stands there twice"),
        ("adam:lr=1,", "accepted is NAME or"),
        ("adam:lr=1,,2", "accepted is NAME or"),
        ("adam:,lr=1", "accepted is NAME or"),
        ("adam:=1", "accepted is NAME or"),
    ],
)
def test_a_grid_that_is_none_is_refused(text, expected):
    with pytest.raises(UserError, match=expected):
        read_grid(text)


def test_options_that_are_true_or_false_are_flags():
    cell = Cell("dqn", "corrected-momentum:follow_target=true,lr=1e-3", "CartPole-v1", 0)
    flags = "--optim corrected-momentum --optim.follow-target --optim.lr 1e-3"
    assert cell.flags[4:9] == flags.split()
    cell = Cell("dqn", "momentum:decoupled_weight_decay=False", "CartPole-v1", 0)
    assert "--optim.no-decoupled-weight-decay" in cell.flags


def test_the_best_setting_of_the_tuning_seeds_is_scored_on_others(drawing, capsys):
    assert call(drawing, f"{GRID} sgd:lr=1e-3,1e-2 momentum") == 0
    found = calls()
    tuned = [line for line in found if ".50000" in line]
    # Three and two rates on two tuning seeds; then one setting of each on two other seeds.
    assert len(tuned) == 10
    assert [line for line in found if line not in tuned] == [
        f"fresh dqn.{name}.CartPole-v1.{seed}"
        for name in ("adam-lr-1e-3", "momentum", "sgd-lr-1e-3")
        for seed in (0, 1)
    ]
    results = rows("results.csv")
    assert {(r["method"], r["optim"]) for r in results} == {
        ("adam:lr=*", "adam:lr=1e-3"),
        ("sgd:lr=*", "sgd:lr=1e-3"),
        ("momentum", "momentum"),
    }
    assert {r["seed"] for r in results} == {"0", "1"}
    trials = [(r["optim"], r["seed"], r["mean"], r["chosen"]) for r in rows("tuning.csv")]
    assert ("adam:lr=1e-3", "500001", "210.0", "True") in trials
    assert ("adam:lr=1e-4", "500000", "100.0", "False") in trials

    report = Path("out/report.md").read_text()
    assert "Settings tried: adam:lr=*: 3, sgd:lr=*: 2, momentum: 1." in report
    assert "training seeds 500000, 500001" in report
    assert "all scores are of other seeds: 0, 1." in report
    assert "| dqn | CartPole-v1 | adam:lr=1e-3 | 205 | 200, 210 | **chosen** |" in report
    assert "| dqn | CartPole-v1 | adam:lr=1e-2 | 105 | 100, 110 |  |" in report
    edge = "sgd:lr=1e-3,1e-2 on CartPole-v1: lr=1e-3 is the smallest value of its grid"
    assert f"- dqn with {edge}: better ones may lie beyond." in report
    assert edge in capsys.readouterr().out
    assert "lr=1e-3 is the largest" not in report
    # The first rate of adam is inside its grid.
    assert "| adam:lr=* | CartPole-v1 | adam: lr=0.001 |" in report
    assert "| gamma | 0.99 |" in report
    assert "| adam:lr=* | 2 | 205 [200, 210] |" in report


def test_the_same_command_goes_on_and_more_values_join(commands):
    assert call(commands, GRID) == 0
    calls()
    assert call(commands, GRID) == 0
    assert not Path("out/calls.txt").exists()
    wider = "adam:lr=1e-5,1e-4,1e-3,1e-2"
    assert call(commands, wider) == 0
    assert calls() == [f"fresh dqn.adam-lr-1e-5.CartPole-v1.50000{seed}" for seed in (0, 1)]
    assert call(commands, wider, "--tune-seeds", 3) == 2, "the first grid was tuned on two seeds"


def test_a_diverged_setting_comes_last_and_is_no_failure(commands):
    assert call(commands, GRID, "--", "--diverge", "1e-3") == 0
    report = Path("out/report.md").read_text()
    assert "| dqn | CartPole-v1 | adam:lr=1e-3 | – | diverged, diverged |  |" in report
    assert "| adam:lr=1e-4 | 105 | 100, 110 | **chosen** |" in report
    assert call(commands, "adam:lr=1e-3,0.5", "--out", "o", "--", "--diverge", "1e-3") == 0


def test_a_setting_that_diverges_on_one_seed_comes_last(tmp_path):
    """Its other seed may be the best of all."""

    def run(seed: int, setting: str, mean: float | None) -> Run:
        one = Run(Cell("dqn", setting, "CartPole-v1", seed), tmp_path, (), 3)
        one.folder.mkdir(parents=True)
        status = "finished" if mean is not None else "failed"
        summary = {"status": status, "message": "not a finite number at step 7"}
        (one.folder / "summary.json").write_text(json.dumps(summary))
        if mean is not None:
            scores = json.dumps({"episodes": 3, "mean": mean})
            (one.folder / "evaluation.json").write_text(scores)
        return one

    first, second = "adam:lr=1e-3", "adam:lr=1e-2"
    safe = Trial(first, [run(0, first, 100.0), run(1, first, 120.0)])
    wild = Trial(second, [run(0, second, 500.0), run(1, second, None)])
    choice = Choice("dqn", "adam:lr=1e-3,1e-2", "CartPole-v1", [wild, safe])
    assert choice.setting == first
    assert Choice("dqn", "adam:lr=1e-3,1e-2", "CartPole-v1", [wild]).setting is None


def test_a_setting_that_fails_for_another_reason_leaves_the_choice_open(commands):
    Path("fake_evaluate.py").write_text("import sys; sys.exit('no film today')")
    assert call(commands, GRID) == 1
    assert {line[-6:] for line in calls()} == {"500000", "500001"}, "no score without a choice"
    report = Path("out/report.md").read_text()
    assert "| not tuned | 6 of 6 tuning runs are not done (dqn.adam-lr-1e-4." in report
    assert "| not evaluated | no film today |" in report
    Path("fake_evaluate.py").write_text(EVALUATE)
    assert call(commands, GRID) == 0
    assert calls() == [f"fresh dqn.adam-lr-1e-3.CartPole-v1.{seed}" for seed in (0, 1)]


def test_a_killed_run_is_taken_up_again_once(commands, capsys):
    assert call(commands, "adam", "--seeds", 1, "--", "--kill", 1) == 0
    assert calls() == ["fresh dqn.adam.CartPole-v1.0", "resume dqn.adam.CartPole-v1.0"]
    said = capsys.readouterr().out
    assert "killed by SIGKILL, probably for want of memory: fewer --jobs need less; runs" in said
    assert "[1/1] dqn.adam.CartPole-v1.0 done" in said


def test_a_run_that_is_killed_twice_is_reported_with_the_signal(commands, capsys):
    assert call(commands, "adam", "--seeds", 1, "--", "--kill", 3) == 1
    reason = "| killed | killed by SIGKILL, probably for want of memory: fewer --jobs need less |"
    assert reason in Path("out/report.md").read_text()
    assert "max_episode_steps" not in Path("out/report.md").read_text()
    calls()
    assert call(commands, "adam", "--seeds", 1, "--", "--kill", 3) == 0
    assert {line.split()[0] for line in calls()} == {"resume"}


def test_an_end_that_nobody_saw_is_said_so(commands):
    assert call(commands, "adam", "--seeds", 1, "--", "--kill", 3) == 1
    log = Path("out/logs/dqn.adam.CartPole-v1.0.log")
    log.write_text("$ python train.py\nprotocol: max_episode_steps=500\n")
    assert compare.main(["--report-only", "out"]) == 1
    expected = (
        "| stopped | its end was not seen: the engine ended first, or it still runs (protocol"
    )
    assert expected in Path("out/report.md").read_text()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--seed-list 500001", "seed 500001: settings of grids are chosen on this seed"),
        ("--tune-seeds 0", "--tune-seeds 0: must be at least 1"),
        (f"--seed-list {2**64}", f"seed={2**64}: must be at most {2**63 - 1}"),
        (f"--seeds {10**20}", f"--seeds {10**20}: must be at most 100000"),
        ("--out fake_train.py", "--out 'fake_train.py': is a file; accepted is a folder"),
        ("--out fake_train.py/x", "--out "),
        ("--out a\0b", "--out 'a\\x00b': "),
        (f"--out {'x' * 300}", "--out "),
        ("--report-only fake_train.py", "--report-only 'fake_train.py': is a file"),
        ("--report-only a\0b", "--report-only 'a\\x00b': "),
    ],
)
def test_more_mistakes_are_one_line(words, expected, commands, capsys):
    assert call(commands, GRID, *words.split(" ")) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert expected in error
    assert error.count("\n") == 1
    assert not Path("out").exists()


def test_tuning_seeds_without_a_grid_are_refused(commands, capsys):
    assert call(commands, "adam", "--tune-seeds", 3) == 2
    assert "--tune-seeds 3: no --optim has several values" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            "--agent dqn --env CartPole-v1 --optim adam:lr=1e-3,-1",
            "dqn with adam:lr=-1 on CartPole",
        ),
        ("--agent dqn --env CartPole-v1 --optim adam:lr=x", "dqn with adam:lr=x on CartPole-v1: "),
        ("--agent reinforce --env CartPole-v1 --optim corrected-momentum", "temporal differences"),
        ("--agent naive --env semigradient/IPD-v0 --optim adam", "naive has no optimizer"),
        ("--agent dqn ddqn --env Pendulum-v1", "dqn with default on Pendulum-v1: "),
        ("--agent dqn --env CartPole-v1 -- --gama 1", "--gama"),
        ("--agent dqn --env CartPole-v1 -- --diagnose nonsense", "unknown diagnostic 'nonsense'"),
        ("--agent dqn --env CartPole-v1 -- --help", "ask for help"),
        ("--agent dqn --env CartPole-v1 -- --env-options no_such=1", "CartPole-v1: "),
    ],
)
def test_a_cell_that_cannot_be_is_found_before_any_runs(
    words, expected, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(compare, "run_all", lambda jobs, engine: pytest.fail("a run has started"))
    own, _, extra = words.partition(" -- ")
    arguments = [*own.split(), "--out", str(tmp_path / "out"), "--", *extra.split()]
    assert compare.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert expected in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


README = [
    "corrected-momentum:correction=kronecker,lr=1e-3",
    "adam",
    "corrected-momentum:correction=diagonal,beta=0.99,lr=1e-2",
    "dqn + oracle-momentum:lr=1e-4,window=20",
]


@pytest.mark.parametrize("labels", [README[:2], README, ["x" * 200], [*README, "a b " * 60] * 2])
def test_legends_are_whole(labels, tmp_path):
    import imageio.v3 as iio

    band = curves.seed_band(
        [curves.Curve(np.array([0.0, 9.0]), np.array([0.0, 1.0]))], np.random.default_rng(0)
    )
    path = tmp_path / "curves.png"
    methods = {f"{label}{'' if n < 4 else n}": band for n, label in enumerate(labels)}
    curves.draw_curves({"CartPole-v1": methods}, {"CartPole-v1": "eval/mean"}, path)
    picture = np.asarray(iio.imread(path))[..., :3]
    # What is cut off at an edge leaves ink on it.
    for edge in (picture[:, :3], picture[:, -3:], picture[:3], picture[-3:]):
        assert edge.min() == 255
