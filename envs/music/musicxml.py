"""Scores in MusicXML as voices on a grid of sixteenths; layout is ignored.

Reads the partwise form, compressed (`.mxl`) or not: pitch, duration, rests, backup and forward,
changes of divisions, transposing instruments. Grace notes and cues last no time and are left out.
A tied note is one note; so, on this grid, is a repeated one.
"""

from __future__ import annotations

import contextlib
import io
import xml.etree.ElementTree as ElementTree
import zipfile
from math import ceil
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from semigradient.errors import UserError, require

SILENT = -1
"""Where a voice rests."""
SUFFIXES = (".mxl", ".xml", ".musicxml")

_SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_LARGEST = 64 << 20  # bytes of one score: a megabyte is a symphony's movement
_EDGE = 1e-6  # durations are ratios of integers, so onsets miss a line of the grid by rounding only


class Note(NamedTuple):
    """A sounding note, in quarters from the beginning of its part."""

    onset: float
    end: float
    pitch: int


class PartsError(UserError):
    """A score has a different number of parts than expected."""


def read(
    path: Path, content: bytes | None = None, count: int = 4, pitches: range = range(128)
) -> NDArray[np.int8]:
    """The parts of a score: MIDI pitches (count, T) at each sixteenth, `SILENT` where one rests.

    Args:
        path: the file, or its name if `content` is given.
        content: its bytes.
        count: how many parts it must have.
        pitches: MIDI pitches that are accepted.

    Raises:
        PartsError: it has more or fewer.
        UserError: what is wrong, the file and the bar.
    """
    root = _root(path, content if content is not None else _bytes(path))
    parts = root.findall("part")
    check_parts(path, len(parts), count)
    return rolls(_bars(parts, repr(str(path)), pitches), repr(str(path)))


def check_parts(path: Path, parts: int, count: int) -> None:
    """Raise `PartsError` unless a score has `count` parts."""
    if parts != count:
        raise PartsError(f"{str(path)!r}: has {parts} parts; accepted are {count}")


def check_pitch(pitch: int, accepted: range, where: str) -> None:
    """`UserError` for a pitch that is not accepted."""
    bounds = f"{accepted[0]} to {accepted[-1]}"
    require(pitch in accepted, f"{where}: pitch {pitch}: must be in {bounds}")


def rolls(parts: list[list[Note]], where: str) -> NDArray[np.int8]:
    """Notes of each part on the grid, (I, T): at a sixteenth sounds what covers its beginning.

    Raises:
        UserError: two notes of a part sound at once.
    """
    placed = [[_steps(note) for note in notes] for notes in parts]
    length = max((end for notes in placed for _, end in notes), default=0)
    grid = np.full((len(parts), length), SILENT, dtype=np.int8)
    for number, (notes, places) in enumerate(zip(parts, placed, strict=True)):
        for note, (start, end) in zip(notes, places, strict=True):
            free = (grid[number, start:end] == SILENT).all()
            at = f"{where}, part {number + 1}, quarter {note.onset + 1:g}"
            require(bool(free), f"{at}: two notes in one voice")
            grid[number, start:end] = note.pitch
    return grid


def _steps(note: Note) -> tuple[int, int]:
    return ceil(4 * note.onset - _EDGE), ceil(4 * note.end - _EDGE)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise UserError(f"{str(path)!r}: cannot be read ({problem.strerror})") from None


def _root(path: Path, content: bytes) -> Element:
    if content[:2] == b"PK":
        content = _unzipped(path, content)
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as problem:
        raise UserError(f"{str(path)!r}, {_bar_reached(content)}: {problem}") from None
    form = root.tag
    require(form == "score-partwise", f"{str(path)!r}: is {form!r}; accepted is score-partwise")
    return root


