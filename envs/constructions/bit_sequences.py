"""`semigradient/BitSequences-v0`: bits with hidden modes (Malkin et al. 2022, section 5.3).

A sequence of n bits is written in words of k bits, and R(x) = exp(1 - min_M d(x, m) / n) for a set
M of modes and the edit distance d. Modes are generated as published, each of n / 8 blocks drawn
from five of eight bits, or read from a file. An object at most `radius` away finds a mode.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semigradient.envs.constructions.sequence_building import SequenceBuilding
from semigradient.envs.constructions.sequences import Order, Sequences
from semigradient.envs.options import Options
from semigradient.errors import UserError, require
from semigradient.validate import Count, Natural, at_least, within

Distance = Literal["edit", "hamming"]
Bits = NDArray[np.int8]
BLOCKS = ("00000000", "11111111", "11110000", "00001111", "00111100")
"""What published modes are made of."""


@dataclass(frozen=True)
class BitSequencesOptions(Options):
    """Options of bit sequences."""

    NEEDS: ClassVar = {"modes": ("modes_file", ("",)), "modes_seed": ("modes_file", ("",))}

    length: Count = 120
    """Bits, n."""
    word: Annotated[int, within(1, 12)] = 8
    """Bits that one action adds, k."""
    order: Order = "append"
    """Where words are added: at the end, or at both ends."""
    modes: Count = 60
    """Modes that are generated."""
    modes_file: str = ""
    """File of modes, one sequence of 0 and 1 a line, instead."""
    modes_seed: Natural = 0
    """Seed of generated modes."""
    distance: Distance = "edit"
    """From the nearest mode: edit (published) or hamming."""
    radius: Annotated[int, at_least(-1)] = -1
    """Distance at which a mode counts as found; -1: a quarter of the length, as published."""

    def check(self) -> None:
        """Words and blocks fill the length."""
        size = f"length={self.length}"
        good = self.length % self.word == 0
        require(good, f"{size}: must be a multiple of word={self.word}")
        blocks = bool(self.modes_file) or self.length % 8 == 0
        require(blocks, f"{size}: generated modes need a multiple of 8; accepted with modes_file")

    def make(self, device: str = "cpu") -> SequenceBuilding:
        """The core of `semigradient/BitSequences-v0`."""
        names = ("length", "word", "order", "distance")
        rules = BitSequences(self, device)
        protocol = {name: getattr(self, name) for name in names}
        modes = {"modes": rules.mode_count, "radius": rules.radius}
        return SequenceBuilding(rules, {**protocol, **modes})


class BitSequences(Sequences):
    """Rules of bit sequences; features are two per bit, whether it is 0 and whether it is 1.

    Attributes:
        targets: (M, n) bits of the modes.
    """

    def __init__(self, options: BitSequencesOptions, device: str | torch.device = "cpu") -> None:
        words, n = options.length // options.word, options.length
        super().__init__(2**options.word, words, options.order, 2 * n, device)
        self.options, self.bits_of_word = options, options.word
        self.targets = read_modes(options) if options.modes_file else generated_modes(options)
        self.mode_count = len(self.targets)
        self.radius = n // 4 if options.radius < 0 else options.radius

    def bits(self, states: Tensor) -> Tensor:
        """(m, n) int64, -1 for what is not there yet."""
        letters = self.sequence(states).letters
        shifts = torch.arange(self.bits_of_word - 1, -1, -1, device=self.device)
        bits = (letters.clamp(min=0)[:, :, None] >> shifts) & 1
        return torch.where((letters < 0)[:, :, None], -1, bits).flatten(1)

    def features(self, states: Tensor) -> Tensor:
        """(m, 2 n) float32."""
        bits = self.bits(states)
        return torch.cat([bits == 0, bits == 1], 1).float()

    def log_reward(self, states: Tensor) -> Tensor:
        """1 - (distance of the nearest mode) / n: (m,) float64; missing bits differ from all."""
        return 1 - self._nearest(states).amin(1) / self.options.length

    def modes(self, states: Tensor) -> Tensor:
        """The nearest mode if it is within the radius: (m,)."""
        nearest = self._nearest(states).min(1)
        return torch.where(nearest.values <= self.radius, nearest.indices, -1)

    def names(self, states: Tensor) -> list[str]:
        """Bits."""
        rows = self.bits(states).tolist()
        return ["".join(str(bit) for bit in row if bit >= 0) for row in rows]

    def distance(self, states: Tensor) -> Tensor:
        """Hamming distance of bits: (m, m)."""
        bits = self.bits(states)
        return (bits[:, None] != bits).sum(2).double()

    def _nearest(self, states: Tensor) -> Tensor:
        """Distance to every mode: (m, M) float64."""
        bits = self.bits(states).cpu().numpy().astype(np.int8)
        if self.options.distance == "hamming":
            found = (bits[:, None] != self.targets).sum(2)
        else:
            parts = [edit_distance(part, self.targets) for part in _parts(bits)]
            found = np.concatenate([np.zeros((0, self.mode_count), np.int64), *parts])
        return torch.from_numpy(found.astype(np.float64)).to(self.device)


def _parts(bits: Bits) -> list[Bits]:
    return [bits[start : start + 64] for start in range(0, len(bits), 64)]


def edit_distance(one: Bits, other: Bits) -> NDArray[np.int64]:
    """Levenshtein's distance of all pairs of rows: (m, n), (M, n') → (m, M); -1 is no bit.

    One row of the table at a time: what an insertion costs is a running minimum along it.
    """
    place = np.arange(other.shape[1] + 1, dtype=np.int16)
    row = np.broadcast_to(place, (len(one), len(other), len(place))).copy()
    for column in one.T:
        there = (column >= 0)[:, None, None]
        change = row[:, :, :-1] + (column[:, None, None] != other)
        best = np.minimum(row[:, :, 1:] + 1, change)
        new = np.concatenate([row[:, :, :1] + 1, best], 2)
        new = np.minimum.accumulate(new - place, 2) + place
        row = np.where(there, new, row)
    found: NDArray[np.int64] = row[:, :, -1].astype(np.int64)
    return found


def generated_modes(options: BitSequencesOptions) -> Bits:
    """Distinct modes (M, n) of random blocks."""
    rng = np.random.default_rng((options.modes_seed, 17))
    blocks = np.array([[int(bit) for bit in block] for block in BLOCKS], np.int8)
    count, most = options.modes, len(BLOCKS) ** (options.length // 8)
    require(count <= most, f"modes={count}: {options.length} bits have at most {most} of blocks")
    found: dict[bytes, Bits] = {}
    while len(found) < count:
        mode = blocks[rng.integers(len(BLOCKS), size=options.length // 8)].reshape(-1)
        found.setdefault(mode.tobytes(), mode)
    return np.stack(list(found.values()))


def read_modes(options: BitSequencesOptions) -> Bits:
    """Modes (M, n) of a file."""
    path, n = Path(options.modes_file), options.length
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as problem:
        raise UserError(f"modes_file={str(path)!r}: {problem}") from None
    require(bool(lines), f"modes_file={str(path)!r}: has no mode")
    for number, line in enumerate(lines, 1):
        good = len(line) == n and set(line) <= {"0", "1"}
        wanted = f"must be {n} characters, each 0 or 1"
        require(good, f"modes_file={str(path)!r}: mode {number} {line[:40]!r}: {wanted}")
    distinct = list(dict.fromkeys(lines))
    return np.array([[int(bit) for bit in line] for line in distinct], np.int8)
