"""Exact total variation of every loss on hyper-grids, and figures 5.3 and 5.4 in numbers.

The published figures compare frequencies of the last 200 000 objects with p, where an exact
sampler has a total variation of 0.006 (2-D) and 0.051 (4-D). Here the exact distribution of the
policy is computed. Paths and losses of figures 5.3 and 5.4 are those of `hypergrid_paths`.

Source: E. Bengio, PhD thesis, sections 5.2 to 5.4.1; Malkin et al. 2022 and Madan et al. 2023 for
the balance losses; limits of total variation are this project's.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from semigradient.domains.flows.losses import flow_matching
from semigradient.domains.flows.objectives import OBJECTIVES
from semigradient.envs.constructions.construction import tabulate
from semigradient.envs.constructions.hypergrid import HyperGridOptions
from semigradient.experiments.curves import COLOURS
from semigradient.reproductions.gflownet import hypergrid_paths
from semigradient.reproductions.gflownet.flow_runs import (
    FlowRun,
    curves,
    draw_curves,
    exact_row,
    final,
    log_partition,
    penalty_at_exact_flows,
    relative,
    small_grid,
    worst_row,
)
from semigradient.reproductions.report import Job, Report, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Hyper-grids, H = 8: exact total variation of every loss; flows and gradients by hand"
SEEDS = {"quick": 3, "full": 10}
LIMITS = {2: 0.05, 4: 0.15}
_LIMIT = "acceptance limit"
_FLOWS = {
    "edge": {(0, 0): 29, (1, 0): 12.5, (0, 1): 15.5, (1, 1): 15, (2, 0): 3, (1, 2): 6},
    "exit_only": {(0, 0): 36, (1, 0): 15.75, (0, 1): 19.25, (1, 1): 13, (2, 2): 7},
}


def settings(dimensions: int, full: bool) -> list[tuple[str, float]]:
    """The (rule, R0) pairs; the quick scale omits half of the four-dimensional ones."""
    if dimensions == 4 and not full:
        return [("edge", 0.1), ("exit_only", 0.01)]
    return [(rule, r0) for rule in ("edge", "exit_only") for r0 in (0.1, 0.01)]


def grid_run(loss: str, dimensions: int, rule: str, r0: float, full: bool) -> FlowRun:
    """The run of one loss on one grid."""
    batch, rate, edges = RECIPES[dimensions]
    if loss == "fm" and dimensions == 4:
        rate = "3e-3"  # at 1e-2 some runs permanently lose modes at R0 = 0.01
    flags = ("--loss", loss, "--batch-size", str(batch), "--optim.lr", rate, "--schedule", "linear")
    options = (f"dimensions={dimensions}", f"rule={rule}", f"r0={r0}")
    return FlowRun("semigradient/HyperGrid-v0", options, flags, edges * (4 if full else 1))


RECIPES = {2: (64, "3e-3", 120_000), 4: (16, "1e-2", 200_000)}
"""Batch, learning rate and edges by dimensions."""


def reproduce(job: Job) -> Report:
    """Check the results known by hand, then train every loss on every grid."""
    rows = [*by_hand(), *hypergrid_paths.rows(job)]
    trained = {}
    for dimensions, limit in LIMITS.items():
        for loss in OBJECTIVES:
            tv, log_z = {}, {}
            for rule, r0 in settings(dimensions, job.full):
                run, name = grid_run(loss, dimensions, rule, r0, job.full), f"{rule} R0={r0}"
                curve = curves(job, f"{dimensions}d-{loss}-{rule}-{r0}", run)
                trained[dimensions, loss, name] = curve
                tv[name], log_z[name] = final(curve, "tv"), relative(curve, log_partition(run))
            where = f"{dimensions}-D {loss}"
            rows.append(worst_row(f"{where}: TV", (f"≤ {limit}", _LIMIT), tv, limit))
            if loss != "log-variance" and dimensions == 2:
                claim = ("≤ 1 %", _LIMIT)
                rows.append(worst_row(f"{where}: log Z, relative error", claim, log_z, 0.01))

    def draw(figure: Figure) -> None:
        shown = [(d, f"{rule} R0={r0}") for d in LIMITS for rule, r0 in settings(4, False)]
        for axes, (dimensions, name) in zip(
            figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True
        ):
            chosen = {loss: trained[dimensions, loss, name] for loss in OBJECTIVES}
            draw_curves(axes, chosen, "steps", "tv", COLOURS)
            axes.axhline(LIMITS[dimensions], color="grey", linewidth=0.8)
            axes.set(title=f"{dimensions}-D, {name}", xlabel="states visited", yscale="log")
        figure.axes[0].set_ylabel("exact total variation")
        figure.axes[-1].legend(fontsize="small")

    return Report(rows, draw, (12.0, 4.0))


def by_hand() -> list[Row]:
    """Flows, gradients and losses on 3×3 cells, and the path-biased distribution."""
    rows = []
    for rule, expected in _FLOWS.items():
        state = small_grid(rule).flows().state
        error = max(abs(float(state[x + 3 * y]) - flow) for (x, y), flow in expected.items())
        rows.append(exact_row(f"flows of the 3×3 grid, {rule}", ("by hand", "§5.2"), error, 1e-10))
    rows.append(
        exact_row("gradients of flow matching", ("by hand", "eq. 5.16"), _gradient(), 1e-10)
    )
    for loss in OBJECTIVES:
        tables = [small_grid(rule) for rule in _FLOWS]
        at_flows = max(penalty_at_exact_flows(table, loss) for table in tables)
        claim = ("0", "eq. 5.16, 20.1")
        rows.append(exact_row(f"{loss} at exact flows", claim, at_flows, 1e-12))
        beside = min(penalty_at_exact_flows(table, loss, 0.3) for table in tables)
        rows.append(
            Row(
                f"{loss} beside them",
                "> 0",
                claim[1],
                beside,
                beside,
                beside,
                "> 1e-3",
                beside > 1e-3,
            )
        )
    for n, mass in ((2, 0.61551), (4, 0.4538)):
        table = tabulate(HyperGridOptions(n, 8).rules())
        biased = table.path_biased()[table.modes(torch.arange(table.size)) >= 0].sum()
        claim = (f"{mass}", "proposition 1")
        gap = abs(float(biased) - mass)
        rows.append(exact_row(f"path-biased mass of the modes, {n}-D: gap", claim, gap, 6e-5))
    return rows


def _gradient() -> float:
    """Largest error of the gradient for parents of flow 1 and 2, children of flow 1 and 1."""
    worst = 0.0
    for epsilon in (0.0, 1.0):
        parents = torch.tensor([0.0, math.log(2)], dtype=torch.float64, requires_grad=True)
        children = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        log_epsilon = math.log(epsilon) if epsilon else -math.inf
        flow_matching(parents.logsumexp(0), children.logsumexp(0), log_epsilon).square().backward()
        delta = math.log((3 + epsilon) / (2 + epsilon))
        ins = torch.tensor([1.0, 2.0], dtype=torch.float64) * 2 * delta / (3 + epsilon)
        out = torch.full((2,), -2 * delta / (2 + epsilon), dtype=torch.float64)
        assert parents.grad is not None
        assert children.grad is not None
        gaps = torch.cat([parents.grad - ins, children.grad - out])
        worst = max(worst, float(gaps.abs().max()))
    return worst
