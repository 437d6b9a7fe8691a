"""The corpus and its cleaning, other sources, crops, and what is said about damaged scores."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from semigradient.envs.music import chorale_tasks, chorales, midi, musicxml
from semigradient.envs.music.chorales import Chorales
from semigradient.errors import UserError

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def everything() -> list[np.ndarray]:
    """All 365 cleaned pieces, near-duplicates too."""
    chorales.corpus()
    (path,) = chorales.cache_folder().glob("chorales-*.npz")
    found = chorales._cached(path)
    assert found is not None
    return list(found.values())


def test_the_corpus_is_the_measured_one(everything: list[np.ndarray]) -> None:
    lengths = np.array([roll.shape[1] for roll in everything])
    assert (len(lengths), lengths.min(), lengths.max(), lengths.sum()) == (365, 96, 768, 78_732)
    assert (lengths >= 128).sum() == 362
    quantiles = np.percentile(lengths, [5, 25, 50, 75, 95])
    np.testing.assert_allclose(quantiles, [128, 172, 192, 240, 378], atol=0.5)
    whole = np.concatenate(everything, axis=1)
    assert whole.min(1).tolist() == [57, 53, 48, 36]
    assert whole.max(1).tolist() == [81, 74, 69, 64]
    assert np.mean((whole[:-1] < whole[1:]).any(0)) == pytest.approx(0.022, abs=0.001)


def test_notes_hold_and_change_where_bach_has_them(everything: list[np.ndarray]) -> None:
    held = [roll[:, 1:] == roll[:, :-1] for roll in everything]
    per_voice = np.concatenate(held, axis=1).mean(1)
    np.testing.assert_allclose(per_voice, [0.803, 0.787, 0.772, 0.722], atol=6e-4)
    still = np.concatenate([each.all(0) for each in held])
    assert still.mean() == pytest.approx(0.625, abs=6e-4)
    beat = np.concatenate([np.arange(1, 1 + each.shape[1]) % 4 for each in held])
    changes = [1 - still[beat == position].mean() for position in range(4)]
    np.testing.assert_allclose(changes, [0.907, 0.006, 0.550, 0.048], atol=6e-4)


def test_splits_are_those_of_the_standard_set_and_share_no_piece() -> None:
    splits = {name: chorales.load(name) for name in chorales.SPLITS}
    assert [len(each) for each in splits.values()] == [221, 64, 70]
    names = [name for each in splits.values() for name in each.names]
    assert len(set(names)) == 355
    assert {"253", "274", "18.5-lz"} <= set(names)
    assert not {"414", "62.6", "280"} & set(names)  # the later ones of near-duplicates
    for each in splits.values():
        for roll in each.pieces:
            assert roll.dtype == np.int8
            assert roll.shape[0] == len(chorales.VOICES)
            assert chorales.PITCHES[0] <= roll.min() <= roll.max() <= chorales.PITCHES[-1]


def test_coarser_grids_take_every_second_and_fourth_sixteenth() -> None:
    fine = chorales.load("test").pieces[3]
    np.testing.assert_array_equal(chorales.load("test", 2).pieces[3], fine[:, ::2])
    np.testing.assert_array_equal(chorales.load("test", 4).pieces[3], fine[:, ::4])
    assert chorales.load("test", 4) is chorales.load("test", 4)


def test_the_second_reading_is_from_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    first = chorales.corpus()
    chorales.corpus.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(musicxml, "read", None)
        again = chorales.corpus()
    assert list(again) == list(first)
    assert all(np.array_equal(again[name], first[name]) for name in first)
    assert "music21" not in sys.modules


def test_a_damaged_cache_is_no_cache(tmp_path: Path) -> None:
    path = tmp_path / "cache.npz"
    roll = RNG.integers(40, 70, (4, 5)).astype(np.int8)
    chorales._keep(path, {"a": roll, "b": roll[:, :2]})
    found = chorales._cached(path)
    assert found is not None
    np.testing.assert_array_equal(found["b"], roll[:, :2])
    assert list(tmp_path.iterdir()) == [path]  # no temporary files
    path.write_bytes(path.read_bytes()[:-30])
    assert chorales._cached(path) is None


def test_without_music21_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"music21 is not installed; pip install .*\[music\]"):
        chorales._corpus_files()


def test_names_are_checked() -> None:
    with pytest.raises(UserError, match="split='all': accepted are train, valid, test"):
        chorales.load("all")
    with pytest.raises(UserError, match="grid=3: accepted are 1, 2, 4"):
        chorales.load("train", 3)
    with pytest.raises(UserError, match=r"source='bach': accepted are music21, an \.npz"):
        chorales.load("train", 1, "bach")


def test_rests_are_deleted_or_filled() -> None:
    rest = musicxml.SILENT
    roll = np.array([[rest, 60, 60, rest, rest, 62], [rest, rest, 57, 55, rest, rest]] * 2, np.int8)
    expected = [[60, 60, 60, 62], [57, 57, 55, 55]] * 2
    assert chorales.clean(roll).tolist() == expected
    roll[1] = rest
    with pytest.raises(UserError, match="the alto never sounds"):
        chorales.clean(roll)


# Crops -----------------------------------------------------------------------------------------


def toy(*lengths: int) -> Chorales:
    """Pieces whose pitches count the steps, in all voices."""
    pieces = [np.arange(36, 36 + n, dtype=np.int8)[None].repeat(4, 0) for n in lengths]
    return Chorales(tuple(pieces), tuple(map(str, lengths)))


def test_crops_are_uniform_over_pieces_and_offsets() -> None:
    generator = torch.Generator().manual_seed(0)
    found = chorales.crops(toy(6, 8, 3), 9000, 5, generator)
    assert found.shape == (9000, 4, 5)
    assert found.dtype == torch.int64
    assert (found == found[:, :, :1] + torch.arange(5)).all()
    starts = found[:, 0, 0].bincount(minlength=4) / 9000
    # Of the two that are long enough, one has two offsets, the other four.
    np.testing.assert_allclose(starts, [3 / 8, 3 / 8, 1 / 8, 1 / 8], atol=0.02)
    aligned = chorales.crops(toy(6, 8), 500, 3, generator, align=4)
    assert set(aligned[:, 0, 0].tolist()) == {0, 4}
    with pytest.raises(UserError, match="crops of 9 steps: the longest piece has 8"):
        chorales.crops(toy(6, 8), 1, 9)


# Other sources ---------------------------------------------------------------------------------


def separated(path: Path, content: dict[str, list[np.ndarray]]) -> None:
    """Write a file in the form of `Jsb16thSeparated.npz`: pickled arrays of float16 arrays."""
    arrays = {}
    for split, pieces in content.items():
        arrays[split] = np.empty(len(pieces), dtype=object)
        arrays[split][:] = pieces
    np.savez(path, **arrays)


def test_the_published_archive_is_read_without_running_what_it_says(tmp_path: Path) -> None:
    piece = RNG.integers(36, 82, (20, 4)).astype(np.float16)
    silent = piece.copy()
    silent[3] = np.nan
    silent[7, 2] = np.nan
    path = tmp_path / "Jsb.npz"
    separated(path, {"train": [piece, silent], "test": [piece[:, :3]], "valid": [piece - 20]})
    found = chorales.load("train", 1, str(path))
    np.testing.assert_array_equal(found.pieces[0], piece.T)
    filled = silent.copy()
    filled[7, 2] = filled[6, 2]
    np.testing.assert_array_equal(found.pieces[1], np.delete(filled, 3, axis=0).T)
    with pytest.raises(UserError, match=r"piece 0: shape \(20, 3\); accepted are four voices"):
        chorales.load("test", 1, str(path))
    with pytest.raises(UserError, match="piece 0: pitches outside 36 to 81"):
        chorales.load("valid", 1, str(path))


class Command:
    """Unpickled carelessly, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_an_archive_that_names_anything_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, train=np.array([Command(tmp_path / "here")], dtype=object))
    with pytest.raises(UserError, match=r"not an archive of chorales: names posix"):
        chorales.load("train", 1, str(path))
    assert not (tmp_path / "here").exists()
    path.write_bytes(b"PK")
    with pytest.raises(UserError, match="not an archive of chorales"):
        chorales.load("test", 1, str(path))
    with pytest.raises(UserError, match="no such file"):
        chorales.load("train", 1, str(tmp_path / "none.npz"))


