"""Deep Advantage Updating on Ant across time steps: figure 8.2.

Needs MuJoCo. At quick scale the hidden layers have 64 units and there are 50 of 2000 seconds in
each environment, which is too little to learn to run: the rows report the progress.
"""

from __future__ import annotations

from dataclasses import replace

from semigradient.reproductions.continuous_time import dau_curves
from semigradient.reproductions.report import Job, Report

TITLE = "Deep Advantage Updating and DDPG on Ant across time steps: figure 8.2"
SEEDS = {"quick": 2, "full": 5}
FULL = dau_curves.CurvesPlan(
    "semigradient/Ant-v0",
    (0.05, 0.02, 0.01, 0.005, 0.002),
    dau_curves.CONTINUOUS,
    2000.0,
    25,
    {
        0.05: "2000 to 2200",
        0.02: "3000",
        0.01: "3000",
        0.005: "2700",
        0.002: "1600 at half the time",
    },
    1600.0,
    1200.0,
    time_limit=50.0,
    episode=50.0,
)
QUICK = replace(
    FULL,
    steps=(0.05, 0.02),
    learners=dau_curves.CONTINUOUS[:2],
    seconds=50.0,
    evaluations=10,
    required=False,
    flags="--hidden 64 64",
)


def reproduce(job: Job) -> Report:
    """See `reproductions.continuous_time.dau_curves`."""
    return dau_curves.reproduce(job, FULL if job.full else QUICK)
