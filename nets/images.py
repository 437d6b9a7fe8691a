"""Pictures among observations: how one lies in its box, and the convolutions that fit its size.

A picture is a box of bytes with two or three axes, or of bounded reals with sides that are no
accident; a fourth, leading axis stacks pictures. Channels come first or last: where two
neighbouring sides are equal they are height and width, otherwise the smaller outer axis holds the
channels. Values are scaled to [0, 1] by the declared bounds; reals declared in [-1, 1] stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

_LEAST_BYTES, _LEAST_REALS, _LEAST_GREY_REALS = 3, 7, 12
"""Shortest sides of pictures of bytes, of reals, and of reals without a channel axis."""


@dataclass(frozen=True)
class Layout:
    """How a picture lies in its box.

    Attributes:
        shape: (channels, height, width), stacked pictures as channels.
        axes: of the box: HW, CHW, HWC, SCHW or SHWC.
        low: declared lower bound.
        high: declared upper bound.
        dtype: declared type.
    """

    shape: tuple[int, int, int]
    axes: str
    low: float
    high: float
    dtype: np.dtype

    @property
    def is_bytes(self) -> bool:
        """Whether these are bytes in [0, 255], which every torso scales itself."""
        return self.dtype == np.uint8 and (self.low, self.high) == (0, 255)


def layout(space: spaces.Space) -> Layout | None:
    """The layout of pictures in a space; None where there are none."""
    if not isinstance(space, spaces.Box) or not getattr(space, "is_picture", True):
        return None
    axes = _axes(space.shape)
    kind = space.dtype.kind
    if axes is None or kind not in "fiu":
        return None
    low, high = uniform_bounds(space)
    is_bytes = kind in "iu" and low >= 0 and high <= 255
    is_real = kind == "f" and np.isfinite([low, high]).all() and low < high
    sizes = dict(zip(axes, space.shape, strict=True))
    channels = sizes.get("S", 1) * sizes.get("C", 1)
    least = _LEAST_BYTES if is_bytes and axes != "HW" else _LEAST_REALS
    if kind == "f" and axes == "HW":
        least = _LEAST_GREY_REALS
    if not (is_bytes or is_real) or min(sizes["H"], sizes["W"]) < least:
        return None
    return Layout((channels, sizes["H"], sizes["W"]), axes, low, high, space.dtype)


def uniform_bounds(space: spaces.Box) -> tuple[float, float]:
    """The bounds that all numbers share; infinite where they share none."""
    low, high = space.low, space.high
    if low.size == 0 or (low != low.flat[0]).any() or (high != high.flat[0]).any():
        return -np.inf, np.inf
    return float(low.flat[0]), float(high.flat[0])


def _axes(shape: Sequence[int]) -> str | None:
    if len(shape) == 2:
        return "HW"
    if len(shape) == 3:
        return _three(shape)
    return f"S{_three(shape[1:])}" if len(shape) == 4 else None


def _three(shape: Sequence[int]) -> str:
    first, middle, last = shape
    if middle == last != first:
        return "CHW"
    if first == middle != last:
        return "HWC"
    return "HWC" if last < first else "CHW"


class SmallCNN(nn.Module):
    """Convolutions for pictures of a few pixels, such as grids: (B, C, H, W) → (B, width).

        3×3 padded → 16, 32, 64, each followed by a rectifier

    with stride 2 along sides that are longer than 12, 6 and 6.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        inputs, *sides = shape
        layers: list[nn.Module] = []
        for outputs, limit in ((16, 12), (32, 6), (64, 6)):
            strides = [2 if side > limit else 1 for side in sides]
            down, right = strides
            layers += [nn.Conv2d(inputs, outputs, 3, (down, right), padding=1), nn.ReLU()]
            sides = [(side - 1) // stride + 1 for side, stride in zip(sides, strides, strict=True)]
            inputs = outputs
        self.convolutions = nn.Sequential(*layers)
        self.width = inputs * prod(sides)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, width) of images (B, C, H, W), bytes or floats."""
        if images.dtype == torch.uint8:
            images = images.float().mul_(1 / 255)
        return self.convolutions(images).flatten(1)


class Prepared(nn.Module):
    """Convolutions behind what brings pictures of any layout into theirs.

    Args:
        inner: (B, C, H, W) → (B, width).
        layout: of the pictures.
    """

    def __init__(self, inner: nn.Module, layout: Layout) -> None:
        super().__init__()
        self.inner, self.layout = inner, layout
        self.width: int = inner.width  # type: ignore[assignment]

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, width) of pictures as the box has them."""
        layout = self.layout
        if layout.axes.endswith("HWC"):
            images = images.movedim(-1, -3)
        if layout.axes == "HW":
            images = images.unsqueeze(-3)
        elif layout.axes.startswith("S"):
            images = images.flatten(-4, -3)
        if not (layout.is_bytes and images.dtype == torch.uint8):
            images = images.float()
            if (layout.low, layout.high) not in ((0, 1), (-1, 1)):
                images = (images - layout.low) / (layout.high - layout.low)
        features: Tensor = self.inner(images)
        return features


class PartsTorso(nn.Module):
    """A torso of its own for every stretch of a vector: (B, N) → (B, width).

    Args:
        torsos: of the stretches.
        shapes: of the stretches.
    """

    def __init__(self, torsos: Sequence[nn.Module], shapes: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.torsos = nn.ModuleList(torsos)
        self.shapes = [tuple(shape) for shape in shapes]
        self.width = sum(torso.width for torso in torsos)  # type: ignore[misc]

    def forward(self, rows: Tensor) -> Tensor:
        """Features (B, width), side by side."""
        stretches = rows.split([prod(shape) for shape in self.shapes], -1)
        triples = zip(self.torsos, stretches, self.shapes, strict=True)
        return torch.cat([torso(part.unflatten(-1, shape)) for torso, part, shape in triples], -1)
