"""The cheapest models of scores: how often each voice sings a pitch, alone or after the one before.

What a network has learnt about harmony shows only beyond these, which know each voice by itself.
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
        at = roll.astype(np.int64) - PITCHES[0]
        for voice in range(voices):
            np.add.at(alone[voice], at[voice], 1)
            np.add.at(after[voice], (at[voice, :-1], at[voice, 1:]), 1)
    alone /= alone.sum(1, keepdims=True)
    after = after + _BACKED_OFF * alone[:, None]
    return Counts(np.log(alone), np.log(after / after.sum(2, keepdims=True)))


def frame_nll(counts: Counts, pieces: Chorales, pairs: bool) -> float:
    """NLL in nats a frame, averaged over all frames of a split.

    Args:
        counts: of the training split.
        pieces: to score.
        pairs: each pitch given the one before in its voice, where there is one.
    """
    total, frames = 0.0, 0
    for roll in pieces.pieces:
        at = roll.astype(np.int64) - PITCHES[0]
        voice = np.arange(len(at))[:, None]
        if pairs:
            total -= counts.alone[voice, at[:, :1]].sum()
            total -= counts.after[voice, at[:, :-1], at[:, 1:]].sum()
        else:
            total -= counts.alone[voice, at].sum()
        frames += roll.shape[1]
    return float(total / frames)
