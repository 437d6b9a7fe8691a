"""Values held to the spaces that declare them: shape, type, keys and, grossly, bounds.

Many environments leave their bounds by a little. A value is refused beyond the width of its
interval outside of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from semigradient.envs.forms import MASK
from semigradient.validate import first_line, shown


class Mismatch(ValueError):  # noqa: N818
    """What came (a noun phrase) beside what is declared."""

    def __init__(self, came: str, declared: str) -> None:
        super().__init__(f"{came}, declared is {declared}")


def frame_of(frame: Any) -> np.ndarray:
    """A picture that an environment rendered, as RGB (H, W, 3) uint8.

    Raises:
        Mismatch: it is none.
    """
    array = np.asarray(frame)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        came = kind(frame) if array.dtype == object else f"{array.dtype} of shape {array.shape}"
        raise Mismatch(f"a frame: {came}", "uint8 of shape (H, W, 3)")
    return array


class Limits:
    """Values of a box, and how far outside of it a value may lie: the width of its interval."""

    def __init__(self, box: spaces.Box) -> None:
        low, high = box.low.astype(np.float64), box.high.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            width = high - low
            near = 10 * np.maximum(1, np.minimum(abs(low), abs(high)))
            width = np.where(np.isfinite(width), width, near)
            self.low, self.high = low - width, high + width
        kind_of: Any = box.dtype
        ends = np.iinfo(kind_of) if kind_of.kind in "iu" else None
        # Nothing that the type can hold lies outside.
        self.is_void = ends is not None and bool(
            (self.low <= ends.min).all() and (self.high >= ends.max).all()
        )


def hold(
    space: Any, value: Any, field: str, is_due: bool = True, limits: Limits | None = None
) -> Any:
    """A value of a space, as arrays of its type where it is a box.

    Args:
        space: that is declared.
        value: that came.
        field: its name.
        is_due: also look at bounds and NaN.
        limits: of a box, where they are known.

    Raises:
        Mismatch: it is none.
    """
    if isinstance(space, spaces.Box):
        return _held_box(space, value, field, is_due, limits)
    if isinstance(space, spaces.Dict):
        return _held_dict(space, value, field, is_due)
    if isinstance(space, spaces.Tuple):
        if not isinstance(value, (tuple, list)) or len(value) != len(space.spaces):
            came = f"of {len(value)}" if isinstance(value, (tuple, list)) else kind(value)
            raise Mismatch(f"{_a(field)} {came}", f"a tuple of {len(space.spaces)}")
        pairs = zip(space.spaces, value, strict=True)
        return tuple(hold(s, v, f"{field}[{i}]", is_due) for i, (s, v) in enumerate(pairs))
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        return _held_choices(space, value, field)
    return value


def _held_dict(space: spaces.Dict, value: Any, field: str, is_due: bool) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise Mismatch(f"{_a(field)} {kind(value)}", f"a dictionary of {_listed(space.spaces)}")
    if value.keys() != space.spaces.keys():
        raise Mismatch(f"{_a(field)} with the keys {_listed(value)}", _listed(space.spaces))
    # A mask has its own forms, and its own check.
    return {
        key: value[key] if key == MASK else hold(inner, value[key], f"{field}[{key!r}]", is_due)
        for key, inner in space.spaces.items()
    }


def _held_box(
    box: spaces.Box, value: Any, field: str, is_due: bool, limits: Limits | None
) -> np.ndarray:
    array = _array(value, field, f"{box.dtype} of shape {box.shape}")
    if array.shape != box.shape:
        raise Mismatch(f"{_a(field)} of shape {array.shape}", f"shape {box.shape}")
    narrows = array.dtype != box.dtype and not np.can_cast(array.dtype, box.dtype, "same_kind")
    if narrows and not (array.dtype.kind in "iub" and box.dtype.kind in "iu"):
        low, high = _ends(array)
        raise Mismatch(
            f"{_a(field)} of {array.dtype} in [{low}, {high}]",
            f"{box.dtype} in [{box.low.min()}, {box.high.max()}]",
        )
    if is_due or narrows:
        _check_values(box, array, field, limits or Limits(box))
    return array if array.dtype == box.dtype else array.astype(box.dtype)


def _check_values(box: spaces.Box, array: np.ndarray, field: str, limits: Limits) -> None:
    """Neither NaN nor grossly out of bounds; whole numbers are not cast to others."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = array[~np.isfinite(array)][0]
        raise Mismatch(f"{_a(field)} with {bad} in it", "finite numbers")
    if array.dtype == box.dtype:
        if limits.is_void:
            return
        outside = (array < limits.low) | (array > limits.high)
    else:
        outside = array != array.astype(box.dtype) if box.dtype.kind in "iu" else np.zeros(1, bool)
        outside = outside | (array < limits.low) | (array > limits.high)
    if outside.any():
        least, most = _ends(array)
        raise Mismatch(f"{_a(field)} in [{least}, {most}]", f"[{box.low.min()}, {box.high.max()}]")


def _held_choices(space: Any, value: Any, field: str) -> Any:
    array = _array(value, field, shown(space))
    shape: tuple[int, ...]
    low: Any
    high: Any
    if isinstance(space, spaces.Discrete):
        shape, low, high = (), int(space.start), int(space.start + space.n - 1)
    elif isinstance(space, spaces.MultiDiscrete):
        shape, low, high = space.nvec.shape, space.start, space.start + space.nvec - 1
    else:
        shape, low, high = space.shape, 0, 1
    if array.shape != shape:
        raise Mismatch(f"{_a(field)} of shape {array.shape}", f"shape {shape} of {shown(space)}")
    if array.dtype.kind not in "iub":
        raise Mismatch(
            f"{_a(field)} {shown(value)} of {array.dtype}", f"whole numbers, {shown(space)}"
        )
    if ((array < low) | (array > high)).any():
        raise Mismatch(f"{_a(field)} {shown(array.tolist())}", shown(space))
    return array


def _array(value: Any, field: str, declared: str) -> np.ndarray:
    """Numbers as an array."""
    try:
        array = np.asarray(value)
    except Exception as problem:  # ragged lists, tensors on a device
        raise Mismatch(f"{_a(field)} {kind(value)} ({first_line(problem)})", declared) from problem
    if array.dtype.kind not in "biuf":
        came = kind(value) if array.dtype.kind in "OUS" else f"of {array.dtype}"
        raise Mismatch(f"{_a(field)} {came}", declared)
    return array


def _ends(array: np.ndarray) -> tuple[Any, Any]:
    finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    return (f"{finite.min():.6g}", f"{finite.max():.6g}") if finite.size else ("nan", "nan")


def _a(field: str) -> str:
    return f"an {field}" if field[0] in "aeiou" else f"a {field}"


def _listed(keys: Any) -> str:
    return ", ".join(map(repr, keys)) or "none"


def kind(value: Any) -> str:
    """A value in few words: None, 'text', a tuple of 4, ndarray(3,)."""
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    if hasattr(value, "shape") and getattr(value, "shape", ()) != ():
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    return "None" if value is None else f"{shown(value)} ({type(value).__name__})"
