"""Actions of learners in units of [-1, 1], mapped onto the environment's box.

A policy that begins with means about 0 and a standard deviation of 1 explores a box of [-1, 1].
Every dimension that has both bounds is mapped from there to its own interval; others stay.
"""

from __future__ import annotations

from math import prod

import numpy as np
from gymnasium import spaces
from torch import Tensor

from semigradient.errors import require

_BOUNDLESS = 1e30
"""Bounds beyond this, such as the largest float32, bound nothing."""


class BoxScale:
    """Actions (B, *shape) of a policy as actions of a box, within its bounds.

    Args:
        box: of the environment.
        boundless: size from which on bounds bound nothing.
    """

    def __init__(self, box: spaces.Box, boundless: float = _BOUNDLESS) -> None:
        self.low, self.high = box.low, box.high
        self.dtype = box.dtype
        low, high = box.low.astype(np.float64), box.high.astype(np.float64)
        bounded = (np.abs(low) < boundless) & (np.abs(high) < boundless)
        low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
        # Halved first: the sum of the largest numbers is infinite.
        self.middle, self.half = low / 2 + high / 2, high / 2 - low / 2
        self.is_unit = not self.middle.any() and bool((self.half == 1).all())

    def __call__(self, actions: np.ndarray) -> np.ndarray:
        """The box's actions."""
        if not self.is_unit:
            actions = (self.middle + self.half * actions).astype(self.dtype)
        return np.clip(actions, self.low, self.high)


class ActionBox:
    """The affine map between a learner's actions in [-1, 1]^K and those of a bounded box.

    Attributes:
        dimensions: K.
        learned: space of the learner's actions.

    Args:
        space: a bounded Box of real numbers, of any shape.

    Raises:
        UserError: another space.
    """

    def __init__(self, space: spaces.Space) -> None:
        is_box = isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)
        require(
            is_box and space.is_bounded(),  # type: ignore[attr-defined]
            f"action space {space}: accepted is a Box of real numbers with bounds",
        )
        assert isinstance(space, spaces.Box)
        self.space, self.dimensions = space, prod(space.shape)
        self.learned = spaces.Box(-1, 1, (self.dimensions,), np.float32)
        self._scale = BoxScale(space, boundless=np.inf)

    def to_env(self, actions: Tensor) -> np.ndarray:
        """Actions (B, *shape) of the environment, of (B, K) in [-1, 1]."""
        rows = actions.cpu().numpy()
        rows = rows.reshape(*rows.shape[:-1], *self.space.shape)
        return self._scale(rows).astype(self.space.dtype, copy=False)
