"""Seeds of a setting are one job where they can learn as one."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from semigradient import compare
from semigradient.commands import train
from semigradient.evaluate import main as evaluate
from semigradient.experiments.cells import Cell, Run
from semigradient.experiments.engines import CommandJob, Engine, Result
from semigradient.experiments.seed_batches import SeedBatch, can_learn_as_one, grouped
from semigradient.stacks.stack import Stack

FLAGS = "--num-envs 2 --hidden 8 --eval-every 0 --checkpoint-every 64 --no-tensorboard"


def runs(out: Path, seeds: Iterable[int], optim: str = "adam") -> list[Run]:
    return [Run(Cell("a2c", optim, "CartPole-v1", seed), out, (), 2) for seed in seeds]


def shape(units: Iterable[Run | SeedBatch]) -> list[Any]:
    return [
        [run.cell.seed for run in unit.runs] if isinstance(unit, SeedBatch) else unit.cell.seed
        for unit in units
    ]


def test_seeds_that_follow_each_other_are_one_unit(tmp_path: Path) -> None:
    yes, no = (lambda _: True), (lambda _: False)
    assert shape(grouped(runs(tmp_path, range(5)), yes, 1)) == [[0, 1, 2, 3, 4]]
    assert shape(grouped(runs(tmp_path, range(5)), yes, 2)) == [[0, 1], [2, 3, 4]]
    assert shape(grouped(runs(tmp_path, range(3)), yes, 16)) == [[0, 1, 2]]
    assert shape(grouped(runs(tmp_path, [0, 1, 5, 7, 8, 9]), yes, 1)) == [[0, 1], 5, [7, 8, 9]]
    assert shape(grouped(runs(tmp_path, range(3)), no, 1)) == [0, 1, 2]
    both = [*runs(tmp_path, range(4)), *runs(tmp_path, range(4), "sgd")]
    assert shape(grouped(both, yes, 2)) == [[0, 1, 2, 3], [0, 1, 2, 3]]


def test_runs_that_have_begun_go_on_as_they_began(tmp_path: Path) -> None:
    all_runs = runs(tmp_path, range(6))
    (tmp_path / "runs" / all_runs[1].cell.name).mkdir(parents=True)
    batch = tmp_path / "runs" / f"{all_runs[0].cell.base}.seeds-3-4"
    for seed in (3, 4):
        (batch / f"seed-{seed}").mkdir(parents=True)
    assert all_runs[3].folder == batch / "seed-3"
    assert all_runs[3].log.name == f"{batch.name}.log"
    units = grouped(all_runs, lambda _: True, 1)
    assert sorted(map(str, shape(units))) == sorted(map(str, [0, 1, 2, [3, 4], 5]))
    # One of them gave up: the other goes on by itself.
    (batch / "seed-4" / "summary.json").write_text(json.dumps({"status": "failed"}))
    assert [3, 4] not in shape(grouped(all_runs, lambda _: True, 1))


def test_what_has_no_stacked_form_is_known_beforehand() -> None:
    flags = ["--steps", "100"]
    assert can_learn_as_one(Cell("a2c", "adam", "CartPole-v1", 0), flags)
    assert not can_learn_as_one(Cell("a2c", "adam", "semigradient/Glimpse-v0", 0), flags)
    assert not can_learn_as_one(
        Cell("a2c", "adam", "CartPole-v1", 0), [*flags, "--diagnose", "drift"]
    )
    assert not can_learn_as_one(Cell("soft-q", "adam", "CartPole-v1", 0), flags)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands of jobs are called in this process; their words."""
    called: list[list[str]] = []

    def run(jobs: Iterable[CommandJob], _engine: Engine) -> Iterator[Result]:
        for job in jobs:
            code = 0
            for _python, script, *words in job.commands():
                called.append([Path(script).stem, *words])
                code = (train if script.endswith("train.py") else evaluate)(list(words))
                if code:
                    break
            yield Result(job.name, code, 0.0, "failed" if code else "")

    monkeypatch.setattr(compare, "run_all", run)
    return called


def compared(out: Path, *words: str, steps: int = 128) -> int:
    grid = "--agent a2c --optim adam --env CartPole-v1 --episodes 2 --jobs 1"
    given = [*grid.split(), "--steps", str(steps), "--out", str(out), *words]
    return compare.main([*given, "--", *FLAGS.split()])


def scored(out: Path) -> list[int]:
    """The seeds that have a score."""
    with (out / "results.csv").open(newline="") as file:
        return [int(row["seed"]) for row in csv.DictReader(file) if row["mean"]]


def test_a_comparison_trains_seeds_as_one_and_more_of_them_later(
    tmp_path: Path, here: list[list[str]]
) -> None:
    assert compared(tmp_path, "--seeds", "2") == 0
    trained = [words for words in here if words[0] == "train"]
    assert len(trained) == 1
    assert trained[0][trained[0].index("--seeds") + 1] == "2"
    assert compared(tmp_path, "--seeds", "5") == 0
    assert len([words for words in here if words[0] == "train"]) == 2
    assert scored(tmp_path) == [0, 1, 2, 3, 4]
    assert len(list((tmp_path / "runs").glob("*.seeds-*/seed-*/evaluation.json"))) == 5
    here.clear()
    assert compared(tmp_path, "--seeds", "5") == 0
    assert here == []


def test_separate_runs_are_a_process_each(tmp_path: Path, here: list[list[str]]) -> None:
    assert compared(tmp_path, "--seeds", "2", "--separate") == 0
    assert [words[0] for words in here] == ["train", "evaluate"] * 2
    assert not any("--seeds" in words for words in here)


def test_a_seed_that_fails_leaves_the_scores_of_the_others(
    tmp_path: Path, here: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    iterate, count = Stack.iterate, 0

    def spoiled(stack: Stack) -> Any:
        nonlocal count
        count += 1
        if count == 3:
            with torch.no_grad():
                stack.members[1].network.critic[0].weight.fill_(torch.nan)
        return iterate(stack)

    monkeypatch.setattr(Stack, "iterate", spoiled)
    assert compared(tmp_path, "--seeds", "3") == 1
    assert scored(tmp_path) == [0, 2]
    assert "not a finite number" in (tmp_path / "report.md").read_text()