def _unzipped(path: Path, content: bytes) -> bytes:
    """The score inside a compressed file: the one its container names, else the first."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = [name for name in archive.namelist() if not name.startswith("META-INF")]
            if "META-INF/container.xml" in archive.namelist():
                container = ElementTree.fromstring(archive.read("META-INF/container.xml"))
                named = [e.get("full-path", "") for e in container.iter() if "rootfile" in e.tag]
                names = [name for name in named if name] + names
            require(len(names) > 0, f"{str(path)!r}: holds no score")
            size = archive.getinfo(names[0]).file_size
            require(size <= _LARGEST, f"{str(path)!r}: unpacks to {size} bytes; at most {_LARGEST}")
            return archive.read(names[0])
    except (zipfile.BadZipFile, ElementTree.ParseError, KeyError, OSError, EOFError) as problem:
        raise UserError(f"{str(path)!r}: not a compressed score: {problem}") from None
    except (NotImplementedError, RuntimeError, ValueError) as problem:  # encrypted, odd methods
        raise UserError(f"{str(path)!r}: not a compressed score: {problem}") from None


def _bar_reached(content: bytes) -> str:
    """Where in a damaged document its reader was: the last part and bar that began."""
    part = bar = "?"
    with contextlib.suppress(ElementTree.ParseError):
        for _, element in ElementTree.iterparse(io.BytesIO(content), events=("start",)):
            part = element.get("id", part) if element.tag == "part" else part
            bar = element.get("number", bar) if element.tag == "measure" else bar
    return f"part {part}, bar {bar}"


def _bars(parts: list[Element], where: str, pitches: range) -> list[list[Note]]:
    """Read all parts bar by bar: a bar begins where the longest part ended the one before."""
    readers = [_Part(part, f"{where}, part {part.get('id', '?')}", pitches) for part in parts]
    for bar in range(max(len(reader.measures) for reader in readers)):
        end = max(reader.read(bar) for reader in readers)
        for reader in readers:
            reader.start = end
    return [reader.notes for reader in readers]


class _Part:
    """One part being read."""

    def __init__(self, part: Element, where: str, pitches: range) -> None:
        self.measures, self.where, self.pitches = part.findall("measure"), where, pitches
        self.divisions, self.transposed = 1.0, 0
        self.start = 0.0
        self.notes: list[Note] = []

    def read(self, bar: int) -> float:
        """Read one bar, which begins at `start`; returns where it ends, in quarters."""
        if bar >= len(self.measures):
            return self.start
        measure = self.measures[bar]
        now = end = self.start
        where = f"{self.where}, bar {measure.get('number', bar + 1)}"
        for element in measure:
            if element.tag == "attributes":
                self._attributes(element, where)
            elif element.tag == "note":
                now = self._note(element, now, where)
            elif element.tag in ("backup", "forward"):
                sign = 1 if element.tag == "forward" else -1
                now += sign * self._duration(element, where)
                # Backing up over a bar's beginning would write into the one before.
                require(now >= self.start - _EDGE, f"{where}: a backup leaves the bar")
            end = max(end, now)
        return end

    def _attributes(self, element: Element, where: str) -> None:
        if element.find("divisions") is not None:
            self.divisions = _number(element, "divisions", where)
            require(self.divisions > 0, f"{where}: divisions={self.divisions:g}: must be > 0")
        if (transpose := element.find("transpose")) is not None:
            octaves = _number(transpose, "octave-change", where, 0)
            self.transposed = int(_number(transpose, "chromatic", where) + 12 * octaves)

    def _note(self, element: Element, now: float, where: str) -> float:
        if element.find("grace") is not None or element.find("cue") is not None:
            return now
        end = now + self._duration(element, where)
        pitch = element.find("pitch")
        if pitch is None:
            kind = element.find("rest")
            require(kind is not None, f"{where}: a note without pitch that is no rest")
            return end
        require(element.find("chord") is None, f"{where}: two notes in one voice (a chord)")
        step = pitch.findtext("step", "").strip()
        require(step in _SEMITONES, f"{where}: step={step!r}: accepted are A to G")
        octave, alter = _number(pitch, "octave", where), _number(pitch, "alter", where, 0)
        midi = round(12 * (octave + 1) + _SEMITONES[step] + alter) + self.transposed
        check_pitch(midi, self.pitches, where)
        self.notes.append(Note(now, end, midi))
        return end

    def _duration(self, element: Element, where: str) -> float:
        duration = _number(element, "duration", where) / self.divisions
        require(0 <= duration < 1000, f"{where}: a duration of {duration:g} quarters")
        return duration


def _number(parent: Element, name: str, where: str, default: float | None = None) -> float:
    text = parent.findtext(name)
    if text is None and default is not None:
        return default
    try:
        number = float(text or "")
    except ValueError:
        raise UserError(f"{where}: {name}={text!r}: must be a number") from None
    require(abs(number) < 1e9, f"{where}: {name}={text!r}: must be a number")
    return number
