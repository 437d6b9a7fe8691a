"""The rules of harmony, counted in batches, against plain loops over every cell."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from semigradient.envs.music.chorale_rules import CHORDS, EVENTS, SPACING, WEIGHTS, Rules
from semigradient.errors import UserError


def plain(roll: np.ndarray, beat: int) -> dict[str, int]:
    """One roll (4, T), event by event, with no tensor in sight."""
    counts = dict.fromkeys(EVENTS, 0)
    voices, frames = roll.shape

    def note(voice: int, time: int) -> int | None:
        return int(roll[voice, time]) if roll[voice, time] >= 0 else None

    for t in range(frames):
        frame = [note(v, t) for v in range(voices)]
        if t % beat == 0 and None not in frame:
            classes = {pitch % 12 for pitch in frame}
            fits = any(
                classes <= {(root + step) % 12 for step in chord}
                for root in range(12)
                for chord in CHORDS
            )
            counts["chordal" if fits else "unchordal"] += 1
        for v in range(3):
            if frame[v] is not None and frame[v + 1] is not None:
                counts["crossing"] += frame[v] < frame[v + 1]
                counts["spacing"] += frame[v] - frame[v + 1] > SPACING[v]
        if t == 0:
            continue
        past = [note(v, t - 1) for v in range(voices)]
        for v in range(voices):
            if frame[v] is not None and past[v] is not None:
                size = abs(frame[v] - past[v])
                counts["leap"] += size > 12
                counts["awkward_leap"] += size in (6, 10, 11)
        for i, j in itertools.combinations(range(voices), 2):
            if None in (frame[i], frame[j], past[i], past[j]):
                continue
            one, other = frame[i] - past[i], frame[j] - past[j]
            if one == 0 or other == 0 or (one > 0) != (other > 0):
                continue
            before, after = (past[i] - past[j]) % 12, (frame[i] - frame[j]) % 12
            counts["parallel_fifths"] += before == after == 7
            counts["parallel_octaves"] += before == after == 0
        if t >= 2 * beat:
            run = roll[:, t - 2 * beat : t + 1]
            counts["held"] += bool((run >= 0).all() and (run == run[:, :1]).all())
    return counts


def rolls(beat: int, count: int, frames: int, seed: int = 0) -> torch.Tensor:
    """Rolls with everything in them: held frames, parallels, leaps, crossings, gaps."""
    rng = np.random.default_rng(seed)
    found = np.zeros((count, 4, frames), dtype=np.int64)
    for each in found:
        each[:, 0] = rng.integers(36, 82, 4)
        for t in range(1, frames):
            kind = rng.random()
            step = np.zeros(4, dtype=int)
            if kind > 0.9:
                step = rng.integers(-14, 15, 4)
            elif kind > 0.6:
                step[:] = rng.integers(-3, 4)  # all together, so intervals stay
            elif kind > 0.5:
                each[:, t - 1] = each[0, t - 1] - np.array([0, 5, 12, 24])
            each[:, t] = np.clip(each[:, t - 1] + step, 20, 100)
        if rng.random() < 0.5:
            start = rng.integers(frames)
            each[:, start:] = each[:, start : start + 1]
    return torch.from_numpy(found)


@pytest.mark.parametrize("beat", [1, 2, 4])
def test_counts_are_those_of_plain_loops(beat: int) -> None:
    whole = rolls(beat, 40, 24)
    torch.manual_seed(0)
    rates = torch.tensor([0.0, 0.05, 0.5]).repeat(14)[:40, None, None]
    partial = whole.where(torch.rand(whole.shape) >= rates, -1)
    counted = Rules(beat).count(partial)
    seen = counted.sum(0)
    for row, roll in zip(counted.tolist(), partial.numpy(), strict=True):
        assert dict(zip(EVENTS, row, strict=True)) == plain(roll, beat)
    assert (seen > 0).all()  # every rule has been at work


@pytest.mark.parametrize("beat", [1, 2, 4])
def test_notes_written_one_by_one_add_up_to_the_whole(beat: int) -> None:
    whole, rules = rolls(beat, 64, 20, seed=1), Rules(beat)
    random = torch.Generator().manual_seed(1)
    orders = torch.rand(64, 80, generator=random).argsort(1)
    roll, total = torch.full_like(whole, -1), torch.zeros(64, len(EVENTS), dtype=torch.int64)
    for count, cell in enumerate(orders.unbind(1)):
        voice, time = cell // 20, cell % 20
        rows = torch.arange(64)
        roll[rows, voice, time] = whole[rows, voice, time]
        total += rules.completed(roll, voice, time)
        if count % 16 == 0:
            assert torch.equal(total, rules.count(roll))
    assert torch.equal(total, rules.count(whole))


def test_known_chords_and_faults() -> None:
    rules = Rules(4)

    def events(*frames: tuple[int, ...]) -> dict[str, int]:
        roll = torch.tensor(frames).T[None]
        row = dict(zip(EVENTS, rules.count(roll)[0].tolist(), strict=True))
        return {name: count for name, count in row.items() if count}

    assert events((72, 67, 64, 48)) == {"chordal": 1}
    assert events((72, 67, 64, 49)) == {"unchordal": 1}
    assert events((64, 67, 60, 48)) == {"chordal": 1, "crossing": 1}
    assert events((79, 64, 60, 40)) == {"chordal": 1, "spacing": 2}
    # Soprano and bass in octaves, tenor and bass in fifths, all a tone upwards.
    assert events((72, 64, 55, 48), (74, 65, 57, 50)) == {
        "chordal": 1,
        "parallel_fifths": 1,
        "parallel_octaves": 1,
    }
    assert events((72, 67, 64, 48), (66, 67, 64, 48)) == {
        "chordal": 1,
        "awkward_leap": 1,
        "crossing": 1,
    }
    assert events((72, 67, 64, 48), (58, 67, 64, 48)) == {"chordal": 1, "leap": 1, "crossing": 1}


def test_a_chord_that_is_held_for_ever_does_not_pay() -> None:
    rules = Rules(4)
    roll = torch.tensor([72, 67, 64, 48])[None, :, None].expand(1, 4, 100)
    assert rules.potential(rules.count(roll)).item() == 25 - 92
    assert rules.potential(rules.count(roll[:, :, :8])).item() == 2
    assert len(WEIGHTS) == len(EVENTS)


def test_a_beat_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="beat=3: accepted are 1, 2, 4"):
        Rules(3)
