"""Bounded boxes of actions, mapped onto [-1, 1] in every dimension."""

from __future__ import annotations

from math import prod

import numpy as np
from gymnasium import spaces
from torch import Tensor

from semigradient.errors import require


class ActionBox:
    """The affine map between a learner's actions in [-1, 1]^K and those of an environment.

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
        low, high = (bound.astype(np.float64).ravel() for bound in (space.low, space.high))
        self._low, self._high = low, high
        self._middle, self._half = low / 2 + high / 2, high / 2 - low / 2

    def to_env(self, actions: Tensor) -> np.ndarray:
        """Actions (B, *shape) of the environment, of (B, K) in [-1, 1]."""
        rows = self._middle + self._half * actions.cpu().numpy()
        inside = np.clip(rows, self._low, self._high)
        return inside.reshape(-1, *self.space.shape).astype(self.space.dtype)
