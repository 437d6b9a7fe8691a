"""Textbook rules of four-part harmony, as counts of local events on batches of rolls.

Every event looks at a few cells (a frame, two neighbouring frames, a run of frames) and is counted
only where all of them are known. So the score is a potential: writing a note adds the events that
it completes, and nothing else changes. Weights were chosen by the frequencies of the events
in Bach's chorales and in imitations of them; see docs/music_environments.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

from semigradient.errors import require

VOICES = 4
EVENTS = (
    "chordal",
    "unchordal",
    "crossing",
    "spacing",
    "parallel_fifths",
    "parallel_octaves",
    "leap",
    "awkward_leap",
    "held",
)
"""On a beat: pitch classes within a triad or seventh chord, or not. In every frame: voices out of
order; further apart than 12, 12, 19 semitones. Between frames: two voices in parallel fifths,
unisons or octaves; a voice moving by more than 12, or by 6, 10, 11 semitones. The same frame for
longer than two beats, every further frame."""

WEIGHTS = (1.0, -1.0, -1.0, -1.0, -2.0, -2.0, -1.0, -0.5, -1.0)

SPACING = (12, 12, 19)
"""Largest distance in semitones between soprano and alto, alto and tenor, tenor and bass."""

CHORDS = (
    (0, 4, 7),
    (0, 3, 7),
    (0, 3, 6),
    (0, 4, 8),
    (0, 4, 7, 10),
    (0, 4, 7, 11),
    (0, 3, 7, 10),
    (0, 3, 6, 10),
    (0, 3, 6, 9),
)
"""Major, minor, diminished and augmented triads; dominant, major, minor, half-diminished and
diminished sevenths, in semitones above the root."""

_PAIRS = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
_OTHERS = tuple(tuple(j for j in range(VOICES) if j != i) for i in range(VOICES))


class Rules:
    """Counts of `EVENTS` in rolls (B, 4, T) of MIDI pitches, soprano first; below 0 is unknown.

    Args:
        beat: frames of a quarter note: 4 on a grid of sixteenths, 1 on one of quarters.
        device: where the tensors live.
    """

    def __init__(self, beat: int = 4, device: str | torch.device = "cpu") -> None:
        require(beat in (1, 2, 4), f"beat={beat}: accepted are 1, 2, 4 frames per quarter note")
        self.beat, self.longest = beat, 2 * beat
        self.device = torch.device(device)
        self.weights = torch.tensor(WEIGHTS, dtype=torch.float64, device=self.device)
        self._chordal = _chordal_sets().to(self.device)
        self._spacing = torch.tensor(SPACING, device=self.device)
        self._offsets = torch.arange(-self.longest, self.longest + 1, device=self.device)
        voices = torch.arange(VOICES, device=self.device)[:, None]
        gaps = torch.arange(VOICES - 1, device=self.device)
        self._beside = (gaps == voices) | (gaps == voices - 1)  # gap k is between k and k + 1
        self._others = torch.tensor(_OTHERS, device=self.device)
        self._above = torch.where(self._others > voices, 1, -1)
        self._upper, self._lower = torch.tensor(_PAIRS, device=self.device).unbind(1)

    def potential(self, events: Tensor) -> Tensor:
        """Weighted sum (…,) float64 of counts (…, E)."""
        return events.double() @ self.weights

    def count(self, pitches: Tensor) -> Tensor:
        """All events of whole rolls (B, 4, T): (B, E) int64."""
        known = pitches >= 0
        complete = known.all(1)
        beat = complete[:, :: self.beat]
        chordal = beat & self._is_chord(pitches[:, :, :: self.beat])
        gaps = pitches[:, :-1] - pitches[:, 1:]
        both = known[:, :-1] & known[:, 1:]
        crossing, wide = both & (gaps < 0), both & (gaps > self._spacing[:, None])
        fifths, octaves = parallels(pitches[:, self._upper], pitches[:, self._lower])
        leap, awkward = leaps(pitches)
        counts = (chordal, beat & ~chordal, crossing, wide, fifths, octaves, leap, awkward)
        held = self._held(pitches, complete)
        return torch.stack([event.flatten(1).sum(1) for event in (*counts, held)], 1)

    def completed(self, pitches: Tensor, voice: Tensor, time: Tensor) -> Tensor:
        """Events (B, E) that the cell (voice, time), written last, takes part in.

        Args:
            pitches: (B, 4, T) rolls that have the new note.
            voice: (B,) where it stands.
            time: (B,) when.
        """
        rows = torch.arange(len(pitches), device=self.device)
        near, centre = self._around(pitches, time), self.longest
        here = near[:, :, centre]
        complete = (here >= 0).all(1)
        beat = complete & (time % self.beat == 0)
        chordal = beat & self._is_chord(here)
        gaps = here[:, :-1] - here[:, 1:]
        both = (here[:, :-1] >= 0) & (here[:, 1:] >= 0) & self._beside[voice]
        crossing, wide = both & (gaps < 0), both & (gaps > self._spacing)
        three = near[:, :, centre - 1 : centre + 2]
        own = three[rows, voice]
        others = three.gather(1, self._others[voice][:, :, None].expand(-1, -1, 3))
        fifths, octaves = parallels(own[:, None], others, self._above[voice][:, :, None])
        leap, awkward = leaps(own)
        counts = (crossing, wide, fifths, octaves, leap, awkward)
        summed = [event.flatten(1).sum(1) for event in counts]
        return torch.stack([chordal.long(), (beat & ~chordal).long(), *summed, self._run(near)], 1)

    def _around(self, pitches: Tensor, time: Tensor) -> Tensor:
        """Frames (B, 4, 2L+1) around `time`, unknown outside of the roll."""
        at = time[:, None] + self._offsets
        inside = (at >= 0) & (at < pitches.shape[2])
        index = at.clamp(0, pitches.shape[2] - 1)[:, None].expand(-1, VOICES, -1)
        return pitches.gather(2, index).where(inside[:, None], -1)

    def _run(self, near: Tensor) -> Tensor:
        """Windows (B,) of L+1 frames, all known and the same, that hold the frame in the middle."""
        middle = self.longest
        same = ((near >= 0) & (near == near[:, :, middle : middle + 1])).all(1).long()
        before = same[:, :middle].flip(1).cumprod(1).sum(1)
        after = same[:, middle + 1 :].cumprod(1).sum(1)
        return (before + after + 1 - self.longest).clamp(min=0)

    def _held(self, pitches: Tensor, complete: Tensor) -> Tensor:
        """Frames (B, T') that end a run of more than L frames all known and the same."""
        if pitches.shape[2] <= self.longest:
            return torch.zeros_like(complete[:, :1])
        same = complete[:, 1:] & (pitches[:, :, 1:] == pitches[:, :, :-1]).all(1)
        return same.unfold(1, self.longest, 1).all(-1)

    def _is_chord(self, pitches: Tensor) -> Tensor:
        """Whether the pitch classes of frames (B, 4, …) lie in one of `CHORDS`: (B, …) bool."""
        classes = torch.ones_like(pitches) << pitches.clamp(min=0) % 12
        soprano, alto, tenor, bass = classes.unbind(1)
        return self._chordal[soprano | alto | tenor | bass]


def parallels(upper: Tensor, lower: Tensor, sign: Tensor | int = 1) -> tuple[Tensor, Tensor]:
    """Where two voices (…, T) move together in fifths, in unisons or octaves: (…, T-1) bool.

    `sign` -1 says that `upper` is the lower one of the two.
    """
    known = (upper >= 0) & (lower >= 0)
    interval = (sign * (upper - lower)) % 12
    together = upper.diff(dim=-1) * lower.diff(dim=-1) > 0
    together = together & known[..., 1:] & known[..., :-1]
    kept = together & (interval[..., 1:] == interval[..., :-1])
    return kept & (interval[..., 1:] == 7), kept & (interval[..., 1:] == 0)


def leaps(pitches: Tensor) -> tuple[Tensor, Tensor]:
    """Where voices (…, T) move by more than an octave, and by 6, 10 or 11: (…, T-1) bool."""
    known = (pitches[..., 1:] >= 0) & (pitches[..., :-1] >= 0)
    size = pitches.diff(dim=-1).abs()
    awkward = (size == 6) | (size == 10) | (size == 11)
    return known & (size > 12), known & awkward


def _chordal_sets() -> Tensor:
    """Which of the 4096 sets of pitch classes lie within one of `CHORDS`: bool."""
    is_chordal = torch.zeros(4096, dtype=torch.bool)
    sets = torch.arange(4096)
    for chord in CHORDS:
        for root in range(12):
            chord_set = sum(1 << (root + step) % 12 for step in chord)
            is_chordal |= (sets & ~chord_set) == 0
    return is_chordal
