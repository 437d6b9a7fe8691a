"""Drawn digits: images with labels for tests and demonstrations, without any data set.

Each image is a digit of seven segments, slanted, shifted and scaled at random, in a random colour
on another, with noise. The seed and the number of images decide all of them.
"""

from __future__ import annotations

import numpy as np

# Two squares on top of each other, y downwards from -1 to 1, x from -0.5 to 0.5. Each segment: its
# middle (x, y) and its half lengths along x and y.
_SEGMENTS = (
    (0.0, -1.0, 0.5, 0.0),
    (-0.5, -0.5, 0.0, 0.5),
    (0.5, -0.5, 0.0, 0.5),
    (0.0, 0.0, 0.5, 0.0),
    (-0.5, 0.5, 0.0, 0.5),
    (0.5, 0.5, 0.0, 0.5),
    (0.0, 1.0, 0.5, 0.0),
)
_LIT = (
    (1, 1, 1, 0, 1, 1, 1),
    (0, 0, 1, 0, 0, 1, 0),
    (1, 0, 1, 1, 1, 0, 1),
    (1, 0, 1, 1, 0, 1, 1),
    (0, 1, 1, 1, 0, 1, 0),
    (1, 1, 0, 1, 0, 1, 1),
    (1, 1, 0, 1, 1, 1, 1),
    (1, 0, 1, 0, 0, 1, 0),
    (1, 1, 1, 1, 1, 1, 1),
    (1, 1, 1, 1, 0, 1, 1),
)


def glyphs(count: int, size: int = 32, channels: int = 3, seed: int = 0) -> tuple:
    """Draw `count` digits.

    Args:
        count: images.
        size: pixels per side.
        channels: 3 for colour, 1 for grey.
        seed: root of the randomness.

    Returns:
        Images (count, channels, size, size) uint8, labels (count,) int64.
    """
    rng = np.random.default_rng(seed)
    draws = rng.random((count, 8 + 2 * channels), dtype=np.float32)
    labels = (draws[:, 0] * 10).astype(np.int64)
    ink = _strokes(draws[:, 1:7], labels, size)[:, None]
    back = draws[:, 8 : 8 + channels] * 0.5
    front = 0.55 + 0.45 * draws[:, 8 + channels :]
    swap = draws[:, 7] < 0.5  # half of them dark on light
    back[swap], front[swap] = 1 - back[swap], 1 - front[swap]
    images = ink * front[..., None, None] + (1 - ink) * back[..., None, None]
    images += 0.05 * rng.standard_normal(images.shape, dtype=np.float32)
    return np.round(images.clip(0, 1) * 255).astype(np.uint8), labels


def _strokes(draws: np.ndarray, labels: np.ndarray, size: int) -> np.ndarray:
    """Coverage (count, size, size) in [0, 1] of pixels by the segments of the labels."""
    scale, width = 0.45 + 0.25 * draws[:, 0], 0.07 + 0.05 * draws[:, 1]
    slant, shift = 0.5 * (draws[:, 2] - 0.5), 0.4 * (draws[:, 3:5] - 0.5)
    stretch = 0.8 + 0.4 * draws[:, 5]
    axis = ((np.arange(size) + 0.5) * 2 / size - 1).astype(np.float32)
    y = (axis[None, :, None] - shift[:, 1, None, None]) / scale[:, None, None]
    x = (axis[None, None, :] - shift[:, 0, None, None]) / (scale * stretch)[:, None, None]
    x, y = np.broadcast_arrays(x + slant[:, None, None] * y, y)
    squared = np.full(x.shape, np.inf, dtype=np.float32)
    lit = np.array(_LIT, dtype=bool)[labels]
    for index, (middle_x, middle_y, half_x, half_y) in enumerate(_SEGMENTS):
        rows = np.flatnonzero(lit[:, index])
        over_x = np.maximum(np.abs(x[rows] - middle_x) - half_x, 0)
        over_y = np.maximum(np.abs(y[rows] - middle_y) - half_y, 0)
        squared[rows] = np.minimum(squared[rows], over_x * over_x + over_y * over_y)
    gap = np.sqrt(squared) * scale[:, None, None] - width[:, None, None]
    return (0.5 - gap * (size / 2)).clip(0, 1)
