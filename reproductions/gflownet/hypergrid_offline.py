"""Figures 5.5 and 5.6: flow matching on a fixed set of trajectories, without any interaction.

The 30×30 grid with the reward 0.01 + Π (cos 50 x_i + 1) φ(5 x_i). Set A has trajectories of the
uniform policy, which stay near the origin; set B samples random parents backwards from uniformly
drawn cells. Flow matching needs the edges that carry flow, which are in B but not in A.

Source: E. Bengio, PhD thesis, section 5.4.1. Sizes of the sets, updates and rates are not given
there; those here are of the grid's published code, with 2 000 trajectories.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from semigradient.agents.gflownet.gflownet import GFlowNet
from semigradient.api import make_agent
from semigradient.domains.flows.estimates import policy_table
from semigradient.reproductions.gflownet.flow_runs import Array, exact_row
from semigradient.reproductions.report import Job, Report, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Flow matching on fixed trajectories: thesis figures 5.5 and 5.6"
SEEDS = {"quick": 2, "full": 10}
SETS = {"A": "random-policy", "B": "uniform-objects"}
_GRID = {"height": 30, "reward": "cosine", "r0": 0.01}
_LEARNER = {"loss": "fm", "optim_options": {"lr": 1e-3}, "exact_every": 0, "offline_size": 2000}


def learner(which: str, seed: int) -> GFlowNet:
    """Flow matching on a set of 2 000 trajectories."""
    agent = make_agent(
        "gflownet",
        "semigradient/HyperGrid-v0",
        env_options=_GRID,
        offline=SETS[which],
        seed=seed,
        threads=1,
        **_LEARNER,
    )
    assert isinstance(agent, GFlowNet)
    return agent


def train(which: str, seed: int, updates: int) -> dict[str, Array]:
    """Final total variation, |log Z error|, and the three panels, (H, H) each."""
    agent = learner(which, seed)
    for _ in range(updates):
        agent.iterate()
    metrics, table = agent.evaluate(), agent.table
    assert table is not None, "the grid can be enumerated"
    memory = agent.batches.memory
    assert memory is not None, "there is a fixed set"
    ends = np.bincount(memory.everything().objects.numpy(), minlength=table.size)
    learned = table.reach(policy_table(table, agent.network))[1]
    return {
        "tv": np.array([metrics["tv"]]),
        "log_z_error": np.array([metrics["log_z_error"]]),
        "learned": learned.numpy().reshape(30, 30),
        "true": agent.visits.target.numpy().reshape(30, 30),
        "data": ends.reshape(30, 30) / ends.sum(),
    }


def reproduce(job: Job) -> Report:
    """Learn from both sets."""
    updates = 20_000 if job.full else 3_000
    trained = {which: [_cell(job, which, s, updates) for s in range(job.seeds)] for which in SETS}
    tv = {which: np.array([float(run["tv"][0]) for run in runs]) for which, runs in trained.items()}
    rows = [
        _row(
            "B, uniform objects: TV", "close to p", tv["B"], "< 0.05", bool(tv["B"].mean() < 0.05)
        ),
        _row("A, random policy: TV", "visibly worse", tv["A"], "> 0.4", bool(tv["A"].mean() > 0.4)),
    ]
    z = learner("B", 0).table.log_partition()  # type: ignore[union-attr]
    rows.append(exact_row("log Z: gap", ("2.85647", "enumeration"), abs(z - 2.85647), 1e-5))

    def draw(figure: Figure) -> None:
        panels = figure.subplots(len(SETS), 3)
        for row, which in enumerate(SETS):
            for column, name in enumerate(("learned", "true", "data")):
                panels[row, column].imshow(trained[which][0][name], origin="lower")
                panels[row, column].set(title=f"{name}, set {which}", xticks=[], yticks=[])

    return Report(rows, draw, (9.0, 6.0))


def _cell(job: Job, which: str, seed: int, updates: int) -> dict[str, Any]:
    identity = (_LEARNER, _GRID, which, seed, updates)
    return job.cell(f"{which}-s{seed}", identity, lambda: train(which, seed, updates))


def _row(quantity: str, published: str, tv: Array, tolerance: str, agrees: Any) -> Row:
    values = (float(tv.mean()), float(tv.min()), float(tv.max()))
    return Row(quantity, published, "figures 5.5, 5.6", *values, tolerance, bool(agrees))
