"""Baseline models of scores: each voice's pitch frequencies, alone or given the previous pitch.

They model each voice independently, so only improvements beyond them show learned harmony.
Add-0.1 counts for single pitches; pairs are backed off to them with the weight of one count.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from semigradient.envs.music.chorales import PITCHES, Chorales

Array = NDArray[np.float64]
_ADDED, _BACKED_OFF = 0.1, 1.0


class Counts(NamedTuple):
    """Log-probabilities by voice."""

    alone: Array  # (I, P)
    after: Array  # (I, P, P): previous pitch, pitch


def count(pieces: Chorales) -> Counts:
    """Count a training split."""
    voices, size = len(pieces.pieces[0]), len(PITCHES)
    alone, after = np.full((voices, size), _ADDED), np.zeros((voices, size, size))
    for roll in pieces.pieces:
        index = roll.astype(np.int64) - PITCHES[0]
        for voice in range(voices):
            np.add.at(alone[voice], index[voice], 1)
            np.add.at(after[voice], (index[voice, :-1], index[voice, 1:]), 1)
    alone /= alone.sum(1, keepdims=True)
    after = after + _BACKED_OFF * alone[:, None]
    return Counts(np.log(alone), np.log(after / after.sum(2, keepdims=True)))


def frame_nll(counts: Counts, pieces: Chorales, pairs: bool) -> float:
    """NLL in nats per frame, averaged over all frames of a split.

    Args:
        counts: of the training split.
        pieces: to score.
        pairs: each pitch given the one before in its voice, where there is one.
    """
    total, frames = 0.0, 0
    for roll in pieces.pieces:
        index = roll.astype(np.int64) - PITCHES[0]
        voice = np.arange(len(index))[:, None]
        if pairs:
            total -= counts.alone[voice, index[:, :1]].sum()
            total -= counts.after[voice, index[:, :-1], index[:, 1:]].sum()
        else:
            total -= counts.alone[voice, index].sum()
        frames += roll.shape[1]
    return float(total / frames)
