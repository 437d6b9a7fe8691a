"""Scores as pictures, and as files that can be played.

A film strip is T. Cooijmans, PhD thesis, figure 3.1: the erased cells of a step, the
expected notes, the written notes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semigradient.domains.music.gibbs import Rewrite
from semigradient.envs.music import midi
from semigradient.envs.music.chorale_rendering import picture
from semigradient.envs.music.chorales import PITCHES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_SOUNDFONTS = (
    "/usr/share/sounds/sf2/default-GM.sf2",
    "/usr/share/sounds/sf2/FluidR3_GM.sf2",
    "/usr/share/soundfonts/default.sf2",
)


def draw_roll(axes: Axes, pitches: Tensor, known: Tensor | None = None) -> None:
    """Draw a score (I, T) of pitch indices; unknown cells, if given, are grey."""
    shown = pitches if known is None else torch.where(known, pitches, -1)
    _show(axes, picture(shown, len(PITCHES)), pitches.shape[1])


class Frame(NamedTuple):
    """One step of one score, for a film strip."""

    place: int
    before: Tensor  # (I, T), before the step
    erased: Tensor  # (I, T) bool
    expected: Tensor  # (T, P), probabilities summed over voices; what was not erased is certain
    after: Tensor  # (I, T)


def frames(chain: Sequence[Rewrite], shown: Sequence[int], score: int = 0) -> list[Frame]:
    """Steps `shown` of one score of a chain, for a strip; 0 is the fill."""
    strip = []
    for place in shown:
        step = chain[place]
        before, erased = chain[max(0, place - 1)].pitches[score], step.erased[score]
        certain = torch.nn.functional.one_hot(before, len(PITCHES)).double()
        here = certain if step.log_probs is None else step.log_probs[score].double().exp()
        expected = torch.where(erased.unsqueeze(-1), here, certain).sum(0)
        strip.append(Frame(place, before, erased, expected, step.pitches[score]))
    return strip


def film_strip(figure: Figure | SubFigure, strip: Sequence[Frame]) -> None:
    """Draw a row for each step: what was left, what was expected, what was written."""
    axes = figure.subplots(len(strip), 3, squeeze=False)
    for row, frame in zip(axes, strip, strict=True):
        draw_roll(row[0], frame.before, ~frame.erased)
        shade = 255 * (1 - frame.expected.clamp(max=1).T.flip(0).unsqueeze(-1).expand(-1, -1, 3))
        _show(row[1], shade.to(torch.uint8).numpy(), frame.after.shape[1])
        draw_roll(row[2], frame.after)
        row[0].set_ylabel(f"step {frame.place}", fontsize=7)
    for axis, title in zip(axes[0], ("left", "expected", "written"), strict=True):
        axis.set_title(title, fontsize=8)


def save_piece(path: Path, roll: NDArray[np.int8], grid: int = 1) -> list[Path]:
    """Write a score of MIDI pitches (I, T) as picture, MIDI and, where it can be played, sound.

    Args:
        path: without suffix; its folder is made.
        roll: the score.
        grid: sixteenths per step.

    Returns:
        The files: .png, .mid and, with fluidsynth and a soundfont or with timidity, .wav.
    """
    from matplotlib.figure import Figure

    path.parent.mkdir(parents=True, exist_ok=True)
    picture, tune, sound = (path.with_name(f"{path.name}.{kind}") for kind in ("png", "mid", "wav"))
    figure = Figure(figsize=(max(3.0, roll.shape[1] / 12), 2.4), layout="constrained")
    axes = figure.subplots()
    draw_roll(axes, torch.from_numpy(roll.astype(np.int64)) - PITCHES[0])
    axes.set_xlabel({1: "sixteenths", 2: "eighths", 4: "quarters"}[grid], fontsize=7)
    figure.savefig(picture, dpi=120)
    midi.write(tune, roll, grid)
    return [picture, tune, *([sound] if play(tune, sound) else [])]


def play(tune: Path, sound: Path) -> bool:
    """Play a MIDI file into a WAV file with fluidsynth or timidity; false where neither can."""
    for command in _players(tune, sound):
        done = subprocess.run(command, capture_output=True, timeout=300, check=False)
        if done.returncode == 0 and sound.exists():
            return True
    return False


def _players(tune: Path, sound: Path) -> list[list[str]]:
    fonts = [os.environ.get("SOUNDFONT", ""), *_SOUNDFONTS]
    font = next((path for path in fonts if path and Path(path).exists()), None)
    commands = []
    if font and (fluidsynth := shutil.which("fluidsynth")):
        commands.append([fluidsynth, "-ni", "-F", str(sound), font, str(tune)])
    if timidity := shutil.which("timidity"):
        commands.append([timidity, str(tune), "-Ow", "-o", str(sound)])
    return commands


def _show(axes: Axes, image: NDArray[np.uint8], steps: int) -> None:
    """An image (…, …, 3), the highest pitch first."""
    extent = (0.0, float(steps), PITCHES[0] - 0.5, PITCHES[-1] + 0.5)
    axes.imshow(image, aspect="auto", interpolation="nearest", extent=extent)
    axes.set_yticks([48, 60, 72], ["C3", "C4", "C5"])
    axes.tick_params(labelsize=6)
