"""Running statistics of K runs side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


class Each:
    """K functions of rows, each applied to the rows of its own run.

    Args:
        members: the functions.
    """

    def __init__(self, members: Sequence[Callable[..., np.ndarray]]) -> None:
        self.members = list(members)

    def __call__(self, rows: np.ndarray, *others: Any) -> np.ndarray:
        """Results (K, …) of rows (K, …); arrays among the others are rows too."""
        columns = [
            other if isinstance(other, np.ndarray) else [other] * len(self.members)
            for other in others
        ]
        calls = zip(self.members, rows, *columns, strict=True)
        return np.stack([member(*arguments) for member, *arguments in calls])
