"""Common ground of the environments of four-part writing: corpus, rolls, conditionals.

A roll is (I, T): I voices, soprano first, T frames, one of P pitches in every cell. The corpus is
Bach's chorales, read by `envs.music.chorales`, or the exact joint of `envs.music.toy_chorale`. A
model is any function that gives log-probabilities (B, I, T, P) of every cell given the cells that
are known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from semigradient.envs.music.chorale_rules import Rules
from semigradient.envs.music.chorale_tasks import known
from semigradient.envs.music.toy_chorale import toy_joint
from semigradient.envs.options import Options
from semigradient.errors import UserError, require
from semigradient.registry import MODELS
from semigradient.validate import at_least, first_line

Conditionals = Callable[[Tensor, Tensor], Tensor]
"""Log-probabilities (B, I, T, P) of pitch indices (B, I, T) int64 and what is known (B, I, T) bool.
Pitches at unknown cells are ignored. Likelihoods and samplers take any such callable."""

ILLEGAL = -10.0
"""Reward of an action that changes nothing because it is not allowed."""

VOICES, LOW, HIGH = 4, 36, 81
RANGES = ((57, 81), (52, 74), (46, 69), (36, 66))
"""MIDI pitches that soprano, alto, tenor and bass sing in Bach's chorales."""


@dataclass(frozen=True)
class ExcerptOptions(Options):
    """The excerpts of chorales in an environment, and the model that scores them."""

    frames: Annotated[int, at_least(2)] = 32
    """Frames of an excerpt, T."""
    grid: Literal[1, 2, 4] = 1
    """Sixteenths per frame."""
    split: Literal["train", "valid", "test"] = "train"
    """Part of the chorales."""
    source: str = "music21"
    """Chorales: music21's, an .npz file, or a folder of MusicXML and MIDI files."""
    align: bool = True
    """Begin excerpts on a quarter."""
    model: str | Conditionals = ""
    """Conditionals of the reward: a run folder of a Coconet, module:function@argument, or none."""

    def setting(self, device: str) -> Setting:
        """Excerpts of what `envs.music.chorales.load` finds."""
        from semigradient.envs.music import chorales

        model = conditionals_of(self.model, device)  # checked first: loading pieces is slow
        pieces = chorales.load(self.split, self.grid, self.source).pieces
        beat = 4 // self.grid
        return chorale_setting(pieces, self.frames, beat, self.align, model, device)


class Corpus(Protocol):
    """A source of complete rolls."""

    def draw(
        self,
        n: int,
        generator: torch.Generator | None,
        piece: Tensor | None = None,
        offset: Tensor | None = None,
    ) -> Tensor:
        """Rolls (n, I, T) int64 of pitch numbers in [0, P), random or the given ones."""
        ...


@dataclass(frozen=True)
class Setting:
    """Corpus, rules and model of an environment.

    Attributes:
        corpus: complete rolls.
        voices, frames, pitches: I, T and P.
        low: MIDI pitch of pitch number 0.
        singable: (I, P) bool, what each voice may sing.
        rules: the rules of harmony, where there are four voices.
        conditionals: the model, if there is one.
        device: where the tensors live.
    """

    corpus: Corpus
    voices: int
    frames: int
    pitches: int
    low: int
    singable: Tensor
    rules: Rules | None
    conditionals: Conditionals | None
    device: torch.device

    @property
    def cells(self) -> int:
        """D = I T."""
        return self.voices * self.frames

    def notes(self, pitches: Tensor) -> Tensor:
        """MIDI pitches int8 of pitch numbers, -1 where they are unknown."""
        return torch.where(pitches >= 0, pitches + self.low, -1).to(torch.int8)

    def pictures(self, pitches: Tensor) -> list[np.ndarray]:
        """Frames (H, W, 3) of rolls (B, I, T), with axes."""
        from semigradient.envs.music.chorale_rendering import frame

        return [frame(roll, self.pitches, self.low) for roll in pitches]

    def texts(self, pitches: Tensor) -> list[str]:
        """Rolls (B, I, T) as text."""
        from semigradient.envs.music.chorale_rendering import text

        return [text(roll, self.pitches) for roll in pitches]

    def export_midi(self, pitches: Tensor, path: str | Path) -> None:
        """Write one roll (I, T) as a MIDI file, one track per voice."""
        from semigradient.envs.music import midi

        midi.write(Path(path), self.notes(pitches).cpu().numpy(), self.grid or 4)

    @property
    def grid(self) -> int:
        """Sixteenths per frame; 0 where frames have no duration."""
        return 4 // self.rules.beat if self.rules else 0

    def need_rules(self, what: str) -> Rules:
        """The rules; `UserError` where `what` asks for them and there are none."""
        if self.rules is None:
            raise UserError(f"{what}: rules of harmony are for 4 voices, not {self.voices}")
        return self.rules

    def need_model(self, what: str) -> Conditionals:
        """The model; `UserError` where `what` asks for one and there is none."""
        if self.conditionals is None:
            raise UserError(f"{what}: needs model=…, the conditionals of a roll")
        return self.conditionals


