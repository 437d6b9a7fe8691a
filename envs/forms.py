"""What agents see of an environment's spaces: one box of observations, one flat space of actions.

Observations that are no box of numbers become a vector: categories one-hot, binaries as they are,
dictionaries and tuples side by side in the order of their space. A vector that has pictures in it
remembers where (`Parts`), so that a network can look at each with convolutions. Texts are left out,
which is said once.

Actions are one number from 0, a row of such numbers, or a row of real numbers; the environment
receives what its own space declares, in memory of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from semigradient.errors import UserError
from semigradient.validate import shown

_LARGEST = 2.0**53
"""Integers up to here are exact in float64; bounds beyond it bound nothing."""
MASK = "action_mask"
"""Key of the legal actions, in infos or in a dictionary of observations."""


class Features(spaces.Box):
    """A box that holds no picture, whatever its shape: networks flatten it."""

    is_picture = False


class Parts(spaces.Box):
    """Vectors whose stretches are observations of their own, one after the other.

    Attributes:
        parts: spaces of the stretches, each flattened.
    """

    def __init__(self, parts: Sequence[spaces.Box], dtype: Any) -> None:
        low, high = (
            np.concatenate([getattr(part, name).ravel() for part in parts])
            for name in ("low", "high")
        )
        super().__init__(low.astype(dtype), high.astype(dtype), dtype=dtype)
        self.parts = tuple(parts)


class Seen:
    """Observations as agents see them.

    Args:
        space: of the environment.
        name: of the environment, for errors.

    Attributes:
        space: box of the agents.
        own: space of the environment.
        is_plain: whether it is the environment's own.
        masked: whether the legal actions are a part of the environment's observation.
        left_out: keys of the texts that agents do not see.

    Raises:
        UserError: a space that cannot be a box.
    """

    def __init__(self, space: spaces.Space, name: str) -> None:
        self.left_out: list[str] = []
        self.own = space
        self.masked = isinstance(space, spaces.Dict) and MASK in space.spaces
        self.is_plain = isinstance(space, spaces.Box) and space.shape != ()
        self._leaves = list(self._read(space, "", name))
        if not self._leaves:
            raise UserError(
                f"environment {name!r}: nothing of the observation space {space} is seen"
            )
        parts = [part for part, _ in self._leaves]
        seen: Any = space if self.is_plain else _joined(parts)
        self.space: Any = seen
        if 0 in seen.shape:
            raise UserError(f"environment {name!r}: the observation space {space} is empty")

    def __call__(self, observation: Any) -> np.ndarray:
        """One observation of the environment as an array (*observation)."""
        if self.is_plain:
            return np.asarray(observation)
        row: np.ndarray = np.empty(self.space.shape, self.space.dtype)
        at = 0
        for part, encode in self._leaves:
            size = int(np.prod(part.shape))
            row[at : at + size] = encode(observation)
            at += size
        return row

    def _read(
        self, space: spaces.Space, path: str, name: str
    ) -> Iterator[tuple[spaces.Box, Callable[[Any], Any]]]:
        """(box, encoder of the whole observation to its flat values) of every leaf."""
        if isinstance(space, (spaces.Dict, spaces.Tuple)):
            for key, inner in _children(space):
                if key == MASK and not path:
                    continue
                for part, encode in self._read(inner, f"{path}[{key!r}]", name):
                    yield part, _at(key, encode)
        elif isinstance(space, spaces.Text):
            self.left_out.append(path)
        else:
            leaf = _leaf(space)
            if leaf is None:
                where = f"observation{path}" if path else "observation"
                raise UserError(
                    f"environment {name!r} has the {where} space {shown(space)}: accepted are Box, "
                    "Discrete, MultiDiscrete, MultiBinary, and Dict or Tuple of such"
                )
            yield leaf


def _children(space: spaces.Dict | spaces.Tuple) -> list[tuple[Any, spaces.Space]]:
    if isinstance(space, spaces.Dict):
        return list(space.spaces.items())
    return list(enumerate(space.spaces))


def _at(key: Any, encode: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda observation: encode(observation[key])


def _leaf(space: spaces.Space) -> tuple[spaces.Box, Callable[[Any], Any]] | None:
    """A box and the encoder of its values, flat; None for spaces that there is no box for."""
    if isinstance(space, spaces.Box):
        return space, np.ravel
    if isinstance(space, spaces.Discrete):
        n, start = int(space.n), int(space.start)
        return _bits(n), lambda value: _one_hot(np.array([int(value) - start]), np.array([n]))
    if isinstance(space, spaces.MultiDiscrete):
        limits, first = space.nvec.ravel(), space.start.ravel()
        return _bits(int(limits.sum())), lambda value: _one_hot(np.ravel(value) - first, limits)
    if isinstance(space, spaces.MultiBinary):
        return _bits(int(np.prod(space.shape))), np.ravel
    return None


def _bits(count: int) -> spaces.Box:
    return spaces.Box(0, 1, (count,), np.uint8)


def _one_hot(values: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Categories (K,) among limits (K,), side by side."""
    row = np.zeros(int(limits.sum()), np.uint8)
    row[values + np.cumsum(limits) - limits] = 1
    return row


