"""Sequences of a fixed length as a construction: letters are added at the end, or at both ends.

A state is a beginning (`append`) or a part (`both`) of a sequence of L letters out of V. Action t
adds letter t at the end; with `both`, action V + t adds it in front (the prepend-append actions of
Shen et al. 2023). A sequence of L letters is complete, so the last action, stop, is never legal.
With `append` every state has one parent edge; with `both` it has two, so that l letters have 2^l
ways of being built (the first letter is added in front of nothing or behind it).

Where V^L fits into 62 bits states are numbered densely, by length and then by letters. Longer
sequences are digests of 62 bits, of which what they stand for is remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from semigradient.envs.constructions.construction import Construction, Parents

Order = Literal["append", "both"]
_TABULATED = 2**25  # largest number of features of all states that is tabulated
_LOW = (1 << 62) - 1


class Sequence(NamedTuple):
    """m sequences; letters beyond the length are -1."""

    letters: Tensor  # (m, L) int64
    length: Tensor  # (m,) int64


class Numbers(Protocol):
    """Which number a sequence has."""

    size: int

    def number(self, sequence: Sequence) -> Tensor:
        """(m,) int64."""
        ...

    def sequence(self, states: Tensor) -> Sequence:
        """What numbers (m,) stand for."""
        ...


class Dense:
    """All sequences in a row: the empty one, those of one letter, of two, …"""

    def __init__(self, letters: int, longest: int, device: torch.device) -> None:
        powers = [letters**k for k in range(longest + 1)]
        starts = [sum(powers[:k]) for k in range(longest + 1)]
        self.letters, self.size = letters, sum(powers)
        self._powers = torch.tensor(powers[:-1], device=device)
        self._starts = torch.tensor(starts, device=device)

    def number(self, sequence: Sequence) -> Tensor:
        """(m,)."""
        value = (sequence.letters.clamp(min=0) * self._powers).sum(1)
        return self._starts[sequence.length] + value

    def sequence(self, states: Tensor) -> Sequence:
        """(m, L) and (m,)."""
        length = torch.searchsorted(self._starts, states, right=True) - 1
        value = states - self._starts[length]
        letters = value[:, None] // self._powers % self.letters
        place = torch.arange(len(self._powers), device=states.device)
        return Sequence(torch.where(place < length[:, None], letters, -1), length)


class Digests:
    """Digests of 62 bits, with a memory of what they stand for; 0 is the empty sequence."""

    size = 0

    def __init__(self, longest: int, device: torch.device) -> None:
        self.longest, self.device = longest, device
        self.clear()

    def __len__(self) -> int:
        return len(self._row)

    def clear(self) -> None:
        """Forget everything but the empty sequence."""
        self._row: dict[int, int] = {0: 0}
        self._kept = np.full((1024, self.longest), -1, np.int64)

    def number(self, sequence: Sequence) -> Tensor:
        """(m,); different sequences have the same one with a probability of about 2⁻⁶⁰."""
        letters = sequence.letters.cpu().numpy()
        value = np.full(len(letters), 0x5DEECE66D1234567, np.uint64)
        for column in (letters + 2).astype(np.uint64).T:
            value = (value ^ column) * np.uint64(0x9E3779B97F4A7C15)
            value ^= value >> np.uint64(29)
        value = (value * np.uint64(0xBF58476D1CE4E5B9)) & np.uint64(_LOW)
        found = np.where(letters[:, 0] < 0, 0, value.astype(np.int64))
        self.note(found, letters)
        return torch.from_numpy(found).to(self.device)

    def sequence(self, states: Tensor) -> Sequence:
        """(m, L) and (m,)."""
        rows = [self._row[state] for state in states.tolist()]
        letters = torch.from_numpy(self._kept[rows].reshape(-1, self.longest)).to(self.device)
        return Sequence(letters, (letters >= 0).sum(1))

    def note(self, numbers: np.ndarray, letters: np.ndarray) -> None:
        """Remember what numbers (m,) stand for: (m, L)."""
        for number, row in zip(numbers.tolist(), letters, strict=True):
            if number not in self._row:
                if len(self._row) == len(self._kept):
                    self._kept = np.concatenate([self._kept, self._kept])
                self._kept[len(self._row)] = row
                self._row[number] = len(self._row)


class Sequences(Construction):
    """Rules of building sequences; subclasses say what they are worth, and how they look.

    Args:
        letters: V.
        longest: L.
        order: where letters are added.
        width: D, features of a state.
        device: where tensors live.
        limit: remembered states above which `evict_unused` forgets.
    """

    root, mode_count = 0, 0

    def __init__(
        self,
        letters: int,
        longest: int,
        order: Order,
        width: int,
        device: str | torch.device = "cpu",
        limit: int = 1_000_000,
    ) -> None:
        self.device, self.letters, self.longest = torch.device(device), letters, longest
        self.order, self.width, self.limit = order, width, limit
        self.sides = 1 if order == "append" else 2
        self.actions, self.in_degree = self.sides * letters + 1, self.sides
        self.horizon = longest
        fits = letters**longest < 2**60
        self.numbers: Numbers = (
            Dense(letters, longest, self.device) if fits else Digests(longest, self.device)
        )
        self.size = self.numbers.size
        self.enumerable = 0 < self.size * max(width, self.actions) <= _TABULATED

    def sequence(self, states: Tensor) -> Sequence:
        """Letters (m, L) and lengths (m,) of states."""
        return self.numbers.sequence(states)

    def legal(self, states: Tensor) -> Tensor:
        """(m, A) bool."""
        open_ = ~self.finished(states)
        stop = torch.zeros((len(states), 1), dtype=torch.bool, device=self.device)
        return torch.cat([open_[:, None].expand(-1, self.actions - 1), stop], 1)

    def child(self, states: Tensor, actions: Tensor) -> Tensor:
        """(m,)."""
        letters, length = self.sequence(states)
        front, letter = actions >= self.letters, (actions % self.letters)[:, None]
        place = torch.arange(self.longest, device=self.device)
        behind = torch.where(place == length[:, None], letter, letters)
        before = torch.cat([letter, letters[:, :-1]], 1)
        grown = Sequence(torch.where(front[:, None], before, behind), length + 1)
        adds = (actions < self.actions - 1) & (length < self.longest)
        kept = Sequence(torch.where(adds[:, None], grown.letters, letters), length + adds)
        return self.numbers.number(kept)

    def finished(self, states: Tensor) -> Tensor:
        """(m,) bool."""
        return self.sequence(states).length == self.longest

    def parents(self, states: Tensor) -> Parents:
        """Edge 0 added the last letter, edge 1 the first one."""
        letters, length = self.sequence(states)
        real = length > 0
        last = (length - 1).clamp(min=0)
        place = torch.arange(self.longest, device=self.device)
        cut = Sequence(torch.where(place == last[:, None], -1, letters), last)
        edges = [(self.numbers.number(cut), letters.gather(1, last[:, None])[:, 0].clamp(min=0))]
        if self.sides == 2:
            blank = torch.full_like(letters[:, :1], -1)
            rest = Sequence(torch.cat([letters[:, 1:], blank], 1), last)
            edges.append((self.numbers.number(rest), self.letters + letters[:, 0].clamp(min=0)))
        state, action = (torch.stack(each, 1) for each in zip(*edges, strict=True))
        return Parents(state, action, real[:, None].expand(-1, self.sides).clone())

    def edges_into(self, states: Tensor) -> Tensor:
        """(m,) int64."""
        return self.sides * (states != self.root).long()

    def modes(self, states: Tensor) -> Tensor:
        """(m,): nobody says what the modes are."""
        return torch.full_like(states, -1)

    def distance(self, states: Tensor) -> Tensor:
        """Hamming distance of letters: (m, m)."""
        letters = self.sequence(states).letters
        return (letters[:, None] != letters).sum(2).double()

    def pictures(self, states: Tensor, visits: Tensor | None = None) -> list[np.ndarray]:
        """Letters as columns of cells, at least 256 pixels wide."""
        zoom = max(8, -(-256 // self.longest))
        frames = []
        for row in self.sequence(states).letters.cpu().numpy():
            shades = np.full((max(1, self.letters), self.longest), 230, np.uint8)
            shades[row[row >= 0], np.arange((row >= 0).sum())] = 30
            shades = shades if self.letters <= 32 else _bits(row, self.letters)
            frames.append(np.kron(shades, np.ones((zoom, zoom), np.uint8))[..., None].repeat(3, 2))
        return frames

    def evict_unused(self, referenced: Callable[[], Tensor]) -> None:
        """Forget all states but `referenced` ones where there have come to be too many."""
        if isinstance(self.numbers, Digests) and len(self.numbers) > self.limit:
            saved = self.export_states(referenced())
            self.numbers.clear()
            self.import_states(saved)

    def export_states(self, states: Tensor) -> dict[str, Tensor]:
        """Distinct numbers (k,) and their letters (k, L) int32, where numbers are digests."""
        if not isinstance(self.numbers, Digests):
            return {}
        numbers = states.unique()
        return {"number": numbers, "letters": self.sequence(numbers).letters.int()}

    def import_states(self, saved: Mapping[str, Tensor]) -> None:
        """Remember what `export_states` gave."""
        if isinstance(self.numbers, Digests):
            letters = saved["letters"].cpu().numpy().astype(np.int64)
            self.numbers.note(saved["number"].cpu().numpy(), letters)


def _bits(row: np.ndarray, letters: int) -> np.ndarray:
    """Letters as columns of bits, most significant first, dark for 1: (bits, L)."""
    width = max(1, (letters - 1).bit_length())
    shifts = np.arange(width)[::-1, None]
    bits = (np.maximum(row, 0) >> shifts) & 1
    return np.where(row < 0, 255, np.where(bits == 1, 30, 200)).astype(np.uint8)
