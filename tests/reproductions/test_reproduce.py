"""`reproduce.py`: the command, its files, resuming, and the statistics behind its rows."""

from __future__ import annotations

import dataclasses
import json
import sys
import types

import mpmath
import numpy as np
import pytest

from semigradient import reproduce, reproductions
from semigradient.experiments.statistics import welch
from semigradient.registry import Entry
from semigradient.reproductions.report import Job, Report, Row, prepare
from semigradient.reproductions.td import polynomial, pooled


def row(agrees=True, measured=1.0):
    return Row("loss", "about 1", "figure 1", measured, 0.5, 1.5, "within 0.5", agrees)


@pytest.fixture
def fake(monkeypatch):
    """A reproduction that takes no time; `answer` decides what its only row says."""
    module = types.ModuleType("a_fake_reproduction")
    module.TITLE, module.SEEDS, module.agrees, module.runs = "A title", {"quick": 3}, True, 0

    def work():
        module.runs += 1
        return {"values": np.arange(3.0)}

    def answer(job):
        found = job.cell("part", ("settings", 1), work)["values"]
        assert found.tolist() == [0, 1, 2]
        return Report([row(module.agrees)], lambda figure: figure.subplots().plot(found))

    module.reproduce = answer
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(reproductions.REPRODUCTIONS.entries, "fake", Entry(module.__name__))
    return module


def command(tmp_path, *flags):
    return reproduce.main(["fake", "--out", str(tmp_path / "out"), *flags])


def test_result_and_figure_are_written(fake, tmp_path, capsys):
    assert command(tmp_path, "--check") == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["rows"] == [
        {
            "quantity": "loss",
            "published": "about 1",
            "source": "figure 1",
            "measured": 1.0,
            "low": 0.5,
            "high": 1.5,
            "tolerance": "within 0.5",
            "agrees": True,
            "required": True,
        }
    ]
    assert (result["scale"], result["seeds"], result["agrees"]) == ("quick", 3, True)
    assert result["seconds"] >= 0
    assert {"torch", "numpy"} <= set(result["versions"])
    assert (tmp_path / "out" / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert "1 of 1 agree" in capsys.readouterr().out


def test_check_fails_where_a_row_disagrees(fake, tmp_path, capsys):
    fake.agrees = False
    assert command(tmp_path) == 0
    assert command(tmp_path, "--check") == 1
    assert "DISAGREES" in capsys.readouterr().out


def test_check_does_not_ask_for_rows_that_are_only_shown(fake, tmp_path, monkeypatch, capsys):
    shown = dataclasses.replace(row(), agrees=False, required=False)
    answer = Report([row(), shown], lambda figure: None)
    monkeypatch.setattr(fake, "reproduce", lambda job: answer)
    assert command(tmp_path, "--check") == 0
    out = capsys.readouterr().out
    assert "disagrees  loss" in out
    assert "1 of 2 agree" in out
    assert "required: 1 of 1" in out
    assert json.loads((tmp_path / "out" / "result.json").read_text())["agrees"] is True


def test_finished_parts_are_not_done_again(fake, tmp_path):
    command(tmp_path)
    command(tmp_path)
    assert fake.runs == 1
    command(tmp_path, "--seeds", "4")
    assert fake.runs == 2


def test_a_damaged_part_is_done_again(fake, tmp_path):
    command(tmp_path)
    (part,) = (tmp_path / "out" / "cells").iterdir()
    whole = part.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2]):
        part.write_bytes(damaged)
        command(tmp_path)
    assert fake.runs == 3


