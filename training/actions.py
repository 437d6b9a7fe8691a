"""Real-valued actions of a policy, in units of the environment's box.

A policy that begins with means about 0 and a standard deviation of 1 explores a box of [-1, 1].
Every dimension that has both bounds is mapped from there to its own interval; others stay.
"""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

_BOUNDLESS = 1e30
"""Bounds beyond this, such as the largest float32, bound nothing."""


class BoxScale:
    """Actions (B, K) of a policy as actions of a box (K,), within its bounds.

    Args:
        box: of the environment, with one axis.
    """

    def __init__(self, box: spaces.Box) -> None:
        self.low, self.high = box.low, box.high
        self.dtype = box.dtype
        low, high = box.low.astype(np.float64), box.high.astype(np.float64)
        bounded = (np.abs(low) < _BOUNDLESS) & (np.abs(high) < _BOUNDLESS)
        low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
        self.middle, self.half = (low + high) / 2, (high - low) / 2
        self.is_unit = not self.middle.any() and bool((self.half == 1).all())

    def __call__(self, actions: np.ndarray) -> np.ndarray:
        """The box's actions."""
        if not self.is_unit:
            actions = (self.middle + self.half * actions).astype(self.dtype)
        return np.clip(actions, self.low, self.high)
