"""Rolls as text, as pictures, and as frames with axes."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from semigradient.envs.pictures import INK, blank, enlarged, finished, paste, write

_LETTERS = "SATB"
_COLOURS = ((214, 69, 65), (238, 161, 51), (60, 150, 90), (52, 98, 173))
_HEIGHT, _WIDTH = 4, 8
_NOTES = ("C", "C♯", "D", "E♭", "E", "F", "F♯", "G", "A♭", "A", "B♭", "B")


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


def frame(pitches: Tensor, count: int, low: int) -> np.ndarray:
    """A roll (I, T) as a frame (H, W, 3) with its voices, pitches and frames named.

    Args:
        pitches: numbers, negative where unknown.
        count: P.
        low: MIDI pitch of number 0; 0: pitches have numbers only.
    """
    plain = enlarged(picture(pitches, count))
    voices, frames = pitches.shape
    left, top = 46, 30
    height, width = plain.shape[:2]
    canvas, draw = blank(max(left + width + 16, 260), top + height + 46)
    paste(canvas, plain, left, top)
    for voice in range(voices):
        name = _LETTERS[voice] if voices == len(_LETTERS) else f"voice {voice + 1}"
        place = left + voice * (48 if voices == len(_LETTERS) else 84)
        draw.rectangle((place, 10, place + 10, 20), fill=_COLOURS[voice])
        write(draw, (place + 15, 15), name, size=13, anchor="lm")
    row, column = height / count, width / frames
    for number in range(count):
        if row < 12 and (number + low) % 12:
            continue
        level = top + height - (number + 0.5) * row
        draw.line((left - 4, level, left, level), fill=INK)
        name = note_name(number + low) if low else f"{number}"  # pitches of toys have no names
        write(draw, (left - 7, level), name, size=11, anchor="rm")
    for time in range(0, frames, _stride(column)):
        across = left + time * column
        draw.line((across, top + height, across, top + height + 4), fill=INK)
        write(draw, (across + column / 2, top + height + 6), str(time), size=11, anchor="ma")
    write(draw, (left + width / 2, top + height + 25), "frame", size=13, anchor="ma")
    return finished(canvas)


def note_name(midi: int) -> str:
    """C4 of 60."""
    return f"{_NOTES[midi % 12]}{midi // 12 - 1}"


def _stride(column: float) -> int:
    """Frames between labels that do not touch."""
    return next(step for step in (1, 2, 4, 8, 16, 32, 64) if step * column >= 22 or step == 64)