class Excerpts:
    """Crops of T frames from pieces of different lengths.

    Args:
        pieces: (I, L) arrays of MIDI pitches each; those with L < T are left out.
        frames: T.
        stride: crops begin at multiples of this many frames.
        device: where the tensors live.
    """

    def __init__(
        self, pieces: Sequence[np.ndarray], frames: int, stride: int, device: torch.device
    ) -> None:
        long = [np.asarray(piece) for piece in pieces if piece.shape[1] >= frames]
        require(len(long) > 0, f"frames={frames}: no piece is that long")
        notes = np.concatenate(long, 1)
        outside = notes[(notes < LOW) | (notes > HIGH)]
        require(len(outside) == 0, f"pitch {outside[:1]}: must be in [{LOW}, {HIGH}]")
        lengths = torch.tensor([piece.shape[1] for piece in long])
        self.device, self.stride = device, stride
        self.lengths = lengths.to(device)
        self.starts = (lengths.cumsum(0) - lengths).to(device)
        self.choices = ((lengths - frames) // stride + 1).to(device)
        self.notes = torch.from_numpy(notes.astype(np.int64)).to(device) - LOW
        self._frames = torch.arange(frames, device=device)

    def draw(
        self,
        n: int,
        generator: torch.Generator | None,
        piece: Tensor | None = None,
        offset: Tensor | None = None,
    ) -> Tensor:
        """Pieces drawn uniformly, then offsets in them uniformly: (n, I, T)."""
        uniform = torch.rand(2, n, generator=generator, device=self.device, dtype=torch.float64)
        count, longest = len(self.starts), len(self._frames)
        if piece is None:
            piece = (uniform[0] * count).long()
        is_valid = bool(((piece >= 0) & (piece < count)).all())
        require(is_valid, f"piece={piece.tolist()}: must be in [0, {count})")
        if offset is None:
            offset = (uniform[1] * self.choices[piece]).long() * self.stride
        is_valid = bool(((offset >= 0) & (offset + longest <= self.lengths[piece])).all())
        require(is_valid, f"offset={offset.tolist()}: {longest} frames must fit into the piece")
        columns = (self.starts[piece] + offset)[:, None] + self._frames
        return self.notes[:, columns].movedim(1, 0)


class _Toy:
    """Rolls drawn from the exact joint; its `piece` is the number of a roll."""

    def __init__(self, device: torch.device) -> None:
        self.joint = toy_joint(str(device))

    def draw(
        self,
        n: int,
        generator: torch.Generator | None,
        piece: Tensor | None = None,
        offset: Tensor | None = None,
    ) -> Tensor:
        require(offset is None or not offset.any(), "offset: rolls of the toy have one place")
        drawn = self.joint.sample(n, generator)
        return drawn if piece is None else self.joint.rolls[piece]


def toy_setting(device: str = "cpu") -> Setting:
    """Two voices, three frames, three pitches, exact conditionals."""
    where = torch.device(device)
    joint = toy_joint(device)
    everything = torch.ones(joint.voices, joint.pitches, dtype=torch.bool, device=where)
    sizes = (joint.voices, joint.frames, joint.pitches)
    return Setting(_Toy(where), *sizes, 0, everything, None, joint.conditionals, where)


def chorale_setting(
    pieces: Sequence[np.ndarray],
    frames: int,
    beat: int,
    align: bool = True,
    model: str | Conditionals | None = "",
    device: str = "cpu",
) -> Setting:
    """Crops of the given pieces.

    Args:
        pieces: (4, L) arrays of MIDI pitches each, soprano first.
        frames: T, frames of a crop.
        beat: frames of a quarter note.
        align: begin crops on a quarter.
        model: the conditionals, or where they are found; see `conditionals_of`.
        device: where the tensors live.
    """
    where = torch.device(device)
    corpus = Excerpts(pieces, frames, beat if align else 1, where)
    pitch = torch.arange(LOW, HIGH + 1, device=where)
    ranges = torch.tensor(RANGES, device=where)
    singable = (pitch >= ranges[:, :1]) & (pitch <= ranges[:, 1:])
    count = HIGH - LOW + 1
    conditionals, grid = conditionals_of(model, device), 4 // beat
    check_grid("model", getattr(conditionals, "grid", grid), grid)
    return Setting(corpus, 4, frames, count, LOW, singable, Rules(beat, where), conditionals, where)


def conditionals_of(model: str | Conditionals | None, device: str) -> Conditionals | None:
    """The model itself, or what "module:function@argument" makes with (argument, device).

    Networks are in higher layers, so environments name only the maker, as `envs.core` names cores.
    A folder is the run of a Coconet.
    """
    if not isinstance(model, str):
        return model
    if not model:
        return None
    if Path(model).expanduser().is_dir():
        return MODELS.load("coconet")(model, device)
    place, _, argument = model.partition("@")
    require(
        ":" in place or place in MODELS,
        f"model={model!r}: accepted are a run folder of a Coconet, module:function@argument",
    )
    maker = MODELS.load(place)
    try:
        return maker(argument, device)
    except UserError:
        raise
    except Exception as problem:
        raise UserError(f"model={model!r}: {first_line(problem)}") from problem


def check_grid(what: str, trained: int, grid: int) -> None:
    """`UserError` where a model was trained on frames of another duration than an environment's."""
    require(
        trained == grid,
        f"{what}: was trained on grid={trained} (sixteenths per frame), and the environment has "
        f"grid={grid}",
    )


def contexts(
    task: str, n: int, setting: Setting, generator: torch.Generator | None, rate: float
) -> Tensor:
    """Given cells at the start: (n, I, T) bool, with at least one cell to write in every row.

    Where a task gives all cells, one cell drawn uniformly is hidden.
    """
    shape = (n, setting.voices, setting.frames)
    given = known(task, *shape, generator, rate).to(setting.device)
    flat = given.flatten(1)
    cell = torch.randint(setting.cells, (n,), generator=generator, device=setting.device)
    hidden = torch.arange(setting.cells, device=setting.device) == cell[:, None]
    return (flat & ~(flat.all(1, keepdim=True) & hidden)).view(shape)


def check_task(task: str, rate: float, voices: int) -> None:
    """Raise `UserError` for an unknown task."""
    known(task, 1, voices, 4, rate=rate)
    require(0 <= rate <= 1, f"context_rate={rate}: must be in [0, 1]")


def numbers(given: int | list[int] | Tensor | None, n: int, device: torch.device) -> Tensor | None:
    """Given numbers, one per episode: (n,) int64."""
    if given is None:
        return None
    return torch.as_tensor(given, dtype=torch.int64, device=device).expand(n)
