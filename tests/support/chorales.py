"""Made-up chorales."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from semigradient.envs.music import midi
from semigradient.envs.music.chorale_setting import RANGES


def pieces(lengths: tuple[int, ...] = (40, 64, 33)) -> list[np.ndarray]:
    """Four voices that wander within their ranges."""
    rng = np.random.default_rng(0)
    found = []
    for length in lengths:
        start = np.array([69, 63, 57, 48])[:, None]
        walk = start + rng.integers(-2, 3, (4, length)).cumsum(1)
        low, high = np.array(RANGES).T
        found.append(np.clip(walk, low[:, None], high[:, None]).astype(np.int8))
    return found


def write_pieces(root: Path) -> str:
    """A folder of train, valid and test with these pieces as MIDI files."""
    for split in ("train", "valid", "test"):
        (root / split).mkdir(exist_ok=True)
        for index, piece in enumerate(pieces()):
            midi.write(root / split / f"{index}.mid", piece)
    return str(root)
