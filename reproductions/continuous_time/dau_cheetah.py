"""Deep Advantage Updating on HalfCheetah across time steps: figure 8.2.

Needs MuJoCo. The thesis says that DAU is not clearly invariant here (there are several gaits), so
no row is required. At quick scale the hidden layers have 64 units and there are 50 of 2000 seconds
in each environment.
"""

from __future__ import annotations

from dataclasses import replace

from semigradient.reproductions.continuous_time import dau_curves
from semigradient.reproductions.report import Job, Report

TITLE = "Deep Advantage Updating and DDPG on HalfCheetah across time steps: figure 8.2"
SEEDS = {"quick": 2, "full": 5}
FULL = dau_curves.CurvesPlan(
    "semigradient/HalfCheetah-v0",
    (0.05, 0.02, 0.01, 0.005, 0.002),
    dau_curves.CONTINUOUS,
    2000.0,
    25,
    {
        0.05: "1000 to 1700",
        0.02: "3200",
        0.01: "1500 to 2000",
        0.005: "1000 to 2000",
        0.002: "-250",
    },
    1000.0,
    1500.0,
    time_limit=50.0,
    episode=50.0,
    required=False,
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
