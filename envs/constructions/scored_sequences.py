"""`semigradient/Sequences-v0`: sequences of letters whose scores are listed in a table.

The usual task is TFBind8: how strongly each of the 65 536 sequences of eight nucleotides binds a
transcription factor (Barrera et al. 2016; Trabucco et al. 2022, "Design-Bench"). Its table is not
part of this project: name yours. Without a file scores are generated, for tests and to try out.

A mode is a sequence among the best 0.5 % that no change of a single letter improves.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from semigradient.envs.constructions.sequence_building import SequenceBuilding
from semigradient.envs.constructions.sequences import Order, Sequences
from semigradient.envs.options import Options
from semigradient.errors import UserError, require
from semigradient.validate import Natural, Positive, within

_LISTED = 2**20
_BEST = 0.005


@dataclass(frozen=True)
class SequencesOptions(Options):
    """Options of scored sequences."""

    NEEDS: ClassVar = {"scores_seed": ("scores_file", ("",))}

    letters: str = "ACGT"
    """The alphabet."""
    length: Annotated[int, within(1, 20)] = 8
    """Letters of a sequence."""
    order: Order = "both"
    """Where letters are added: at the end (append), or at both ends."""
    scores_file: str = ""
    """File with a line "sequence,score" for every sequence; empty: scores are generated."""
    scores_seed: Natural = 0
    """Seed of generated scores."""
    lowest: Positive = 1e-3
    """Lower bound of the scores; R = max(lowest, score)."""

    def check(self) -> None:
        """The alphabet is one, and all sequences can be listed."""
        shown = f"letters={self.letters!r}"
        distinct = len(set(self.letters)) == len(self.letters) >= 2
        require(distinct, f"{shown}: must be two or more different letters")
        plain = self.letters.isprintable() and not set(self.letters) & set(" ,;\t\"'")
        require(plain, f"{shown}: must not have spaces, commas, semicolons or quotes")
        count = len(self.letters) ** self.length
        require(
            count <= _LISTED,
            f"{shown}, length={self.length}: must make at most {_LISTED} sequences, not {count}",
        )

    def make(self, device: str = "cpu") -> SequenceBuilding:
        """The core of `semigradient/Sequences-v0`."""
        names = ("letters", "length", "order", "lowest")
        scores = Path(self.scores_file).name or f"generated, seed {self.scores_seed}"
        protocol = {**{name: getattr(self, name) for name in names}, "scores": scores}
        return SequenceBuilding(ScoredSequences(self, device), protocol)


class ScoredSequences(Sequences):
    """Rules of scored sequences; features are letters, one-hot by place.

    Attributes:
        scores: (V^L,) float64, by Σ letter_i V^i.
    """

    def __init__(self, options: SequencesOptions, device: str | torch.device = "cpu") -> None:
        v, n = len(options.letters), options.length
        super().__init__(v, n, options.order, n * v, device)
        self.options, self.alphabet = options, options.letters
        table = read_scores(options) if options.scores_file else generated_scores(options)
        self.scores = torch.from_numpy(table).to(self.device)
        self._place = torch.tensor([v**i for i in range(n)], device=self.device)
        peaks = torch.from_numpy(peaks_of(table, v, n)).to(self.device)
        self.mode_count = int(peaks.sum())
        self._mode = torch.where(peaks, peaks.long().cumsum(0) - 1, -1)

    def features(self, states: Tensor) -> Tensor:
        """(m, L V) float32."""
        letters = self.sequence(states).letters
        return F.one_hot(letters + 1, self.letters + 1)[:, :, 1:].flatten(1).float()

    def score(self, states: Tensor) -> Tensor:
        """(m,) float64; 0 for what is not complete."""
        return torch.where(self.finished(states), self.scores[self._index(states)], 0.0)

    def log_reward(self, states: Tensor) -> Tensor:
        """(m,) float64."""
        return self.score(states).clamp(min=self.options.lowest).log()

    def modes(self, states: Tensor) -> Tensor:
        """(m,)."""
        return torch.where(self.finished(states), self._mode[self._index(states)], -1)

    def names(self, states: Tensor) -> list[str]:
        """Letters."""
        rows = self.sequence(states).letters.tolist()
        return ["".join(self.alphabet[each] for each in row if each >= 0) for row in rows]

    def _index(self, states: Tensor) -> Tensor:
        """Where the scores of states stand; meaningless for what is not complete."""
        return (self.sequence(states).letters.clamp(min=0) * self._place).sum(1)


def generated_scores(options: SequencesOptions) -> NDArray[np.float64]:
    """Random weights of letters by place and of neighbouring pairs, scaled to [0, 1]: (V^L,)."""
    v, n = len(options.letters), options.length
    rng = np.random.default_rng((options.scores_seed, 19))
    single, pair = rng.standard_normal((n, v)), rng.standard_normal((n - 1, v, v))
    index = np.arange(v**n)
    letters = index[:, None] // v ** np.arange(n) % v
    total = single[np.arange(n), letters].sum(1)
    if n > 1:
        total = total + pair[np.arange(n - 1), letters[:, :-1], letters[:, 1:]].sum(1)
    low, high = total.min(), total.max()
    scaled: NDArray[np.float64] = (total - low) / (high - low)
    return scaled**3  # few are good


def read_scores(options: SequencesOptions) -> NDArray[np.float64]:
    """Scores (V^L,) of a file; every sequence must be there, once or with one score."""
    path, v, n = options.scores_file, len(options.letters), options.length
    number = {letter: index for index, letter in enumerate(options.letters)}
    found = np.full(v**n, np.nan)
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise UserError(f"scores_file={path!r}: {problem}") from None
    for line, row in enumerate(rows, 1):
        where = f"scores_file={path!r}: line {line} {','.join(row)[:40]!r}"
        score = _number(row[1]) if len(row) == 2 else None
        if line == 1 and score is None and len(row) == 2:
            continue  # names of columns
        require(score is not None, f"{where}: must be a sequence, a comma and a finite score")
        word = row[0].strip()
        known = len(word) == n and set(word) <= number.keys()
        require(known, f"{where}: must have {n} letters out of {options.letters!r}")
        place = sum(number[letter] * v**index for index, letter in enumerate(word))
        same = np.isnan(found[place]) or found[place] == score
        require(bool(same), f"{where}: has another score in an earlier line")
        found[place] = score
    missing = np.flatnonzero(np.isnan(found))
    if len(missing):
        first = "".join(options.letters[int(missing[0]) // v**index % v] for index in range(n))
        raise UserError(f"scores_file={path!r}: lacks {len(missing)} sequences, such as {first}")
    return found


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def peaks_of(scores: NDArray[np.float64], letters: int, length: int) -> NDArray[np.bool_]:
    """Which of the scores (V^L,) are modes."""
    cube = scores.reshape((letters,) * length)
    peak = cube >= np.quantile(scores, 1 - _BEST)
    for axis in range(length):
        peak &= cube == cube.max(axis, keepdims=True)
    flat: NDArray[np.bool_] = peak.reshape(-1)
    return flat
