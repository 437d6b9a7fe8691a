"""Rows for published statements about a sign, tested with one number per seed.

The criterion of agreement was fixed before anything was measured: the 95 % bootstrap interval of
the mean over seeds lies on the published side of zero.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from semigradient.reproductions.report import Row
from semigradient.training.summary import bootstrap_interval

Array = NDArray[np.float64]


def signed(quantity: str, published: str, source: str, values: Array, sign: int) -> Row:
    """A row for a mean over seeds (S,) published as positive (1), negative (-1) or either (0)."""
    low, high = bootstrap_interval(np.mean, values, np.random.default_rng(0))
    agrees = {1: low > 0, -1: high < 0, 0: low > 0 or high < 0}[sign]
    words = {1: "is above zero", -1: "is below zero", 0: "excludes zero"}[sign]
    mean = float(np.mean(values))
    return Row(quantity, published, source, mean, low, high, f"the interval {words}", agrees)


def averaged(
    quantity: str,
    published: str,
    source: str,
    values: Array,
    tolerance: str,
    agrees: bool | np.bool_,
    required: bool = True,
) -> Row:
    """A row for a mean over seeds (S,) with its interval, judged by something else than these."""
    low, high = bootstrap_interval(np.mean, values, np.random.default_rng(0))
    mean = float(np.mean(values))
    return Row(quantity, published, source, mean, low, high, tolerance, bool(agrees), required)


def separated(
    quantity: str, published: str, source: str, first: Array, second: Array, sign: int
) -> Row:
    """The same for the mean of a group (n,) less that of another (m,); NaN if one is empty."""
    if not len(first) or not len(second):
        nan = float("nan")
        return Row(quantity, published, source, nan, nan, nan, "both groups have runs", False)
    rng = np.random.default_rng(0)
    one, other = (
        group[rng.integers(len(group), size=(2000, len(group)))].mean(1)
        for group in (first, second)
    )
    low, high = np.quantile(one - other, [0.025, 0.975]).tolist()
    agrees, words = (low > 0, "above") if sign > 0 else (high < 0, "below")
    value = float(first.mean() - second.mean())
    text = f"the interval is {words} zero"
    return Row(quantity, published, source, value, low, high, text, agrees)
