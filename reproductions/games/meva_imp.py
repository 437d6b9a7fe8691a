"""Learning rules head-to-head on iterated matching pennies: table 6.3a, errors of 6.5."""

from __future__ import annotations

from semigradient.reproductions.games import meva_tables
from semigradient.reproductions.report import Job, Report

TITLE = "Learning rules on iterated matching pennies: meta-value thesis, table 6.3a"
SEEDS = meva_tables.SEEDS
TABLE = meva_tables.HeadToHeadTable(
    "semigradient/MatchingPennies-v0",
    25.0,
    {
        ("naive", "naive"): (0.0, 0.0),
        ("naive", "lola"): (0.02, 0.0),
        ("lola", "naive"): (-0.02, 0.0),
        ("lola", "lola"): (-0.02, 0.0),
        ("meva", "naive"): (0.23, 0.01),
        ("naive", "meva"): (-0.23, 0.01),
        ("meva", "lola"): (0.16, 0.01),
        ("lola", "meva"): (-0.16, 0.01),
        ("meva", "meva"): (0.0, 0.0),
    },
    0.05,
    {"naive": 450, "lola": 300, "self": 150},
    "tables 6.3a, 6.5",
    symmetric=False,
)


def reproduce(job: Job) -> Report:
    """See `reproductions.games.meva_tables`."""
    return meva_tables.reproduce(job, TABLE)
