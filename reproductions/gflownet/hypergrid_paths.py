"""Which paths lead to an object, and what the loss is of: figures 5.3 and 5.4 in numbers.

Flow matching on the 2-D grid, H = 8, `edge`. Of the constructions that end in the far mode (6, 6),
measured exactly from the policy, is the share that comes by the cells (3, j). Were all paths alike,
those shares would be 0.4329, 0.3788, 0.2424 and 0.0909 for j = 3, …, 0; the published ones are
spread, but not alike. The losses are means over the last tenth of the updates.

Source: E. Bengio, PhD thesis, section 5.4.1.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from semigradient.domains.flows.estimates import policy_table
from semigradient.envs.constructions.construction import Table, tabulate
from semigradient.envs.constructions.hypergrid import HyperGridOptions
from semigradient.reproductions.gflownet.flow_runs import Array, FlowRun, exact_row
from semigradient.reproductions.report import Job, Row
from semigradient.training.summary import bootstrap_interval

UNIFORM = {3: 0.4329, 2: 0.3788, 1: 0.2424, 0: 0.0909}
"""Share of the paths to (6, 6) that come by (3, j), by j: C(3+j, 3) C(9-j, 3) / C(12, 6)."""
R0 = (0.1, 0.01, 0.001)
_GOAL = 6 + 8 * 6


def visits_on_the_way(table: Table, weight: Tensor, goal: int) -> Tensor:
    """Share of the constructions of an object that come by each state: (S,) float64.

    Args:
        table: of the construction.
        weight: (S, A) of each edge; a construction counts as the product of its edges'. Ones
            count paths, probabilities of a policy the constructions that it makes.
        goal: the object's state.
    """
    states = torch.arange(table.size)
    parents = table.parents(states)
    edge = weight[parents.state, parents.action].double() * parents.real
    reach, ahead = torch.zeros((2, table.size), dtype=torch.float64)
    for _ in range(table.horizon + 1):
        reach = (edge * reach[parents.state]).sum(1)
        reach[table.root] = 1
        # Backwards along the same edges.
        following = torch.zeros_like(ahead)
        following[goal] = 1
        ahead = following.index_add(0, parents.state.flatten(), (edge * ahead[:, None]).flatten())
    return reach * ahead / reach[goal]


def train(run: FlowRun, seed: int) -> dict[str, Array]:
    """Visits by (3, j), j = 3 to 0, on the way to (6, 6); mean losses of the last tenth."""
    agent, losses = run.agent(seed), []
    table = agent.table
    assert table is not None, "the grid can be enumerated"
    while agent.progress.steps < run.edges:
        scalars = agent.iterate()
        losses.append([float(scalars["leaf_loss"]), float(scalars["inner_loss"])])
    policy = policy_table(table, agent.network).exp()
    met = visits_on_the_way(table, policy, _GOAL)
    last = np.array(losses[-max(1, len(losses) // 10) :])
    return {
        "visits": np.array([float(met[3 + 8 * j]) for j in UNIFORM]),
        "losses": last.mean(0),
    }


def rows(job: Job) -> list[Row]:
    """The shares of paths, computed and learned, and both losses by R0."""
    results = {}
    for r0 in R0:
        flags = ("--loss", "fm", "--batch-size", "64", "--optim.lr", "3e-3", "--schedule", "linear")
        edges = 120_000 * (4 if job.full else 1)
        run = FlowRun("semigradient/HyperGrid-v0", ("dimensions=2", f"r0={r0}"), flags, edges)
        parts = [
            job.cell(f"paths-{r0}-s{seed}", (run, seed), partial(train, run, seed))
            for seed in range(job.seeds)
        ]
        results[r0] = {key: np.stack([part[key] for part in parts]) for key in parts[0]}
    return [*_path_rows(results[0.1]["visits"]), *_loss_rows(results)]


def _path_rows(visits: Array) -> list[Row]:
    table = tabulate(HyperGridOptions(2, 8).rules())
    alike = visits_on_the_way(table, torch.ones(table.size, table.actions), _GOAL)
    found = []
    for column, (j, share) in enumerate(UNIFORM.items()):
        error = abs(float(alike[3 + 8 * j]) - share)
        claim = (f"{share}", "figure 5.3")
        found.append(exact_row(f"paths to (6, 6) by (3, {j}), all alike: gap", claim, error, 1e-4))
        learned = visits[:, column]
        words = f"in (0, 1), all alike: {share}"
        inside = bool(((learned > 0.005) & (learned < 0.9)).all())
        quantity = f"visits of (3, {j}) on the way to (6, 6), learned"
        found.append(_row(quantity, ("spread, not alike", "figure 5.3"), learned, words, inside))
    gap = np.abs(visits - np.array(list(UNIFORM.values()))).max(1)
    different = bool(gap.mean() > 0.01)
    claim = ("not alike", "figure 5.3")
    return [*found, _row("largest gap to paths all alike", claim, gap, "> 0.01", different)]


def _loss_rows(results: dict[float, dict[str, Array]]) -> list[Row]:
    found = []
    for column, name in enumerate(("leaf", "inner")):
        for r0 in R0:
            loss = results[r0]["losses"][:, column]
            claim = ("≤ about 1e-3", "figure 5.4")
            small = bool(loss.mean() <= 2e-3)
            row = _row(f"{name} loss, R0 = {r0:g}", claim, loss, "≤ 2e-3", small)
            # How long the published runs were is not said, so sizes are reported only.
            found.append(replace(row, required=False))
        gap = results[R0[-1]]["losses"][:, column] - results[R0[0]]["losses"][:, column]
        claim = ("grows as R0 falls", "figure 5.4")
        more = bool(gap.mean() > 0)
        quantity = f"{name} loss, R0 = {R0[-1]:g} minus {R0[0]:g}"
        found.append(_row(quantity, claim, gap, "mean > 0", more))
    return found


def _row(quantity: str, claim: tuple[str, str], values: Array, tolerance: str, agrees: bool) -> Row:
    low, high = bootstrap_interval(np.mean, values, np.random.default_rng(0))
    return Row(quantity, *claim, float(values.mean()), low, high, tolerance, agrees)
