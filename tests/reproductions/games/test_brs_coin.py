"""The league of the coin game: a tiny pass, and figures that decide its claims."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from semigradient.reproductions import report
from semigradient.reproductions.games import brs_coin
from semigradient.reproductions.report import Job

# Per step: against the best response, AC, AD, itself; the agent's return, its opponent's.
PUBLISHED = {
    "BRS-SP": [[0.30, 0.345], [0.34, 0.33], [-0.11, 0.22], [0.335, 0.335]],
    "BRS": [[0.25, 0.06], [0.50, -0.01], [-0.03, 0.04], [0.005, 0.005]],
    "BRS-SP without memory": [[0.11, 0.36], [0.34, 0.35], [-0.07, 0.16], [0.34, 0.34]],
}


def returns(table: dict[str, list[list[float]]]) -> dict[str, np.ndarray]:
    return {name: np.array([rows, rows]) for name, rows in table.items()}


def test_published_figures_agree() -> None:
    rows = brs_coin.claims(returns(PUBLISHED))
    assert [row.quantity for row in rows if not row.agrees] == []


@pytest.mark.parametrize("variant", PUBLISHED)
def test_an_agent_that_always_cooperates_disagrees(variant: str) -> None:
    exploited = [[-0.26, 0.64], [0.35, 0.35], [-0.27, 0.64], [0.2, 0.2]]
    rows = brs_coin.claims(returns({**PUBLISHED, variant: exploited}))
    assert sum(not row.agrees for row in rows if row.quantity.startswith(f"{variant}:")) >= 1


def test_the_whole_at_a_tiny_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brs_coin, "HORIZON", 3)
    train = brs_coin.train
    monkeypatch.setattr(
        brs_coin, "train", lambda agent, options, _, seeds: train(agent, options, 1, seeds)
    )
    report.prepare(tmp_path)
    job = Job("quick", 1, tmp_path, say=lambda text: None)
    found = brs_coin.reproduce(job)
    assert len(found.rows) == 16
    report.write(found, job, "brs-coin", brs_coin.TITLE)
    assert (tmp_path / "figure.png").stat().st_size > 10_000
