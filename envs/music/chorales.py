"""Four-voice chorales as piano rolls: Bach's, from music21's corpus, or the user's own scores.

Every voice sounds exactly one pitch at every step of a grid of sixteenths, eighths or quarters;
a held note and a repeated one are the same. Coarser grids take every second or fourth sixteenth.

The MusicXML files in the package music21 are read directly: the package is located, not imported,
and nothing is downloaded. Of its 410 pieces by Bach 365 have four parts. They
are cleaned so: steps where all voices rest are deleted, the few other rests are filled with the
voice's pitch before, and the later one of each pair of near-duplicates is left out. The split
follows Boulanger-Lewandowski's of 2012 (229/76/77 pieces) where a piece has its counterpart there:
221/64/70 pieces, a close relative of that split and not the same.

Source: T. Cooijmans, PhD thesis, section 3.3 (representation); Huang et al. 2017, whose data
`Jsb16thSeparated.npz` can be named as a source.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import pickle
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semigradient.envs.music import midi, musicxml
from semigradient.envs.music.musicxml import SILENT
from semigradient.errors import UserError, missing, require

Roll = NDArray[np.int8]
"""MIDI pitches (4, T)."""

PITCHES = range(36, 82)
"""MIDI pitches of the corpus, C2 to A5; indices 0 to 45 stand for them in networks."""
VOICES = ("soprano", "alto", "tenor", "bass")
SPLITS = ("train", "valid", "test")
GRIDS = {1: "sixteenths", 2: "eighths", 4: "quarters"}
"""Sixteenths per step of each grid."""

_VERSION = 1  # of the reader and its cleaning: another one makes cached files stale

_VALID = """10.7 103.6 11.6 111.6 115.6 121.6 127.5 133.6 14.5 140.7 151.5 154.8 168.6 169.7 17.7
    177.5 179.6 188.6 197.10 2.6 226.2 244.46 245.17 25.6 258 261 264 268 269 275 280 281 287 288
    302 307 310 314 315 318 319 323 329 341 347 351 354 355 36.4-2 362 365 367 383 391 400 408 411
    414 417 418 420 434 435 438 77.6 88.7"""
_TEST = """102.7 110.7 112.5 114.7 126.6 13.6 145-a 148.6 153.9 159.5 174.5 184.5 197.5 244.3 245.14
    245.37 245.5 248.46-5 248.53-5 256 270 276 289 290 291 292 294 298 306 311 316 317 32.6 326 327
    331 338 339 340 350 36.8-2 361 366 37.6 371 393 40.8 404 405 410 419 429 43.11 430 431 45.7 57.8
    60.5 64.4 65.7 67.7 69.6-a 7.7 78.7 85.6 87.7 9.7 90.5 93.7 99.6"""
_REPEATED = {  # near-duplicates: the piece left out, and the one it repeats
    "177.4": "117.4",
    "279": "158.4",
    "280": "176.6",
    "18.5-w": "18.5-lz",
    "398": "197.7-a",
    "20.7": "20.11",
    "227.11": "227.1",
    "244.17": "244.15",
    "414": "253",
    "62.6": "274",
}


@dataclass(frozen=True)
class Chorales:
    """Chorales of one split, read-only by convention: all users share the same memory."""

    pieces: tuple[Roll, ...]
    """MIDI pitches (4, T) int8, soprano to bass; every entry sounds."""
    names: tuple[str, ...]
    """BWV numbers, or names of files."""
    grid: int = 1
    """Sixteenths per step."""

    def __len__(self) -> int:
        return len(self.pieces)


@lru_cache(maxsize=16)
def load(split: str = "train", grid: int = 1, source: str = "music21") -> Chorales:
    """Chorales of one split; repeated calls return the same memory.

    Args:
        split: train, valid or test.
        grid: sixteenths per step: 1, 2 or 4.
        source: music21; the path of a file like `Jsb16thSeparated.npz`; or a folder with the
            subfolders train, valid and test of MusicXML and MIDI files.

    Raises:
        UserError: unknown names, music21 missing, files that cannot be read. Of a folder's files,
            those that cannot be read are left out with a warning that names file and bar.
    """
    require(split in SPLITS, f"split={split!r}: accepted are {', '.join(SPLITS)}")
    require(grid in GRIDS, f"grid={grid!r}: accepted are 1, 2, 4 sixteenths per step")
    if source == "music21":
        pieces = [(name, roll) for name, roll in corpus().items() if split_of(name) == split]
    elif Path(source).expanduser().is_dir():
        pieces = list(_folder(Path(source).expanduser() / split).items())
    elif source.endswith(".npz"):
        pieces = list(_separated(Path(source).expanduser(), split).items())
    else:
        raise UserError(f"source={source!r}: accepted are music21, an .npz file or a folder")
    rolls = tuple(np.ascontiguousarray(roll[:, ::grid]) for _, roll in pieces)
    return Chorales(rolls, tuple(name for name, _ in pieces), grid)


def crops(
    chorales: Chorales,
    batch: int,
    length: int,
    generator: torch.Generator | None = None,
    align: int = 1,
) -> Tensor:
    """Random crops of random pieces: pitch indices (B, 4, T) int64, 0 for `PITCHES[0]`.

    Pieces are drawn uniformly among those that are long enough, then offsets uniformly.

    Args:
        chorales: the pieces.
        batch: B.
        length: T.
        generator: source of randomness.
        align: crops begin at multiples of this many steps.

    Raises:
        UserError: no piece is that long.
    """
    packed = _packed(chorales)
    fit = (packed.lengths >= length).nonzero().squeeze(1)
    longest = int(packed.lengths.max())
    require(len(fit) > 0, f"crops of {length} steps: the longest piece has {longest}")
    chosen = fit[torch.randint(len(fit), (batch,), generator=generator)]
    places = (packed.lengths[chosen] - length) // align + 1
    offsets = (torch.rand(batch, generator=generator, dtype=torch.float64) * places).long()
    columns = (packed.starts[chosen] + offsets * align)[:, None] + torch.arange(length)
    return packed.columns[columns].transpose(1, 2).long()


def indices(roll: Roll) -> Tensor:
    """Pitch indices (4, T) int64 of MIDI pitches."""
    return torch.from_numpy(roll.astype(np.int64)) - PITCHES[0]


def split_of(name: str) -> str:
    """Which split a BWV number of the corpus belongs to."""
    return "valid" if name in _VALID.split() else "test" if name in _TEST.split() else "train"


@lru_cache(maxsize=1)
def corpus() -> dict[str, Roll]:
    """All chorales of music21 on sixteenths, cleaned, without near-duplicates, by BWV number.

    Read once, about ten seconds, then kept in the user's cache folder under a digest of the files
    and of the reader's version.
    """
    files = _corpus_files()
    digest = hashlib.sha256(repr(_VERSION).encode())
    for name, content in files.items():
        digest.update(f"{name} {len(content)} ".encode() + content)
    path = cache_folder() / f"chorales-{digest.hexdigest()[:16]}.npz"
    pieces = _cached(path)
    if pieces is None:
        pieces = {}
        for name, content in files.items():
            with contextlib.suppress(musicxml.PartsError):
                pieces[_bwv(name)] = clean(musicxml.read(Path(name), content), name)
        _keep(path, pieces)
    return {name: roll for name, roll in pieces.items() if name not in _REPEATED}


def read_score(path: Path) -> Roll:
    """One score of four voices, MusicXML or MIDI, on sixteenths, cleaned.

    Raises:
        UserError: naming the file and, where there is one, the bar.
    """
    suffix = path.suffix.lower()
    if suffix in midi.SUFFIXES:
        roll = midi.read(path, pitches=PITCHES)
    else:
        suffixes = (*musicxml.SUFFIXES, *midi.SUFFIXES)
        require(suffix in suffixes, f"{str(path)!r}: accepted are files {', '.join(suffixes)}")
        roll = musicxml.read(path, pitches=PITCHES)
    return clean(roll, repr(str(path)))


def clean(roll: Roll, where: str = "a score") -> Roll:
    """Delete the steps where all voices rest; fill other rests with the voice's pitch before.

    At the beginning a voice takes its first pitch.

    Raises:
        UserError: a voice never sounds.
    """
    roll = roll[:, (roll != SILENT).any(0)]
    for voice, row in zip(VOICES, roll, strict=True):
        require(bool((row != SILENT).any()), f"{where}: the {voice} never sounds")
    steps = np.where(roll != SILENT, np.arange(roll.shape[1]), -1)
    last = np.maximum.accumulate(steps, axis=1)
    first = (roll != SILENT).argmax(axis=1)[:, None]
    return np.take_along_axis(roll, np.where(last < 0, first, last), axis=1)


def cache_folder() -> Path:
    """Folder of cached results: $SEMIGRADIENT_CACHE, else the user's cache folder."""
    if chosen := os.environ.get("SEMIGRADIENT_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "semigradient"


@dataclass(frozen=True)
class _Packed:
    """Pieces end to end: columns (sum of T, 4) of pitch indices; each piece's start and length."""

    columns: Tensor
    starts: Tensor
    lengths: Tensor


_PACKED: dict[int, tuple[Chorales, _Packed]] = {}


def _packed(chorales: Chorales) -> _Packed:
    """The same memory for the same pieces."""
    held = _PACKED.get(id(chorales))
    if held is None or held[0] is not chorales:
        require(len(chorales) > 0, "crops: there are no pieces")
        lengths = torch.tensor([roll.shape[1] for roll in chorales.pieces])
        columns = torch.from_numpy(np.concatenate(chorales.pieces, axis=1).T.copy()) - PITCHES[0]
        if len(_PACKED) >= 16:
            _PACKED.clear()
        held = (chorales, _Packed(columns, lengths.cumsum(0) - lengths, lengths))
        _PACKED[id(chorales)] = held
    return held[1]


def _corpus_files() -> dict[str, bytes]:
    spec = importlib.util.find_spec("music21")
    if spec is None or not spec.submodule_search_locations:
        missing("source='music21'", "music21", "music")
    folder = Path(next(iter(spec.submodule_search_locations))) / "corpus" / "bach"
    paths = sorted(path for path in _listed(folder) if path.suffix in musicxml.SUFFIXES)
    require(len(paths) > 0, f"{str(folder)!r}: music21 has no scores by Bach there")
    return {path.name: path.read_bytes() for path in paths}


def _bwv(name: str) -> str:
    return Path(name).stem.removeprefix("bwv")


def _listed(folder: Path) -> Iterable[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _folder(folder: Path) -> dict[str, Roll]:
    """All readable scores of a folder; raises the first error if none is readable."""
    suffixes = (*musicxml.SUFFIXES, *midi.SUFFIXES)
    paths = [path for path in _listed(folder) if path.suffix.lower() in suffixes]
    require(len(paths) > 0, f"{str(folder)!r}: no scores there; accepted are {', '.join(suffixes)}")
    scores, problems = {}, []
    for path in paths:
        try:
            scores[path.stem] = read_score(path)
        except UserError as problem:
            problems.append(str(problem))
    if not scores:
        raise UserError(problems[0])
    for message in problems:
        warnings.warn(f"left out: {message}", stacklevel=2)
    return scores


def _cached(path: Path) -> dict[str, Roll] | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            columns, ends, names = stored["columns"], stored["ends"], stored["names"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    rolls = np.split(columns, ends[:-1], axis=1)
    return {str(name): roll for name, roll in zip(names, rolls, strict=True)}


def _keep(path: Path, pieces: dict[str, Roll]) -> None:
    """Write the cache atomically; failures to write are ignored."""
    rolls = list(pieces.values())
    ends = np.cumsum([roll.shape[1] for roll in rolls])
    columns, names = np.concatenate(rolls, axis=1), np.array(list(pieces))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            np.savez_compressed(file, columns=columns, ends=ends, names=names)
        os.replace(file.name, path)
    except OSError:
        return


class _ArraysOnly(pickle.Unpickler):
    """Unpickles arrays of arrays only, and refuses everything else."""

    _known = frozenset({"_reconstruct", "ndarray", "dtype", "scalar"})

    def find_class(self, module: str, name: str) -> object:
        if module.split(".")[0] != "numpy" or name not in self._known:
            raise pickle.UnpicklingError(f"names {module}.{name}")
        if name in ("ndarray", "dtype"):
            return getattr(np, name)
        return getattr(np._core.multiarray, name)  # type: ignore[attr-defined]


def _separated(path: Path, split: str) -> dict[str, Roll]:
    """A split of an archive of arrays (T, 4) of MIDI pitches, NaN where a voice rests."""
    require(path.is_file(), f"source={str(path)!r}: no such file")
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{split}.npy") as file:
            version = np.lib.format.read_magic(file)
            require(version == (1, 0), f"{str(path)!r}: arrays of version {version}")
            np.lib.format.read_array_header_1_0(file)
            arrays: Sequence[np.ndarray] = _ArraysOnly(file, encoding="latin1").load()
        return {f"{split}-{i}": _voices(array, path, i) for i, array in enumerate(arrays)}
    except (zipfile.BadZipFile, KeyError, pickle.UnpicklingError, EOFError, OSError) as problem:
        raise UserError(f"{str(path)!r}: not an archive of chorales: {problem}") from None
    except (ValueError, TypeError, AttributeError, IndexError) as problem:
        if isinstance(problem, UserError):
            raise
        raise UserError(f"{str(path)!r}: not an archive of chorales: {problem}") from None


def _voices(array: np.ndarray, path: Path, piece: int) -> Roll:
    voices = array.shape[1] if array.ndim == 2 else 0
    where = f"{str(path)!r}, piece {piece}"
    require(voices == 4, f"{where}: shape {array.shape}; accepted are four voices (T, 4)")
    pitches = np.nan_to_num(array.astype(np.float64), nan=SILENT)
    pitches = np.where(pitches <= 0, SILENT, pitches)
    sounding = pitches[pitches != SILENT]
    inside = (sounding >= PITCHES[0]) & (sounding <= PITCHES[-1])
    require(bool(inside.all()), f"{where}: pitches outside {PITCHES[0]} to {PITCHES[-1]}")
    return clean(pitches.T.astype(np.int8), where)
