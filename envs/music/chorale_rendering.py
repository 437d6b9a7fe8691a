"""Rolls as text and as pictures."""

from __future__ import annotations

import numpy as np
from torch import Tensor

_LETTERS = "SATB"
_COLOURS = ((214, 69, 65), (238, 161, 51), (60, 150, 90), (52, 98, 173))
_HEIGHT, _WIDTH = 4, 8


def text(pitches: Tensor, count: int) -> str:
    """A roll (I, T) as P lines of T letters, the highest pitch first.

    Voices are S, A, T, B, a star where they meet; frames with unknown cells are dotted.
    """
    roll = pitches.cpu().numpy()
    lines = []
    for pitch in range(count - 1, -1, -1):
        line = ""
        for frame in roll.T:
            here = np.flatnonzero(frame == pitch)
            blank = "." if (frame < 0).any() else " "
            line += blank if len(here) == 0 else "*" if len(here) > 1 else _LETTERS[here[0]]
        lines.append(line)
    return "\n".join(lines)


def picture(pitches: Tensor, count: int) -> np.ndarray:
    """A roll (I, T) as (4P, 8T, 3) uint8; the more of a frame is unknown, the greyer it is."""
    roll = pitches.cpu().numpy()
    voices, frames = roll.shape
    unknown = (roll < 0).mean(0)
    image = np.repeat((255 - 90 * unknown).astype(np.uint8)[None], count, 0)
    image = np.repeat(image[:, :, None], 3, 2)
    for voice in range(voices - 1, -1, -1):
        at = np.flatnonzero(roll[voice] >= 0)
        image[count - 1 - roll[voice, at], at] = _COLOURS[voice]
    assert image.shape == (count, frames, 3)
    return image.repeat(_HEIGHT, 0).repeat(_WIDTH, 1)
