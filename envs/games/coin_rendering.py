"""Frames of the coin game for human viewers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_BOARD, _LINE, _TEXT = (28, 32, 44), (70, 76, 96), (240, 240, 240)
_COLOURS = ((226, 74, 62), (66, 135, 245))
_NAMES = ("red", "blue")
_SIDE, _CAPTION = 288, 48  # pixels of the board and of the words below


def frame(
    size: int,
    horizon: int,
    cells: Sequence[int],
    coin: int,
    owner: int,
    step: int,
    picked: Sequence[int],
    score: Sequence[float],
) -> np.ndarray:
    """RGB frame (336, 288, 3) uint8: players are squares, the coin is a disc in its owner's colour.

    Arguments as in `envs.games.coin_game.CoinGameState`, of one game.
    """
    from PIL import Image, ImageDraw

    canvas = Image.new("RGB", (_SIDE, _SIDE + _CAPTION))
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((0, 0, _SIDE, _SIDE - 1), fill=_BOARD)
    side = _SIDE / size
    for line in range(1, size):
        at = round(line * side)
        draw.line((at, 0, at, _SIDE - 1), fill=_LINE)
        draw.line((0, at, _SIDE, at), fill=_LINE)

    def box(cell: int, left: float, top: float, right: float, bottom: float) -> tuple[float, ...]:
        row, column = divmod(cell, size)
        corners = (column + left, row + top, column + right, row + bottom)
        return tuple(side * corner for corner in corners)

    draw.ellipse(box(coin, 0.3, 0.3, 0.7, 0.7), fill=_COLOURS[owner], outline=_TEXT, width=2)
    together = cells[0] == cells[1]
    for player, cell in enumerate(cells):
        left, right = ((0.08, 0.48), (0.52, 0.92))[player] if together else (0.15, 0.85)
        draw.rectangle(box(cell, left, 0.15, right, 0.85), fill=_COLOURS[player])
    points = "   ".join(f"{n} {s:+.0f}" for n, s in zip(_NAMES, score, strict=True))
    draw.text((6, _SIDE + 6), f"step {step}/{horizon}   {points}", fill=_TEXT)
    for player in (0, 1):
        if picked[player]:
            whose = "its own" if picked[player] == 1 else f"{_NAMES[1 - player]}'s"
            words = f"{_NAMES[player]} took {whose} coin"
            place = (6 + player * _SIDE // 2, _SIDE + 26)
            draw.text(place, words, fill=_COLOURS[player])
    return np.asarray(canvas).copy()
