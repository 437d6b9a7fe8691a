"""Frames of a glimpse episode for human viewers."""

from __future__ import annotations

import numpy as np

_UNSEEN = np.array([40, 44, 60], dtype=np.uint8)
_WINDOW = (255, 214, 0)
_CAPTION = 24  # pixels below the image
_SIDE = 256


def frame(
    image: np.ndarray,
    window: np.ndarray,
    revealed: np.ndarray,
    guess: int,
    label: int,
    step: int,
    max_steps: int,
) -> np.ndarray:
    """RGB frame (H', W', 3) uint8, about 256 pixels wide.

    Args:
        image: (C, H, W) uint8, grey or colour.
        window: (H, W) bool, the current window.
        revealed: (H, W) bool.
        guess: the latest guess, -1 for none.
        label: the right answer.
        step: steps so far.
        max_steps: steps of a whole episode.
    """
    from PIL import Image, ImageDraw

    colours = np.broadcast_to(image if len(image) == 3 else image[:1], (3, *revealed.shape))
    pixels = np.where(revealed[..., None], colours.transpose(1, 2, 0), _UNSEEN)
    zoom = max(1, _SIDE // revealed.shape[1])
    pixels = pixels.repeat(zoom, axis=0).repeat(zoom, axis=1)
    height, width = pixels.shape[:2]
    canvas = Image.new("RGB", (width, height + _CAPTION))
    canvas.paste(Image.fromarray(pixels))
    draw = ImageDraw.Draw(canvas)
    rows, columns = np.flatnonzero(window.any(1)) * zoom, np.flatnonzero(window.any(0)) * zoom
    box = (columns[0], rows[0], columns[-1] + zoom - 1, rows[-1] + zoom - 1)
    draw.rectangle(tuple(map(int, box)), outline=_WINDOW, width=2)
    said = "no guess" if guess < 0 else f"guess {guess} {'right' if guess == label else 'wrong'}"
    text = f"step {step}/{max_steps}   {said}   (it is a {label})"
    draw.text((6, height + 6), text, fill=(255, 255, 255))
    return np.asarray(canvas).copy()
