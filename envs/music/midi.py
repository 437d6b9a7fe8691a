"""Standard MIDI files (format 0 and 1), read and written: one track per voice, one note at a time.

Written are what the published code of Coconet writes: equal consecutive pitches as one note, 60
quarters per minute, velocity 100. Read is any file whose tracks with notes (or channels, in format
0) are voices; tempo and expression are ignored.
"""

from __future__ import annotations

import itertools
import os
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semigradient.envs.music.musicxml import Note, check_parts, check_pitch, rolls
from semigradient.errors import UserError, require

SUFFIXES = (".mid", ".midi")

_TICKS = 480  # per quarter
_NAMES = ("Soprano", "Alto", "Tenor", "Bass")


def write(path: Path, roll: NDArray[np.int8], grid: int = 1, tempo: float = 60.0) -> None:
    """Write voices as a format-1 file, one track each after one with the tempo.

    Args:
        path: of the file, which is replaced atomically.
        roll: MIDI pitches (I, T); negative where a voice rests.
        grid: sixteenths per step.
        tempo: quarters per minute.
    """
    require(tempo > 0, f"tempo={tempo:g}: must be > 0")
    head = _meta(0x51, round(60e6 / tempo).to_bytes(3, "big")) + _meta(0x58, bytes((4, 2, 24, 8)))
    tracks = [head]
    for voice, row in enumerate(roll):
        name = _NAMES[voice] if len(roll) == len(_NAMES) else f"Voice {voice + 1}"
        tracks.append(_meta(0x03, name.encode()) + _events(row, voice % 16, grid))
    content = b"MThd" + struct.pack(">IHHH", 6, 1, len(tracks), _TICKS)
    for track in tracks:
        track += _meta(0x2F, b"")
        content += b"MTrk" + struct.pack(">I", len(track)) + track
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def read(path: Path, count: int = 4, pitches: range = range(128)) -> NDArray[np.int8]:
    """Voices of a file: MIDI pitches (count, T) at each sixteenth, `SILENT` where one rests.

    Tracks without notes are left out, and what silence all voices begin with is kept.

    Raises:
        PartsError: it has more or fewer voices.
        UserError: what is wrong, and the file, the track and the bar (of four quarters).
    """
    where = repr(str(path))
    try:
        content = path.read_bytes()
    except OSError as problem:
        raise UserError(f"{where}: cannot be read ({problem.strerror})") from None
    fits = len(content) >= 14 and content[:4] == b"MThd"
    require(fits, f"{where}: not a standard MIDI file")
    size, form, tracks, ticks = struct.unpack(">IHHH", content[4:14])
    require(form in (0, 1), f"{where}: format {form}; accepted are 0 and 1")
    require(0 < ticks < 0x8000, f"{where}: time in seconds; accepted is time in quarters")
    parts: list[list[Note]] = []
    place = 8 + size
    for number in range(1, tracks + 1):
        kind, length = content[place : place + 4], content[place + 4 : place + 8]
        at = f"{where}, track {number}"
        require(kind == b"MTrk" and len(length) == 4, f"{at}: is missing or damaged")
        end = place + 8 + struct.unpack(">I", length)[0]
        require(end <= len(content), f"{at}: ends too early")
        parts += _Track(content[place + 8 : end], ticks, at, pitches).channels()
        place = end
    check_parts(path, len(parts), count)
    return rolls(parts, where)


def _events(row: NDArray[np.int8], channel: int, grid: int) -> bytes:
    """Notes of one voice: equal consecutive pitches are one note."""
    changes = np.flatnonzero(np.diff(row.astype(int), prepend=-2, append=-2))
    events, silent = b"", 0
    step = grid * _TICKS // 4
    for start, end in itertools.pairwise(changes):
        length = int(end - start) * step
        if row[start] < 0:
            silent += length
            continue
        pitch = int(row[start])
        events += _variable(silent) + bytes((0x90 | channel, pitch, 100))
        events += _variable(length) + bytes((0x80 | channel, pitch, 0))
        silent = 0
    return events


def _meta(kind: int, data: bytes) -> bytes:
    return b"\x00\xff" + bytes((kind,)) + _variable(len(data)) + data


def _variable(number: int) -> bytes:
    """Seven bits per byte, the highest first; all bytes but the last have their eighth bit set."""
    digits = [number & 0x7F]
    while number := number >> 7:
        digits.append(number & 0x7F | 0x80)
    return bytes(reversed(digits))


class _Track:
    """The events of one track."""

    def __init__(self, data: bytes, ticks: int, where: str, pitches: range) -> None:
        self.data, self.ticks, self.where, self.pitches = data, ticks, where, pitches
        self.place, self.now, self.status = 0, 0, 0
        self.sounding: dict[tuple[int, int], int] = {}
        self.notes: dict[int, list[Note]] = {}

    def channels(self) -> list[list[Note]]:
        """Notes by channel, channels in ascending order."""
        while self.place < len(self.data):
            self.now += self._number()
            if not self._event():
                break
        for channel, pitch in list(self.sounding):
            raise UserError(f"{self._at()}: note {pitch} of channel {channel + 1} never ends")
        return [self.notes[channel] for channel in sorted(self.notes)]

    def _event(self) -> bool:
        """Read one event; false at the end of the track."""
        if self._peek() & 0x80:
            self.status = self._byte()
        status = self.status
        require(status >= 0x80, f"{self._at()}: data without an event")
        if status == 0xFF:
            kind, length = self._byte(), self._number()
            self._skip(length)
            return kind != 0x2F
        if status in (0xF0, 0xF7):
            self._skip(self._number())
            return True
        require(status < 0xF0, f"{self._at()}: event {status:#x} has no place in a file")
        first = self._byte()
        second = self._byte() if status & 0xF0 not in (0xC0, 0xD0) else 0
        require(max(first, second) < 0x80, f"{self._at()}: damaged event")
        if status & 0xF0 == 0x90 and second > 0:
            self._begin(status & 0x0F, first)
        elif status & 0xF0 in (0x80, 0x90):
            self._end(status & 0x0F, first)
        return True

    def _begin(self, channel: int, pitch: int) -> None:
        check_pitch(pitch, self.pitches, self._at())
        if (channel, pitch) in self.sounding:
            self._end(channel, pitch)
        self.sounding[channel, pitch] = self.now

    def _end(self, channel: int, pitch: int) -> None:
        start = self.sounding.pop((channel, pitch), None)
        if start is not None and self.now > start:
            note = Note(start / self.ticks, self.now / self.ticks, pitch)
            self.notes.setdefault(channel, []).append(note)

    def _number(self) -> int:
        number = 0
        for _ in range(4):
            byte = self._byte()
            number = number << 7 | byte & 0x7F
            if not byte & 0x80:
                return number
        raise UserError(f"{self._at()}: a number of more than four bytes")

    def _byte(self) -> int:
        value = self._peek()
        self.place += 1
        return value

    def _peek(self) -> int:
        require(self.place < len(self.data), f"{self._at()}: ends in the middle of an event")
        return self.data[self.place]

    def _skip(self, count: int) -> None:
        self.place += count
        require(self.place <= len(self.data), f"{self._at()}: ends in the middle of an event")

    def _at(self) -> str:
        return f"{self.where}, bar {self.now // (4 * self.ticks) + 1}"
