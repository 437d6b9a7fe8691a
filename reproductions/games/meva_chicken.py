"""Learning rules head-to-head on the game of Chicken: table 6.3b, errors of 6.6.

Everybody moves by steps of size 1. Against trained models LOLA nevertheless imagines steps of 25,
the default of the authors' public notebook, which its Chicken does not override.
"""

from __future__ import annotations

from semigradient.reproductions.games import meva_tables
from semigradient.reproductions.report import Job, Report

TITLE = "Learning rules on the game of Chicken: meta-value thesis, table 6.3b"
SEEDS = meva_tables.SEEDS
TABLE = meva_tables.HeadToHeadTable(
    "semigradient/Chicken-v0",
    1.0,
    {
        ("naive", "naive"): (0.01, 0.0),
        ("naive", "lola"): (-0.71, 0.0),
        ("lola", "naive"): (0.70, 0.0),
        ("lola", "lola"): (-5.32, 0.0),
        ("meva", "naive"): (0.92, 0.03),
        ("naive", "meva"): (-0.93, 0.03),
        ("meva", "lola"): (-1.11, 0.03),
        ("lola", "meva"): (0.86, 0.03),
        ("meva", "meva"): (-0.05, 0.01),
    },
    0.08,
    {"naive": 300, "lola": 300, "self": 150},
    "tables 6.3b, 6.6",
    imagined=25.0,
)


def reproduce(job: Job) -> Report:
    """See `reproductions.games.meva_tables`."""
    return meva_tables.reproduce(job, TABLE)