# Scores ----------------------------------------------------------------------------------------


def note(pitch: str, duration: int, extra: str = "") -> str:
    step, alter, octave = pitch[0], pitch.count("#") - pitch.count("b"), pitch[-1]
    inner = f"<step>{step}</step><alter>{alter}</alter><octave>{octave}</octave>"
    return f"<note>{extra}<pitch>{inner}</pitch><duration>{duration}</duration></note>"


def score(*parts: str, divisions: int = 4) -> str:
    """Parts whose bars are separated by |."""
    text = ""
    for number, part in enumerate(parts, 1):
        text += f'<part id="P{number}">'
        for bar, content in enumerate(part.split("|"), 1):
            first = f"<attributes><divisions>{divisions}</divisions></attributes>" * (bar == 1)
            text += f'<measure number="{bar}">{first}{content}</measure>'
        text += "</part>"
    return f'<?xml version="1.0"?><score-partwise version="3.1">{text}</score-partwise>'


PLAIN = score(
    note("C5", 8) + note("B4", 8) + "|" + note("C5", 16),
    note("G4", 16) + "|" + note("E4", 4) + "<forward><duration>4</duration></forward>"
    "<backup><duration>4</duration></backup>" + note("F#4", 12),
    note("E4", 16) + "|" + "<note><rest/><duration>8</duration></note>" + note("Eb4", 8),
    note("D3", 1, "<grace/>").replace("<duration>1</duration>", "")
    + note("C3", 16)
    + "|"
    + note("C3", 16),
)


