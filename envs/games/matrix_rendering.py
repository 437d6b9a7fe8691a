"""Frames of 2×2 games for people: the table of payoffs, and the last moves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from semigradient.envs.pictures import INK, PALE, blank, finished, number, write

LETTERS = "AB"
_COLOURS = ((222, 92, 78), (74, 134, 226))
_LIT, _DARK = (255, 226, 128), (236, 238, 242)
_LEFT, _TOP, _WIDTH, _HEIGHT = 96, 84, 124, 70
SHOWN = 12
"""Moves of the past in a frame."""


def frame(payoff: np.ndarray, outcomes: Sequence[int], rounds: int) -> np.ndarray:
    """RGB frame (316, 356, 3) uint8.

    Args:
        payoff: (2, 4), of both players for AA, AB, BA, BB.
        outcomes: numbers of the last outcomes among these, the newest last.
        rounds: so far.
    """
    canvas, draw = blank(_LEFT + 2 * _WIDTH + 12, 316)
    write(draw, (12, 10), f"round {rounds}" if rounds else "before the first round", size=16)
    write(draw, (_LEFT + _WIDTH, 40), "second player", _COLOURS[1], 13, "ma")
    write(draw, (12, _TOP + _HEIGHT), "first\nplayer", _COLOURS[0], 13, "lm")
    for index, letter in enumerate(LETTERS):
        across, down = _LEFT + (index + 0.5) * _WIDTH, _TOP + (index + 0.5) * _HEIGHT
        write(draw, (across, _TOP - 6), letter, _COLOURS[1], 18, "ms")
        write(draw, (_LEFT - 14, down), letter, _COLOURS[0], 18, "mm")
    for outcome in range(4):
        row, column = divmod(outcome, 2)
        left, top = _LEFT + column * _WIDTH, _TOP + row * _HEIGHT
        lit = bool(outcomes) and outcomes[-1] == outcome
        corners = (left, top, left + _WIDTH, top + _HEIGHT)
        draw.rectangle(corners, fill=_LIT if lit else _DARK, outline=INK, width=2 if lit else 1)
        middle = top + _HEIGHT / 2
        for player in (0, 1):
            across = left + (0.28, 0.72)[player] * _WIDTH
            write(
                draw, (across, middle), number(payoff[player, outcome]), _COLOURS[player], 20, "mm"
            )
    _moves(draw, outcomes)
    return finished(canvas)


def _moves(draw: object, outcomes: Sequence[int]) -> None:
    """Both players' last moves, the newest on the right."""
    top = _TOP + 2 * _HEIGHT + 16
    write(draw, (12, top), "last moves, the newest on the right", size=12)
    for player, name in enumerate(("first", "second")):
        level = top + 30 + 24 * player
        write(draw, (12, level), name, _COLOURS[player], 13, "lm")
        for place, outcome in enumerate(outcomes[-SHOWN:]):
            letter = LETTERS[divmod(outcome, 2)[player]]
            write(draw, (_LEFT - 14 + 21 * place, level), letter, _COLOURS[player], 16, "mm")
    if not outcomes:
        write(draw, (_LEFT - 20, top + 30), "–", PALE, 16, "lm")
