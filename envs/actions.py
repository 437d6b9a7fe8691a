"""Validation of actions: one clear error for those that no environment accepts.

Rules index tables with actions, so a wrong one would be played as another, or be broadcast to all
environments. What is continuous may lie outside its bounds (environments clip it), not be NaN.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from gymnasium import spaces

from semigradient.errors import UserError
from semigradient.validate import shown

_INTEGERS = "iu"


def checked(
    space: spaces.Space, actions: Any, batch: int | tuple[int, ...] | None = None
) -> np.ndarray:
    """Actions as an array: of one environment, or (*batch, *action) of `batch` of them.

    Runs before any device is involved and costs microseconds.

    Raises:
        UserError: wrong shape or type, NaN, a number that is no action.
    """
    array = np.asarray(actions)
    shape = space.shape or ()
    many = (batch,) if isinstance(batch, int) else batch or ()
    batch_shape = (*many, *shape)
    if array.shape != batch_shape:
        _refuse(array, f"must have shape {batch_shape}, not {array.shape}", space)
    if isinstance(space, spaces.Discrete):
        low, high = int(space.start), int(space.start + space.n)
        if array.dtype.kind not in _INTEGERS or array.min() < low or array.max() >= high:
            _refuse(array, f"must be whole numbers in [{low}, {high})", space)
    elif isinstance(space, spaces.MultiDiscrete):
        is_valid = array.dtype.kind in _INTEGERS and array.min() >= 0
        if not is_valid or (array >= space.nvec).any():
            _refuse(array, "must be whole numbers from 0, each below its own limit", space)
    elif isinstance(space, spaces.MultiBinary):
        if array.dtype.kind not in "iub" or ((array != 0) & (array != 1)).any():
            _refuse(array, "must be zeros and ones", space)
    elif array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        _refuse(array, "must be finite numbers", space)
    return array


def _refuse(array: np.ndarray, what: str, space: spaces.Space) -> NoReturn:
    raise UserError(f"actions={shown(array.tolist())}: {what} (action space {shown(space)})")
