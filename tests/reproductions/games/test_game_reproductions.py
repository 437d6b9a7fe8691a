"""The tables and basins of learning rules, end to end at a scale of seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from semigradient import reproductions
from semigradient.agents.games.meva import MeVa
from semigradient.domains.games import head_to_head
from semigradient.domains.games.rules import rule
from semigradient.reproductions import report
from semigradient.reproductions.games import (
    logistic_basins,
    logistic_paths,
    meva_ablation,
    meva_chicken,
    meva_imp,
    meva_ipd,
    meva_tables,
    meva_zd,
)
from semigradient.reproductions.report import Job
from semigradient.training.build import build
from semigradient.training.cli import parse


def job(path: Path, seeds: int = 2) -> Job:
    report.prepare(path)
    return Job("quick", seeds, path, say=lambda text: None)


@pytest.mark.parametrize(("name", "alpha", "white"), [("naive", 0.0, 427), ("lola", 1.0, 445)])
def test_basins_of_exact_rules(tmp_path: Path, name: str, alpha: float, white: int) -> None:
    cells, tie = logistic_basins.exact(job(tmp_path), name, alpha)
    row = logistic_basins._count_row(name, alpha, white, cells, tie)
    assert tie.sum() == 29
    assert row.agrees
    if name == "naive":
        assert row.low == 406  # everything above the anti-diagonal and nothing below it
    else:
        assert row.measured == white
    wrong = logistic_basins._count_row(name, alpha, int(row.low) - 1, cells, tie)
    assert not wrong.agrees


def test_a_diverged_pair_is_black() -> None:
    start = torch.tensor([[[1.0], [1.0]], [[2.0], [2.0]]])
    nowhere = torch.tensor([0.0, torch.nan])[:, None, None]
    assert logistic_basins.follow(lambda x: x * nowhere, start).tolist() == [True, False]


def test_claims_about_shares() -> None:
    shares = np.array([[0.5, 0.5], [0.6, 0.5], [0.7, 0.7], [0.9, 0.8], [1.0, 0.99], [1.0, 1.0]])
    rows = logistic_basins._share_rows(shares)
    assert all(row.agrees for row in rows)
    shares[4, 1] = 0.98
    assert [row.agrees for row in logistic_basins._share_rows(shares)].count(False) == 1
    shares[3] = 0.2
    assert not logistic_basins._share_rows(shares)[0].agrees


def test_claims_about_paths() -> None:
    naive = logistic_basins.exact_paths("naive", 0.0)
    assert naive.shape == (logistic_basins.UPDATES + 1, 17, 2)
    across = np.linspace(-5.03, 5.03, 50)[:, None, None, None] * np.ones((1, 2, 17, 2))
    assert all(row.agrees for row in logistic_paths.rows(naive, across))
    stays, jumps = across[:1].repeat(9, 0), across[[0, -1]]
    agree = [[row.agrees for row in logistic_paths.rows(naive, x)] for x in (stays, jumps)]
    assert agree == [[True, False, False], [True, True, False]]
    assert not logistic_paths.rows(across[:, 0], across)[0].agrees


def test_basins_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic_basins, "WHITE", {("naive", 0.0): 427})
    monkeypatch.setattr(logistic_basins, "UPDATES", 2)
    monkeypatch.setattr(logistic_basins, "_MEVA_LOOPS", {"quick": 1})
    monkeypatch.setattr(logistic_basins, "_COLA_STEPS", {"quick": 2})
    small = ["--width", "8", "--batch-size", "2"]
    monkeypatch.setattr(logistic_basins, "_QUICK_MEVA", small)
    monkeypatch.setattr(logistic_basins, "_QUICK_COLA", small)
    answer = logistic_basins.reproduce(job(tmp_path))
    assert len(answer.rows) == 1 + 1 + len(logistic_basins.GAMMAS) + 2 + 3
    report.write(answer, job(tmp_path), "logistic-basins", logistic_basins.TITLE)
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_tables_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meva_tables, "UPDATES", 3)
    monkeypatch.setattr(meva_tables, "PAIRS", {"quick": 8})
    monkeypatch.setattr(meva_tables, "MODEL_PAIRS", {"quick": 4})
    small = ["--width", "8", "--quantiles", "3", "--batch-size", "4", "--trajectory", "10"]
    monkeypatch.setattr(meva_tables, "QUICK", small)
    table = replace(meva_imp.TABLE, loops={"naive": 2, "self": 1, "lola": 1})
    work = job(tmp_path)
    answer = meva_tables.reproduce(work, table)
    assert [row.quantity for row in answer.rows] == [
        *("naive against naive", "naive against lola", "lola against naive"),
        *("lola against lola", "meva against naive", "naive against meva"),
        *("meva against meva", "meva against lola", "lola against meva"),
    ]
    by_name = {row.quantity: row.measured for row in answer.rows}
    for pair in ("naive against lola", "meva against naive", "meva against lola"):
        first, second = pair.split(" against ")
        # A zero-sum game: what one gains the other loses.
        assert abs(by_name[pair] + by_name[f"{second} against {first}"]) < 1e-6
    report.write(answer, work, "meva-imp", meva_imp.TITLE)
    again = meva_tables.learned(job(tmp_path), table, "naive")
    assert again["course"].shape == (2, 2)
    assert again["returns"].shape == (2, 2)


def test_published_cells() -> None:
    for module in (meva_ipd, meva_imp, meva_chicken):
        cells = module.TABLE.cells
        names = ("naive", "lola", "meva")
        assert set(cells) == {(a, b) for a in names for b in names}
    assert {"meva-ipd", "meva-imp", "meva-chicken", "logistic-basins"} <= set(reproductions.names())


def test_head_to_head_from_the_same_starts() -> None:
    game = meva_tables.build(meva_tables._command(meva_ipd.TABLE, "naive", 1)).game  # type: ignore[attr-defined]
    naive, lola = (head_to_head.follower(rule(name, 25.0), 25.0) for name in ("naive", "lola"))
    before = head_to_head.returns(game, (naive, lola), 2000, updates=0)
    torch.testing.assert_close(before, head_to_head.returns(game, (lola, lola), 2000, 0))
    assert before.shape == (2000, 2)
    players = {"naive": naive, "lola": lola}
    found = head_to_head.table(game, players, pairs=64, updates=20)
    after = head_to_head.returns(game, (naive, lola), 64, updates=20).mean(0).tolist()
    assert [found["naive", "lola"], found["lola", "naive"]] == after


def test_the_ablation_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ["--width", "8", "--blocks", "0", "--quantiles", "3", "--batch-size", "4"]
    monkeypatch.setattr(meva_ablation, "QUICK", [*small, "--trajectory", "10"])
    monkeypatch.setattr(meva_ablation, "_LOOPS", {"quick": 2})
    monkeypatch.setattr(meva_ablation, "EVERY", 1)
    monkeypatch.setattr(meva_ablation, "PAIRS", 3)
    monkeypatch.setattr(meva_ablation, "UPDATES", 20)
    work = job(tmp_path)
    answer = meva_ablation.reproduce(work)
    assert len(answer.rows) == 6
    report.write(answer, work, "meva-ablation", meva_ablation.TITLE)
    assert (tmp_path / "figure.png").stat().st_size > 10_000


@pytest.mark.parametrize("form", ["u", "v"])
def test_errors_of_a_value_are_those_of_its_equation(form: str) -> None:
    words = ["--agent", "meva", "--env", "semigradient/IPD-v0", "--models", "2", "--width", "8"]
    agent = build(parse([*words, "--quantiles", "3", "--formulation", form]).command)
    assert isinstance(agent, MeVa)
    path = [agent.game.draw(6, torch.Generator().manual_seed(0)).view(2, 3, 2, 5)]
    for _ in range(20):
        path.append(agent.learn_policies(path[-1], 1))
    short, long = meva_ablation.value_errors(agent, torch.stack(path))

    def value(x: torch.Tensor) -> torch.Tensor:
        gamma = torch.full(x.shape[:3], 0.95)
        return agent.target(agent.game.features(x).float(), gamma).detach().mean(-1)

    total = 0.95**20 * value(path[20]) - value(path[0])
    for t in range(20):
        total = total + 0.05 * 0.95**t * agent.game.value(path[t + (form == "u")])
    np.testing.assert_allclose(long, total.square().mean((1, 2)).sqrt(), rtol=1e-5)
    steps = [
        0.95**10 * value(path[k + 10])
        - value(path[k])
        + sum(0.05 * 0.95**t * agent.game.value(path[k + t + (form == "u")]) for t in range(10))
        for k in (0, 10)
    ]
    expected = torch.stack(steps).square().mean((0, 2, 3)).sqrt()
    np.testing.assert_allclose(short, expected, rtol=1e-5)


def courses(end: float, at: int, error: float) -> dict[str, np.ndarray]:
    grown = np.where(np.arange(1, 13)[:, None] * 10 >= at, end, -1.9) + np.zeros((12, 3))
    loops = np.arange(1, 13) * 10.0
    return {"return": grown, "long": np.full((12, 3), error), "loops": loops}


def test_claims_of_the_ablation() -> None:
    found = {name: courses(-1.05, 50, 0.1) for name in meva_ablation.VARIANTS}
    found["default"] = courses(-1.0, 100, 0.1)
    found["V instead of U"] = courses(-1.7, 100, 0.5)
    assert all(row.agrees for row in meva_ablation.rows(found))
    found["no λ-returns"] = courses(-1.7, 100, 0.1)  # which never gets there
    assert [row.agrees for row in meva_ablation.rows(found)] == [True] * 5 + [False]
    assert meva_ablation.learned_at(found["no λ-returns"]).tolist() == [130.0] * 3


def test_the_edge_of_what_a_policy_allows() -> None:
    inverse, offset = meva_zd.edge(meva_zd.exact_cloud())
    assert inverse == pytest.approx(1 / 3)
    assert offset + inverse * -2 == pytest.approx(-2)
    # Of always-defect: nobody gets more than −2 against it, whatever it earns.
    game = meva_tables.build(meva_tables._command(meva_ipd.TABLE, "naive", 1)).game  # type: ignore[attr-defined]
    defects = torch.full((5,), -40.0, dtype=torch.float64)
    cloud = meva_zd.clouds(game, defects, torch.Generator().manual_seed(0)).numpy()
    inverse, _ = meva_zd.edge(cloud)
    assert inverse == pytest.approx(-0.5)  # (0, −3) to (−2, −2)


def test_extortion_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meva_tables, "UPDATES", 3)
    monkeypatch.setattr(meva_tables, "MODEL_PAIRS", {"quick": 4})
    small = ["--width", "8", "--quantiles", "3", "--batch-size", "4", "--trajectory", "10"]
    monkeypatch.setattr(meva_tables, "QUICK", small)
    table = replace(meva_ipd.TABLE, loops={"naive": 2})
    monkeypatch.setattr(meva_ipd, "TABLE", table)
    monkeypatch.setattr(meva_zd, "PAIRS", 2)
    work = job(tmp_path)
    answer = meva_zd.reproduce(work)
    assert answer.rows[0].agrees
    report.write(answer, work, "meva-zd", meva_zd.TITLE)
    # The policies of the figure are those of the trained models.
    agent = build(meva_tables.command(work, table, "naive"))
    trained = meva_tables.learned(work, table, "naive")
    assert isinstance(agent, MeVa)
    found = meva_zd.measure(work)
    for name, value in trained.items():
        if name.startswith("parameter/"):
            agent.target.state_dict()[name.removeprefix("parameter/")].copy_(
                torch.from_numpy(value)
            )
    x = meva_zd.courses(agent)
    np.testing.assert_allclose(found["returns"], agent.game.value(x))
    assert x.shape == (6, 2, 2, 2, 5)
