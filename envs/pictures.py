"""Frames for people: enlarged pixels, with words, tables and axes beside them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

SIDE = 256
"""Least pixels of the longer side of a frame."""
PAPER, INK, PALE = (250, 250, 248), (30, 34, 46), (196, 200, 208)


def enlarged(pixels: np.ndarray, side: int = SIDE) -> np.ndarray:
    """A frame (H, W, 3) whose pixels are squares, so that its longer side has `side` or more."""
    zoom = -(-side // max(pixels.shape[:2]))
    return pixels if zoom <= 1 else pixels.repeat(zoom, 0).repeat(zoom, 1)


def captioned(pixels: np.ndarray, words: str) -> np.ndarray:
    """An enlarged frame with a line of words below."""
    pixels = enlarged(pixels)
    height, width = pixels.shape[:2]
    canvas, draw = blank(max(width, _width(words) + 16), height + 26)
    paste(canvas, pixels, 0, 0)
    write(draw, (8, height + 5), words)
    return finished(canvas)


def blank(width: int, height: int, colour: tuple[int, int, int] = PAPER) -> tuple[Any, Any]:
    """A canvas of Pillow's, and what draws on it."""
    from PIL import Image, ImageDraw

    canvas = Image.new("RGB", (width, height), colour)
    return canvas, ImageDraw.Draw(canvas)


def paste(canvas: Any, pixels: np.ndarray, left: int, top: int) -> None:
    """Pixels (H, W, 3) onto a canvas."""
    from PIL import Image

    canvas.paste(Image.fromarray(np.ascontiguousarray(pixels)), (left, top))


def write(
    draw: Any,
    place: tuple[float, float],
    words: str,
    colour: tuple[int, int, int] = INK,
    size: int = 14,
    anchor: str = "la",
) -> None:
    """Words at a place; `anchor` as Pillow's ("mm" centres them)."""
    draw.text(place, words, fill=colour, font=_font(size), anchor=anchor)


def finished(canvas: Any) -> np.ndarray:
    """The frame (H, W, 3) uint8."""
    return np.asarray(canvas).copy()


def line(
    position: float,
    low: float,
    high: float,
    words: str,
    shaded: Sequence[tuple[float, float, str]] = (),
) -> np.ndarray:
    """A point on an axis from `low` to `high`, (112, 384, 3).

    Args:
        position: of the point; beyond the axis it stands at its end.
        low, high: ends of the axis.
        words: above it.
        shaded: stretches (from, to, words) that are marked.
    """
    width, height, left, level = 384, 112, 24, 62
    canvas, draw = blank(width, height)

    def at(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return left + share * (width - 2 * left)

    for begin, end, name in shaded:
        draw.rectangle((at(begin), level - 16, at(end), level + 10), fill=(250, 214, 205))
        write(draw, ((at(begin) + at(end)) / 2, level - 18), name, (170, 60, 40), 11, "ms")
    draw.line((left, level, width - left, level), fill=INK, width=2)
    for tick in np.linspace(low, high, 7 if high - low > 2 else 5):
        draw.line((at(tick), level - 4, at(tick), level + 4), fill=INK)
        write(draw, (at(tick), level + 10), number(tick), size=11, anchor="ma")
    x = at(position)
    draw.ellipse((x - 7, level - 7, x + 7, level + 7), fill=(200, 40, 40), outline=INK)
    write(draw, (left - 8, 8), words)
    return finished(canvas)


@lru_cache(maxsize=16)
def _font(size: int) -> Any:
    """Matplotlib's, which has minus signs and accidentals."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


def number(value: float) -> str:
    """With a minus sign."""
    return f"{value:g}".replace("-", "−")


def _width(words: str, size: int = 14) -> int:
    return int(_font(size).getlength(words))
