"""Deep Advantage Updating on the pendulum across time steps: figures 8.1, 8.2 and A.1 to A.4.

At quick scale the hidden layers have 64 units and there are 10 seconds in each environment; at
full scale it is the published configuration with 25, and portraits after 4, 8, 12, 16 and 20
minutes summed over environments.
"""

from __future__ import annotations

from dataclasses import replace

from semigradient.reproductions.continuous_time import dau_curves
from semigradient.reproductions.report import Job, Report

TITLE = "Deep Advantage Updating and DDPG on the pendulum across time steps: figures 8.1 and 8.2"
SEEDS = {"quick": 5, "full": 5}
FULL = dau_curves.CurvesPlan(
    "semigradient/Pendulum-v0",
    (0.05, 0.01, 0.005, 0.002, 0.001, 0.0005),
    dau_curves.CONTINUOUS,
    25.0,
    25,
    dict.fromkeys((0.01, 0.005, 0.002), "-150") | dict.fromkeys((0.001, 0.0005), "-150, with dips"),
    -200.0,
    60.0,
    scatters=True,
    portraits=tuple(60.0 * minutes / 256 for minutes in (4, 8, 12, 16, 20)),
)
QUICK = replace(
    FULL,
    steps=(0.05, 0.01, 0.005),
    learners=dau_curves.CONTINUOUS[:2],
    seconds=10.0,
    evaluations=10,
    portraits=(10.0,),
    flags="--hidden 64 64",
)


def reproduce(job: Job) -> Report:
    """See `reproductions.continuous_time.dau_curves`."""
    return dau_curves.reproduce(job, FULL if job.full else QUICK)
