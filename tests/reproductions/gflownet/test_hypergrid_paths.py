"""Shares of paths and losses of figures 5.3 and 5.4."""

from __future__ import annotations

from math import comb
from pathlib import Path

import pytest
import torch

from semigradient.envs.constructions.construction import tabulate
from semigradient.envs.constructions.hypergrid import HyperGridOptions
from semigradient.reproductions.gflownet import hypergrid_paths
from semigradient.reproductions.gflownet.hypergrid_paths import UNIFORM, visits_on_the_way
from semigradient.reproductions.report import Job
from support.flow_tables import random_graph, sample


def test_paths_all_alike_are_counted_by_binomials() -> None:
    table = tabulate(HyperGridOptions(2, 8).rules())
    found = visits_on_the_way(table, torch.ones(table.size, table.actions), 6 + 8 * 6)
    for i in range(7):
        for j in range(7):
            share = comb(i + j, i) * comb(12 - i - j, 6 - i) / comb(12, 6)
            assert float(found[i + 8 * j]) == pytest.approx(share)
    shares = [float(found[3 + 8 * j]) for j in UNIFORM]
    assert shares == pytest.approx(list(UNIFORM.values()), abs=5e-5)


def test_visits_on_the_way_are_frequencies_of_constructions() -> None:
    table = random_graph(3)
    goal = int(sample(table, 4000).objects.mode().values)
    legal = table.legal(torch.arange(table.size)).double()
    found = visits_on_the_way(table, legal / legal.sum(1, keepdim=True).clamp(min=1), goal)
    paths = sample(table, 40_000, seed=1)
    arrived = paths.state[:, paths.objects == goal]
    for state in range(table.size):
        share = float((arrived == state).any(0).float().mean())
        assert share == pytest.approx(float(found[state]), abs=0.02)


def test_rows_say_paths_and_both_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Short(hypergrid_paths.FlowRun):
        """The same settings on a few edges."""

        def __init__(self, *fields: object) -> None:
            super().__init__(*fields[:3], 2000)  # type: ignore[arg-type]

    monkeypatch.setattr(hypergrid_paths, "FlowRun", Short)
    (tmp_path / "cells").mkdir()
    rows = hypergrid_paths.rows(Job("quick", 1, tmp_path, say=lambda _: None))
    names = [row.quantity for row in rows]
    assert (
        sum("all alike: gap" in name and row.agrees for name, row in zip(names, rows, strict=True))
        == 4
    )
    assert {"leaf loss, R0 = 0.001", "inner loss, R0 = 0.1"} <= set(names)
    assert all(
        row.measured > 0
        for row in rows
        if "loss, R0" in row.quantity and "minus" not in row.quantity
    )