def test_musicxml_by_hand(tmp_path: Path) -> None:
    expected = np.array(
        [
            [72] * 8 + [71] * 8 + [72] * 16,
            [67] * 16 + [64] * 4 + [66] * 12,
            [64] * 24 + [63] * 8,  # the rest is filled
            [48] * 32,
        ]
    )
    plain, zipped = tmp_path / "a.musicxml", tmp_path / "b.mxl"
    plain.write_text(PLAIN)
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("other.xml", "<nothing/>")
        archive.writestr("score.xml", PLAIN)
        container = '<container><rootfiles><rootfile full-path="score.xml"/></rootfiles>'
        archive.writestr("META-INF/container.xml", container + "</container>")
    for path in (plain, zipped):
        np.testing.assert_array_equal(chorales.read_score(path), expected)
    assert (musicxml.read(plain)[2, 16:24] == musicxml.SILENT).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s[: s.index('"2"><note><pitch><step>E') + 60], r"a\.xml', part P2, bar 2: "),
        (lambda s: s.replace(">F<", ">H<"), "part P2, bar 2: step='H': accepted are A to G"),
        (lambda s: s.replace("<octave>3", "<octave>x"), "part P4, bar 1: octave='x': must be a"),
        (lambda s: s.replace("<octave>3", "<octave>1"), "P4, bar 1: pitch 24: must be in 36 "),
        (lambda s: s.replace("<octave>3", "<octave>x3"), "part P4, bar 1: octave='x3'"),
        (lambda s: s[: s.index('<part id="P4">')] + "</score-partwise>", "has 3 parts; accepted"),
        (lambda s: s.replace("<backup><duration>4", "<backup><duration>9"), "bar 2: a backup leav"),
        (lambda s: s.replace("<rest/>", ""), "part P3, bar 2: a note without pitch that is no"),
        (lambda s: s.replace("<rest/>", "<chord/>" + "<pitch><step>A</step><octave>4</octave></pitch>"), "P3, bar 2: two notes in one voice"),  # noqa: E501
        (lambda s: s.replace("<divisions>4", "<divisions>0"), "P1, bar 1: divisions=0: must be >"),
        (lambda s: s.replace("score-partwise", "opus"), "is 'opus'; accepted is score-partwise"),
        (lambda s: "PK" + s, "not a compressed score"),
    ],
)  # fmt: skip
def test_damaged_scores_are_named_with_their_bar(tmp_path: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "a.xml"
    path.write_text(change(PLAIN))
    with pytest.raises(UserError, match=message) as caught:
        chorales.read_score(path)
    assert "a.xml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_broken_file_leaves_its_neighbours_unharmed(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "good.xml").write_text(PLAIN)
    midi.write(tmp_path / "train" / "other.mid", chorales.load("test").pieces[0])
    (tmp_path / "train" / "bad.xml").write_text(PLAIN.replace(">F<", ">H<"))
    with pytest.warns(UserWarning, match=r"left out: .*bad\.xml', part P2, bar 2: step='H'"):
        found = chorales.load("train", 1, str(tmp_path))
    assert found.names == ("good", "other")
    with pytest.raises(UserError, match=r"test'?: no scores there"):
        chorales.load("test", 1, str(tmp_path))


# MIDI ------------------------------------------------------------------------------------------


def test_chorales_survive_midi(tmp_path: Path) -> None:
    for grid in (1, 2, 4):
        roll = chorales.load("valid", grid).pieces[5]
        midi.write(tmp_path / "a.mid", roll, grid)
        np.testing.assert_array_equal(chorales.read_score(tmp_path / "a.mid")[:, ::grid], roll)


def test_midi_bytes_by_hand(tmp_path: Path) -> None:
    """Two quarters of one voice: held, silent and moved."""
    path = tmp_path / "a.mid"
    midi.write(path, np.array([[60, 60, 60, 60, -1, -1, 62, 62]], np.int8))
    content = path.read_bytes()
    assert content[:14] == b"MThd\0\0\0\6\0\1\0\2\1\xe0"
    assert b"\0\xff\x51\3\x0f\x42\x40" in content  # a million microseconds a quarter
    quarter, half = b"\x83\x60", b"\x81\x70"  # 480 and 240 ticks
    notes = b"\0\x90\x3c\x64" + quarter + b"\x80\x3c\0" + half + b"\x90\x3e\x64" + half
    assert notes + b"\x80\x3e\0\0\xff\x2f\0" in content
    assert midi.read(path, count=1).tolist() == [[60, 60, 60, 60, -1, -1, 62, 62]]


def test_format_zero_has_a_voice_in_each_channel(tmp_path: Path) -> None:
    path = tmp_path / "a.mid"
    events = b"\0\xc0\x13\0\x90\x3c\x40\0\x91\x30\x40\x60\x80\x3c\0\0\x90\x3e\x40\x60\x3e\0"
    track = events + b"\0\x81\x30\0\0\xff\x2f\0"  # the second pitch ends by running status
    head = b"MThd\0\0\0\6\0\0\0\1\0\x60"
    path.write_bytes(head + b"MTrk" + len(track).to_bytes(4, "big") + track)
    assert midi.read(path, 2).tolist() == [[60] * 4 + [62] * 4, [48] * 8]
    with pytest.raises(UserError, match="has 2 parts; accepted are 4"):
        chorales.read_score(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[:10], "not a standard MIDI file"),
        (lambda b: b[:9] + b"\2" + b[10:], "format 2; accepted are 0 and 1"),
        (lambda b: b[:12] + b"\xe7\x28" + b[14:], "time in seconds"),
        (lambda b: b[:-4], r"track 5: ends too early"),
        (lambda b: b.replace(b"\x90\x3d", b"\x90\x8d", 1), "track 2, bar 2: damaged event"),
        (lambda b: b.replace(b"\x80\x3d", b"\x80\x3e", 1), "track 2, bar 2: note 61 .* never ends"),
        (lambda b: b.replace(b"\x80\x3d", b"\xf1\x3d", 1), "track 2, bar 2: event 0xf1 has no"),
    ],
)
def test_damaged_midi_is_named_with_its_bar(tmp_path: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "a.mid"
    roll = np.array([[60] * 16 + [61] * 4, *([[50] * 20] * 3)], np.int8)
    midi.write(path, roll)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=message):
        chorales.read_score(path)


