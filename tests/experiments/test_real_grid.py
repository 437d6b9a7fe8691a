"""A comparison with a grid as a person types it: real training and evaluation, minutes."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from semigradient import compare

COMMAND = (
    "--agent ppo --optim adam:lr=1e-4,1e-3,1e-2 sgd:lr=1e-2,1e-1,1 --env CartPole-v1 --steps 16384 "
    "--tune-seeds 1 --seeds 3 --episodes 20 --jobs 1"
)
FLAGS = "--eval-every 2048 --eval-episodes 5 --checkpoint-every 0 --no-tensorboard"


@pytest.mark.slow
def test_two_optimizers_with_three_rates_each_on_cartpole(tmp_path: Path) -> None:
    out = tmp_path / "cartpole"
    words = [*COMMAND.split(), "--out", str(out), "--", *FLAGS.split()]
    assert compare.main(words) == 0
    report = (out / "report.md").read_text()
    assert report.count("**chosen**") == 2
    assert "all scores are of other seeds: 0 to 2." in report
    with (out / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows].count("adam:lr=*") == 3
    assert len(rows) == 6
    scores = [float(row["mean"]) for row in rows if row["method"] == "adam:lr=*"]
    assert min(scores) > 60, "a random policy gets about 22"
    assert (out / "curves.png").exists()
    assert (out / "profile.png").exists()
