"""What `coconet-orderings` says of given measurements, and the whole of it at a tiny scale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semigradient import reproduce
from semigradient.reproductions.music import coconet_bench, coconet_orderings
from semigradient.reproductions.music.coconet_bench import CoconetPlan
from semigradient.reproductions.report import Job, Row

TINY = CoconetPlan(
    grid=4,
    steps=8,
    flags=("--steps", "96", "--channels", "6", "--layers", "4", "--statistics-passes", "1"),
    pieces=3,
    length=8,
    sweeps=5,
    runs=3,
    rates=(0.0, 0.5),
    recurrent=(50, 8),
)
RNG = np.random.default_rng(0)


def around(mean: float, count: int) -> np.ndarray:
    return mean + 0.1 * RNG.standard_normal(count)


def first(random: float, chronological: float) -> dict[str, np.ndarray]:
    names = ("random, argmax", "random, truth", "recurrent, truth", "unigram")
    values = {name: around(9, 10) for name in names}
    values |= {"random": around(random, 10), "chronological": around(chronological, 10)}
    values |= {"random, one": values["random"] + 1, "chronological, one": around(9, 10)}
    return values | {"recurrent": around(5, 10), "bigram": around(8.5, 10)}


def second(independent: float, middle: float, nade: float) -> dict[str, np.ndarray]:
    return {
        "independent": around(independent, 12),
        "0.5": around(middle, 12),
        "0.0": around(nade, 12),
    }


def verdicts(rows: list[Row]) -> dict[str, bool]:
    return {row.quantity: row.agrees for row in rows if row.required}


def test_published_orderings_agree_and_reversed_ones_do_not() -> None:
    good = coconet_orderings._rows_1(TINY, [first(5.0, 7.8)], [1.5], full=True)
    assert all(verdicts(good).values())
    bad = verdicts(coconet_orderings._rows_1(TINY, [first(8.9, 7.8)], [2.3], full=True))
    assert not bad["quarters: random orders, nats per frame below chronological order"]
    assert not bad["quarters: random orders, nats per frame below bigram"]
    assert not bad["quarters: loss per hidden note on the validation split"]
    assert bad["quarters: recurrent network, nats per frame below chronological order"]
    good = coconet_orderings._rows_2(TINY, [second(0.5, 0.74, 1.09)])
    assert all(verdicts(good).values())
    bad = verdicts(coconet_orderings._rows_2(TINY, [second(1.2, 0.74, 1.09)]))
    assert list(bad.values()) == [False, True, False]


def test_finer_grids_are_asked_to_be_easier() -> None:
    measured = {4: [first(5, 7.8)], 2: [first(1.8, 4.2)], 1: [first(0.6, 2.2)]}
    assert all(verdicts(coconet_orderings._finer(measured)).values())
    measured[1] = [first(2, 2.2)]
    finer = verdicts(coconet_orderings._finer(measured))
    assert not finer["sixteenths, random, nats per frame below eighths"]


def test_full_plans_are_the_published_ones() -> None:
    assert [plan.grid * plan.steps for plan in coconet_orderings.FULL] == [128] * 3
    last = coconet_orderings.FULL[-1]
    assert (last.length, last.sweeps, last.runs) == (32, 100, 100)
    config = coconet_bench._agent(last, 0).config
    assert (config.channels, config.layers, config.batch_size) == (128, 64, 20)
    assert coconet_bench.places(50) == [0, 1, 4, 16, 50]


def test_the_whole_at_a_tiny_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(coconet_orderings, "QUICK", (TINY,))
    arguments = ["coconet-orderings", "--out", str(tmp_path)]
    assert reproduce.main(arguments) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    rows: dict[str, Any] = {row["quantity"]: row for row in result["rows"]}
    assert rows["parameters at the published size"]["agrees"]
    assert rows["quarters: the ensemble of 5, nats per frame below its members"]["agrees"]
    assert rows["quarters: unigram, NLL"]["measured"] == pytest.approx(10.5, abs=1.5)
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    capsys.readouterr()

    def never(self: Job, *_: Any) -> None:
        raise AssertionError("everything was finished")

    monkeypatch.setattr(coconet_bench, "_fit_recurrent", never)
    monkeypatch.setattr(coconet_bench, "framewise", never)
    assert reproduce.main(arguments) == 0
    again = json.loads((tmp_path / "result.json").read_text())
    assert again["rows"] == result["rows"]