# Tasks -----------------------------------------------------------------------------------------


def test_tasks_know_what_they_say() -> None:
    known = {task: chorale_tasks.known(task, 2, 4, 8)[1] for task in chorale_tasks.TASKS}
    assert not known["scratch"].any()
    assert known["harmonize"].sum(1).tolist() == [8, 0, 0, 0]
    assert known["bridge"][2].tolist() == [True] * 2 + [False] * 4 + [True] * 2
    assert known["upsample"][1].tolist() == [True, False] * 4
    assert chorale_tasks.known("voice:2", 1, 4, 8)[0].sum(1).tolist() == [8, 8, 0, 8]
    generator = torch.Generator().manual_seed(0)
    rate = chorale_tasks.known("inpaint", 50, 4, 100, generator, 0.3).double().mean()
    assert rate == pytest.approx(0.3, abs=0.01)
    assert chorale_tasks.upsample(torch.tensor([[1, 2]])).tolist() == [[1, 1, 2, 2]]
    for task in ("voice:4", "voice:x", "harmonise", "voice"):
        with pytest.raises(UserError, match=task):
            chorale_tasks.known(task, 1, 4, 8)


def test_the_training_law_is_uniform_in_size_and_then_in_place() -> None:
    generator = torch.Generator().manual_seed(1)
    known = chorale_tasks.orderless(40_000, 2, 3, generator)
    hidden = (~known).flatten(1).sum(1)
    np.testing.assert_allclose(hidden.bincount(minlength=7) / 40_000, [0] + [1 / 6] * 6, atol=0.01)
    two = (~known).flatten(1)[hidden == 2]
    pairs = (two.double().T @ two.double()).triu(1) / len(two)
    np.testing.assert_allclose(pairs[pairs > 0], [1 / 15] * 15, atol=0.015)
