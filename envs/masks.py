"""Legal actions as environments give them, read into one row of booleans.

Accepted for n₁, …, n_K actions side by side: one array (Σn,), K arrays (n_k,) in a tuple or list as
Gymnasium's `sample(mask)` takes them, or one array (K, n) where all n are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def legal(mask: Any, sizes: Sequence[int]) -> np.ndarray:
    """(Σn,) bool of one environment's mask.

    Raises:
        ValueError: what is wrong with it, as the end of a sentence.
    """
    if not sizes:
        raise ValueError("an action_mask, but its actions are real numbers")
    row = _row(mask, sizes)
    if row.dtype.kind != "b":
        if row.dtype.kind not in "iuf" or ((row != 0) & (row != 1)).any():
            raise ValueError(f"an action_mask of {row.dtype} that is not of zeros and ones")
        row = row.astype(bool)
    at = 0
    for number, size in enumerate(sizes):
        if not row[at : at + size].any():
            which = f" for choice {number}" if len(sizes) > 1 else ""
            raise ValueError(f"an action_mask that forbids every action{which}")
        at += size
    return row


def everything(sizes: Sequence[int]) -> np.ndarray:
    """(Σn,) bool where nothing is forbidden."""
    return np.ones(sum(sizes), bool)


def missing(name: str, method: str) -> str:
    """The warning about an environment that gives masks, and once gave none."""
    return (
        f"environment {name} returned no action_mask in {method}(), as it does otherwise: "
        "everything counts as legal there"
    )


def _row(mask: Any, sizes: Sequence[int]) -> np.ndarray:
    """The mask as one array (Σn,)."""
    nested = list(mask.values()) if isinstance(mask, Mapping) else mask
    if isinstance(nested, (tuple, list)) and any(np.ndim(part) for part in nested):
        rows = [np.asarray(part) for part in nested]
        shapes = [row.shape for row in rows]
        if shapes == [(size,) for size in sizes]:
            return np.concatenate(rows)
    else:
        row = np.asarray(nested)
        if row.shape == (sum(sizes),):
            return row
        is_table = len(set(sizes)) == 1 and row.size == sum(sizes)
        if is_table and row.ndim > 1 and row.shape[-1] == sizes[0] and len(sizes) > 1:
            return row.ravel()
        shapes = [row.shape]
    shown = str(shapes[0]) if len(shapes) == 1 else f"({', '.join(map(str, shapes))})"
    wanted = f"({sum(sizes)},)"
    if len(sizes) > 1:
        wanted += f" or {len(sizes)} arrays of {', '.join(map(str, sizes[:8]))}"
    raise ValueError(f"an action_mask of shape {shown}, accepted is {wanted}")
