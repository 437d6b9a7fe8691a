"""Toy molecules: flow matching, detailed and trajectory balance against the exact distribution.

Two vocabularies of a few blocks have 24 and 80 molecules; the reward is QED. Flows are exact only
when every action that leads to a molecule counts as one of its parents: with each parent counted
once, flow matching has a zero of its loss that samples another distribution.

Source: Bengio et al. 2021 (the construction); the toys and their numbers are this project's, by
enumeration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from semigradient.envs.constructions.construction import Table, tabulate
from semigradient.envs.molecules.toy import ToyMolecules, ToyMoleculesOptions
from semigradient.experiments.curves import COLOURS
from semigradient.reproductions.gflownet.flow_runs import (
    Array,
    FlowRun,
    curves,
    draw_curves,
    exact_row,
    final,
    log_partition,
    relative,
    tabular_flow_matching,
    worst_row,
)
from semigradient.reproductions.report import Job, Report, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Exact toy molecules: total variation and log Z of three losses, parents counted or not"
SEEDS = {"quick": 3, "full": 10}
TOYS = {"chains": (24, 9.415384), "rings": (80, 41.521225)}
LOSSES = ("fm", "db", "tb")
_CLAIM = ("≤ 0.02", "acceptance limit")


def toy(vocabulary: str, loss: str, edges: int, *flags: str) -> FlowRun:
    """A run on one of the toys."""
    common = (
        "--loss",
        loss,
        "--batch-size",
        "64",
        "--hidden",
        "128",
        "128",
        "--schedule",
        "linear",
    )
    return FlowRun(
        "semigradient/ToyMolecules-v0",
        (f"vocabulary={vocabulary}",),
        (*common, "--optim.lr", "3e-3", *flags),
        edges,
    )


def reproduce(job: Job) -> Report:
    """Train the losses on both toys, and tabular flow matching with and without multiplicities."""
    edges = 400_000 if job.full else 100_000
    rows: list[Row] = []
    trained = {}
    for vocabulary, (_, z) in TOYS.items():
        runs = {loss: toy(vocabulary, loss, edges) for loss in LOSSES}
        log_z = log_partition(runs["fm"])
        claim = (f"Z = {z}", "enumeration")
        rows.append(
            exact_row(f"{vocabulary}: |Z - published|", claim, abs(float(np.exp(log_z)) - z), 5e-6)
        )
        for loss, run in runs.items():
            name = f"{vocabulary} {loss}"
            trained[name] = curves(job, name.replace(" ", "-"), run)
            rows.append(worst_row(f"{name}: TV", _CLAIM, {name: final(trained[name], "tv")}, 0.02))
            error = {name: relative(trained[name], log_z)}
            rows.append(worst_row(f"{name}: |log Z error|", ("≤ 1 %", _CLAIM[1]), error, 0.01))
        rows += _blind(job, vocabulary)

    def draw(figure: Figure) -> None:
        for axes, vocabulary in zip(figure.subplots(1, 2, sharey=True), TOYS, strict=True):
            chosen = {loss: trained[f"{vocabulary} {loss}"] for loss in LOSSES}
            draw_curves(axes, chosen, "steps", "tv", COLOURS)
            axes.axhline(0.02, color="grey", linewidth=0.8)
            axes.set(title=vocabulary, xlabel="edges constructed", yscale="log")
            axes.legend()
        figure.axes[0].set_ylabel("exact total variation")

    return Report(rows, draw)


def _blind(job: Job, vocabulary: str) -> list[Row]:
    """The minimum of flow matching with each parent counted once, at β = 4."""
    building = ToyMoleculesOptions(vocabulary).make()
    assert isinstance(building.rules, ToyMolecules)
    rules, rows = building.rules, []
    for counted in (True, False):
        table = tabulate(rules, counted)

        def work(table: Table = table) -> dict[str, Array]:
            minima = [tabular_flow_matching(table, 4.0, seed) for seed in range(job.seeds)]
            return {
                "loss": np.array([a for a, _ in minima]),
                "tv": np.array([b for _, b in minima]),
            }

        name = "all" if counted else "one"
        minima = job.cell(f"{vocabulary}-tabular-{name}", ("tabular", vocabulary, counted), work)
        loss, tv = minima["loss"], minima["tv"]
        how = f"{vocabulary}, tabular minimum at β = 4, parents counted {name}"
        claim = ("0", "20.8" if counted else "enumeration")
        rows.append(exact_row(f"{how}: loss", claim, float(loss.max()), 1e-12))
        values = (float(tv.mean()), float(tv.min()), float(tv.max()))
        if counted:
            rows.append(exact_row(f"{how}: TV", claim, values[2], 1e-6))
        else:
            published = ("0.23 to 0.38 (24 molecules), 0.29 to 0.35 (80)", "tabular minimum")
            rows.append(Row(f"{how}: TV", *published, *values, "≥ 0.2", values[0] >= 0.2))
    return rows
