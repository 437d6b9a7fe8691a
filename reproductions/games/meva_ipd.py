"""Learning rules head-to-head on the iterated Prisoner's Dilemma: table 6.2, errors of 6.4."""

from __future__ import annotations

from semigradient.reproductions.games import meva_tables
from semigradient.reproductions.report import Job, Report

TITLE = "Learning rules on the iterated Prisoner's Dilemma: meta-value thesis, table 6.2"
SEEDS = meva_tables.SEEDS
TABLE = meva_tables.HeadToHeadTable(
    "semigradient/IPD-v0",
    25.0,
    {
        ("naive", "naive"): (-1.99, 0.0),
        ("naive", "lola"): (-1.56, 0.0),
        ("lola", "naive"): (-1.49, 0.0),
        ("lola", "lola"): (-1.09, 0.0),
        ("meva", "naive"): (-0.57, 0.02),
        ("naive", "meva"): (-1.98, 0.01),
        ("meva", "lola"): (-0.98, 0.01),
        ("lola", "meva"): (-1.08, 0.0),
        ("meva", "meva"): (-1.06, 0.01),
    },
    0.05,
    {"naive": 300, "lola": 300, "self": 75},
    "tables 6.2, 6.4",
)


def reproduce(job: Job) -> Report:
    """See `reproductions.games.meva_tables`."""
    return meva_tables.reproduce(job, TABLE)