def _joined(parts: list[spaces.Box]) -> spaces.Box:
    """One vector of several boxes: of bytes if all are, else of floats."""
    dtype = np.uint8 if all(part.dtype == np.uint8 for part in parts) else np.float32
    if len(parts) > 1 or parts[0].shape == ():
        return Parts([part if part.shape else _row(part) for part in parts], dtype)
    return parts[0]


def _row(box: spaces.Box) -> spaces.Box:
    return spaces.Box(box.low.ravel(), box.high.ravel(), dtype=box.dtype.type)


class Acted:
    """Actions of agents, and what the environment receives for them.

    Args:
        space: of the environment.
        name: of the environment, for errors.

    Attributes:
        space: of the agents: Discrete from 0, MultiDiscrete or MultiBinary or floating Box, with
            one axis.
        is_plain_number: whether an action is one number that the environment takes as it is.
        sizes: numbers of actions side by side, of which a mask says which are legal; empty for Box.

    Raises:
        UserError: a space that cannot be one of these.
    """

    def __init__(self, space: spaces.Space, name: str) -> None:
        leaves = list(_action_leaves(space, name))
        kinds = {isinstance(leaf, spaces.Box) for leaf in leaves}
        if len(kinds) != 1:
            raise UserError(
                f"environment {name!r} has the action space {shown(space)}: "
                "accepted are real numbers or choices, not both"
            )
        self.sizes: list[int] = []
        self.space: Any
        if kinds == {True}:
            self.space = _reals(leaves)
        else:
            self.sizes = [size for leaf in leaves for size in _sizes(leaf)]
            self.space = _choices(space, self.sizes)
        self._decode = _decoder(space)
        self.is_plain_number = isinstance(space, spaces.Discrete) and space.start == 0

    def __call__(self, row: Any) -> Any:
        """The environment's action for an agent's (*action), in memory of its own."""
        if self.is_plain_number:
            return row
        return self._decode(np.atleast_1d(row))[0]


def _action_leaves(space: Any, name: str) -> Iterator[spaces.Space]:
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        for _, inner in _children(space):
            yield from _action_leaves(inner, name)
    elif isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        yield space
    else:
        raise UserError(
            f"environment {name!r} has the action space {shown(space)}: accepted are Discrete, "
            "MultiDiscrete, MultiBinary, Box, and Dict or Tuple of such"
        )


def _sizes(space: Any) -> list[int]:
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, spaces.MultiBinary):
        return [2] * int(np.prod(space.shape))
    return space.nvec.ravel().tolist()


def _choices(space: spaces.Space, sizes: list[int]) -> spaces.Space:
    """The environment's own space where it is flat and counts from 0."""
    if isinstance(space, spaces.Discrete):
        return space if space.start == 0 else spaces.Discrete(sizes[0])
    if isinstance(space, spaces.MultiBinary):
        return space if len(space.shape) == 1 else spaces.MultiBinary(len(sizes))
    is_flat = isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1
    if is_flat and not space.start.any():  # type: ignore[attr-defined]
        return space
    return spaces.MultiDiscrete(sizes)


def _reals(boxes: list[Any]) -> spaces.Box:
    if len(boxes) == 1 and len(boxes[0].shape) == 1 and boxes[0].dtype.kind == "f":
        box: spaces.Box = boxes[0]
        return box
    low, high = (
        np.concatenate([np.ravel(getattr(box, name)).astype(np.float64) for box in boxes])
        for name in ("low", "high")
    )
    low[low < -_LARGEST], high[high > _LARGEST] = -np.inf, np.inf
    return spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)


def _decoder(space: Any) -> Callable[[np.ndarray], tuple[Any, np.ndarray]]:
    """Takes a space's action off the front of a row: (action, the rest)."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        return _nested(space)
    if isinstance(space, spaces.Discrete):
        start = int(space.start)
        return lambda row: (int(row[0]) + start, row[1:])
    shape, size = space.shape, int(np.prod(space.shape))
    if isinstance(space, spaces.Box):
        return lambda row: (_real(space, row[:size]).reshape(shape), row[size:])
    first = space.start if isinstance(space, spaces.MultiDiscrete) else 0
    return lambda row: ((row[:size].reshape(shape) + first).astype(space.dtype), row[size:])


def _nested(space: spaces.Dict | spaces.Tuple) -> Callable[[np.ndarray], tuple[Any, np.ndarray]]:
    decoders = [(key, _decoder(inner)) for key, inner in _children(space)]

    def decode(row: np.ndarray) -> tuple[Any, np.ndarray]:
        values = {}
        for key, take in decoders:
            values[key], row = take(row)
        return (values if isinstance(space, spaces.Dict) else tuple(values.values())), row

    return decode


def _real(box: spaces.Box, values: np.ndarray) -> np.ndarray:
    """Of the declared type: whole numbers are the nearest within the bounds."""
    if box.dtype.kind == "f":
        return values.astype(box.dtype)
    low, high = box.low.ravel().astype(np.float64), box.high.ravel().astype(np.float64)
    bounded = np.clip(np.rint(values.astype(np.float64)), low, high)
    return np.clip(bounded, -_LARGEST, _LARGEST).astype(box.dtype)
