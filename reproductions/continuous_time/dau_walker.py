"""Deep Advantage Updating on BipedalWalker across time steps: figure 8.2.

Needs Box2D. At quick scale the hidden layers have 64 units and there are 60 of 250 seconds in each
environment, which is too little to learn to walk: the rows report the progress.
"""

from __future__ import annotations

from dataclasses import replace

from semigradient.reproductions.continuous_time import dau_curves
from semigradient.reproductions.report import Job, Report

TITLE = "Deep Advantage Updating and DDPG on BipedalWalker across time steps: figure 8.2"
SEEDS = {"quick": 2, "full": 5}
FULL = dau_curves.CurvesPlan(
    "semigradient/BipedalWalker-v0",
    (0.01, 0.005, 0.002, 0.001),
    dau_curves.CONTINUOUS,
    250.0,
    25,
    {0.01: "130 to 145", 0.005: "145", 0.002: "135", 0.001: "115"},
    100.0,
    45.0,
    time_limit=10.0,
)
QUICK = replace(
    FULL,
    steps=(0.02, 0.01),
    learners=dau_curves.CONTINUOUS[:2],
    seconds=60.0,
    evaluations=10,
    required=False,
    flags="--hidden 64 64",
)


def reproduce(job: Job) -> Report:
    """See `reproductions.continuous_time.dau_curves`."""
    return dau_curves.reproduce(job, FULL if job.full else QUICK)
