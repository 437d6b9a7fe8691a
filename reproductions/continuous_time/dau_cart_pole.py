"""Deep Advantage Updating on CartPole, with discrete actions, across time steps: figure 8.2.

Noise dominates here, as the thesis notes: nothing is claimed and no row is required. The highest
scaled return is 500 at every dt. At quick scale the hidden layers have 64 units and there are 10
seconds in each environment; at full scale 50, and the published networks.
"""

from __future__ import annotations

from dataclasses import replace

from semigradient.reproductions.continuous_time import dau_curves
from semigradient.reproductions.report import Job, Report

TITLE = "Deep Advantage Updating and Q-learning on CartPole across time steps: figure 8.2"
SEEDS = {"quick": 2, "full": 5}
FULL = dau_curves.CurvesPlan(
    "semigradient/CartPole-v0",
    (0.01, 0.005, 0.002, 0.001, 0.0005),
    dau_curves.DISCRETE,
    50.0,
    25,
    {
        0.01: "380 to 500",
        0.005: "400 to 480",
        0.002: "300 to 450",
        0.001: "300 to 430",
        0.0005: "250 to 420",
    },
    250.0,
    150.0,
    required=False,
)
QUICK = replace(
    FULL,
    steps=(0.01, 0.005),
    learners=dau_curves.DISCRETE[:2],
    seconds=10.0,
    evaluations=10,
    flags="--hidden 64 64",
)


def reproduce(job: Job) -> Report:
    """See `reproductions.continuous_time.dau_curves`."""
    return dau_curves.reproduce(job, FULL if job.full else QUICK)