def test_an_interrupted_run_keeps_what_is_finished(fake, tmp_path, monkeypatch, capsys):
    finished, interrupted = [], True

    def answer(job):
        for name in ("first", "second"):
            if name == "second" and interrupted:
                raise KeyboardInterrupt
            job.cell(name, name, lambda name=name: finished.append(name) or {"x": np.zeros(1)})
        return Report([row()], lambda figure: None)

    monkeypatch.setattr(fake, "reproduce", answer)
    assert command(tmp_path) == reproduce.INTERRUPTED
    assert "repeat the command to continue" in capsys.readouterr().err
    interrupted = False
    assert command(tmp_path) == 0
    assert finished == ["first", "second"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mountain-cra-iid"], "did you mean mountain-car-iid"),
        (["polynomial", "--scale", "huge"], "known: full, quick"),
        (["polynomial", "--seeds", "1"], "--seeds 1: must be at least 2"),
        (["polynomial", "--threads", "0"], "--threads 0: must be at least 1"),
        (["polynomial", "--seeds", "x"], "invalid int value"),
        (["polynomial", "--out", "/proc/nowhere"], "accepted is any folder"),
        ([], "required: NAME"),
    ],
)
def test_bad_input_is_one_line(arguments, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        reproduce.main(arguments)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("reproduce.py: error: ")
    assert words in line


def test_every_name_is_listed_and_has_both_scales(capsys):
    assert reproduce.main(["list"]) == 0
    listed = capsys.readouterr().out
    for name in reproductions.names():
        found = reproductions.get(name)
        assert name in listed
        assert set(found.seeds) == set(reproductions.SCALES)
        assert all(count >= 2 for count in found.seeds.values())


def test_numbers_that_json_lacks_become_text(fake, tmp_path):
    fake.reproduce = lambda job: Report([row(False, np.inf)], lambda figure: None)
    command(tmp_path)
    text = (tmp_path / "out" / "result.json").read_text()
    assert json.loads(text)["rows"][0]["measured"] == "inf"


# --- rows -----------------------------------------------------------------------------------------


def test_rows_for_lower_different_and_alike():
    rng = np.random.default_rng(0)
    common = rng.normal(size=40)
    low, high = common + 0.01 * rng.normal(size=40), common + 0.1
    for full in (False, True):
        # The shift is far smaller than the spread between runs: pairs show it, Welch does not.
        assert pooled.lower("q", "s", low, high, full).agrees == (not full)
        assert not pooled.lower("q", "s", high, low, full).agrees
        assert pooled.lower("q", "s", low, high + 5, full).agrees
        assert pooled.different("q", "s", high + 5, low, full).agrees
        assert not pooled.different("q", "s", low, low, full).agrees
    assert pooled.alike("q", "s", low, high).agrees
    assert not pooled.alike("q", "s", low, high + 5).agrees


def test_runs_that_diverged_count_as_the_worst():
    found = pooled.bounded([0.5, np.inf, np.nan, 9.0], 2.0)
    assert found.tolist() == [0.5, 2.0, 2.0, 2.0]


# --- Welch's t-test -------------------------------------------------------------------------------


def reference(x, y):
    """p of Welch's test with the distribution function in arbitrary precision."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    u, v = x.var(ddof=1) / len(x), y.var(ddof=1) / len(y)
    t = (x.mean() - y.mean()) / np.sqrt(u + v)
    nu = (u + v) ** 2 / (u**2 / (len(x) - 1) + v**2 / (len(y) - 1))
    return float(mpmath.betainc(nu / 2, 0.5, 0, nu / (nu + t**2), regularized=True))


@pytest.mark.parametrize(("n", "m", "shift"), [(2, 2, 0.1), (3, 40, 1), (60, 60, 0.3), (9, 5, 30)])
def test_welch_equals_arbitrary_precision(n, m, shift):
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=n), shift + 3 * rng.normal(size=m)
    found = welch(x, y)
    assert found.p == pytest.approx(reference(x, y), rel=1e-10, abs=1e-12)
    assert found.difference == pytest.approx(x.mean() - y.mean())
    assert (found.low < 0 < found.high) == (found.p > 0.05)
    # At the end of the interval the test is just significant.
    assert reference(x - found.low, y) == pytest.approx(0.05, rel=1e-9)


def test_welch_of_a_known_example():
    """Equal variances and sizes: Student's test; t = -1, 8 degrees of freedom."""
    found = welch([1, 2, 3, 4, 5], [2, 3, 4, 5, 6])
    assert found.p == pytest.approx(0.34659350708733416, rel=1e-12)


def test_welch_without_spread_or_with_too_little_data():
    assert welch([1, 1], [1, 1]).p == 1
    assert welch([1, 1], [2, 2]).p == 0
    with pytest.raises(ValueError, match="at least two scores per sample"):
        welch([1], [1, 2])
    with pytest.raises(ValueError, match="NaN"):
        welch([1, np.nan], [1, 2])


# --- figure 3.1 -----------------------------------------------------------------------------------


def test_polynomials_fit_and_differ_off_the_data_only():
    x, y = polynomial.POINTS.T
    rng = np.random.default_rng(0)
    smooth, wild = polynomial.minimum_norm(100), polynomial.random_fit(100, rng)
    for fit in (smooth, wild):
        np.testing.assert_allclose(polynomial.features(x, 100) @ fit, y, atol=1e-10)
    assert np.linalg.norm(smooth) < np.linalg.norm(wild)
    # The random part is orthogonal to the rows of the data.
    np.testing.assert_allclose((wild - smooth) @ smooth, 0, atol=1e-10)
    assert np.mean(polynomial.features(np.linspace(-1, 1, 20001), 7) ** 2, axis=0) == pytest.approx(
        np.ones(8), rel=2e-3
    )


def test_preparing_keeps_what_is_there(tmp_path):
    prepare(tmp_path)
    (tmp_path / "cells" / "x").write_text("kept")
    prepare(tmp_path)
    assert (tmp_path / "cells" / "x").read_text() == "kept"
    assert Job("full", 2, tmp_path).full
