"""Texts without end, of which the next character is asked for.

C. Tallec, PhD thesis, 2019, chapter 3: aⁿbⁿ(k, l) and distant brackets (s, k, a).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from semigradient.envs.memory.source import Answering, Emission
from semigradient.envs.options import Options
from semigradient.errors import require
from semigradient.validate import Count, Natural


class BlockState(NamedTuple):
    """Texts of a's and b's."""

    n: Tensor  # (B,) int64: of the running block
    position: Tensor  # (B,) int64: in the block, from 0 to 2n + 1
    step: Tensor  # (B,) int64


class AnBn:
    """Blocks of n a's, a line break, n b's and a line break, with n uniform on `least`, …, `most`.

    Args:
        least, most: bounds of n.
        length: characters of an episode, which begins with a block.
    """

    is_endless = True
    names, answers = "ab¶", 3

    def __init__(self, least: int, most: int, length: int) -> None:
        self.least, self.most, self.length = least, most, length
        self.settings: Mapping[str, Any] = {"least": least, "most": most, "length": length}
        self.references: Mapping[str, float] = _counted_returns(least, most, length)
        choices, period = math.log(most - least + 1), least + most + 2
        self.losses: Mapping[str, float] = {
            "optimum": choices / period,
            "memoryless": 2 * choices / period,
        }

    def start(self, n: int, generator: torch.Generator | None, device: torch.device) -> BlockState:
        """The first characters of blocks."""
        zeros = torch.zeros(n, dtype=torch.int64, device=device)
        return BlockState(self._draw(zeros, generator), zeros, zeros.clone())

    def advance(self, state: BlockState, generator: torch.Generator | None = None) -> BlockState:
        """One character more; a new block after the last one of a block."""
        is_last = state.position > 2 * state.n
        n = torch.where(is_last, self._draw(state.n, generator), state.n)
        position = torch.where(is_last, 0, state.position + 1)
        return BlockState(n, position, state.step + 1)

    def emit(self, state: BlockState) -> Emission:
        """The present character, and the next."""
        n, position = state.n, state.position
        target = torch.where(position > 2 * n, 0, _counted(n, position + 1))
        everywhere = torch.ones_like(n, dtype=torch.bool)
        return Emission(_counted(n, position), target, everywhere, everywhere)

    def is_over(self, state: BlockState) -> Tensor:
        """Never: episodes are cut."""
        return torch.zeros_like(state.step, dtype=torch.bool)

    def _draw(self, like: Tensor, generator: torch.Generator | None) -> Tensor:
        ends = (self.least, self.most + 1)
        return torch.randint(*ends, like.shape, generator=generator, device=like.device)


def _counted(n: Tensor, position: Tensor) -> Tensor:
    """The character of a block: 0 (a) for the first n, 1 (b) for the next but one, 2 between."""
    is_break = (position == n) | (position == 2 * n + 1)
    return torch.where(is_break, 2, (position > n).long())


def _counted_returns(least: int, most: int, length: int) -> dict[str, float]:
    """Best expected numbers of right answers among the first `length`, by renewal.

    A block that begins with m characters to go earns G(m), and blocks begin at s with the renewal
    probability ρ(s): the return is Σ_s ρ(s) G(length - s).
    """
    counts = range(least, most + 1)
    begins = np.zeros(length)
    begins[0] = 1
    for s in range(length):
        for n in counts:
            if s + 2 * n + 2 < length:
                begins[s + 2 * n + 2] += begins[s] / len(counts)
    # (n, position): whether it is within an episode that begins s before, weighted by ρ(s).
    reach = np.cumsum(begins)  # expected blocks that began at 0, …, s
    within = np.zeros(2 * most + 2)  # expected visits to a position, given that blocks are so long
    within[: min(length, 2 * most + 2)] = reach[::-1][: 2 * most + 2]
    optimum, pairs = 0.0, np.zeros((3, 3))
    for position in range(most):  # that of the last of position + 1 a's
        longer = sum(n > position + 1 for n in counts) / len(counts)
        ends = sum(n == position + 1 for n in counts) / len(counts)
        optimum += within[position] * max(longer, ends)
    for n in counts:
        text = [0] * n + [2] + [1] * n + [2]
        for position, (now, after) in enumerate(zip(text, [*text[1:], 0], strict=True)):
            pairs[now, after] += within[position] / len(counts)
            optimum += within[position] / len(counts) if position >= n else 0
    return {"optimum": float(optimum), "memoryless": float(pairs.max(1).sum())}


class BracketState(NamedTuple):
    """Texts with brackets."""

    line: Tensor  # (B, period) int64: the running line
    position: Tensor  # (B,) int64: in it
    step: Tensor  # (B,) int64


class Brackets:
    """Lines of s letters in brackets, k letters, and the same s letters in brackets.

    Args:
        inside: s, letters in brackets.
        between: k, letters between the brackets.
        alphabet: a, different letters.
        length: characters of an episode, which begins with a line.
    """

    is_endless = True

    def __init__(self, inside: int, between: int, alphabet: int, length: int) -> None:
        self.inside, self.between, self.alphabet, self.length = inside, between, alphabet, length
        self.names = "".join(chr(ord("!") + letter) for letter in range(alphabet)) + "[]¶"
        self.answers = len(self.names)
        self.period = 2 * (inside + 2) + between + 1
        self.settings: Mapping[str, Any] = {
            "inside": inside,
            "between": between,
            "alphabet": alphabet,
            "length": length,
        }
        self.references: Mapping[str, float] = self._returns()
        per_letter = math.log(alphabet) / self.period
        self.losses: Mapping[str, float] = {
            "optimum": (inside + between) * per_letter,
            "memoryless": (2 * inside + between) * per_letter,
        }

    def start(
        self, n: int, generator: torch.Generator | None, device: torch.device
    ) -> BracketState:
        """The first characters of lines."""
        zeros = torch.zeros(n, dtype=torch.int64, device=device)
        return BracketState(self._lines(zeros, generator), zeros, zeros.clone())

    def advance(
        self, state: BracketState, generator: torch.Generator | None = None
    ) -> BracketState:
        """One character more; a new line after the last one of a line."""
        position = (state.position + 1) % self.period
        line = torch.where(position[:, None] == 0, self._lines(position, generator), state.line)
        return BracketState(line, position, state.step + 1)

    def emit(self, state: BracketState) -> Emission:
        """The present character, and the next."""
        after = (state.position + 1) % self.period  # all lines begin alike
        symbol = state.line.gather(1, state.position[:, None])[:, 0]
        target = state.line.gather(1, after[:, None])[:, 0]
        everywhere = torch.ones_like(symbol, dtype=torch.bool)
        return Emission(symbol, target, everywhere, everywhere)

    def is_over(self, state: BracketState) -> Tensor:
        """Never: episodes are cut."""
        return torch.zeros_like(state.step, dtype=torch.bool)

    def _lines(self, like: Tensor, generator: torch.Generator | None) -> Tensor:
        """New lines (B, period)."""
        many = (len(like), self.inside + self.between)
        letters = torch.randint(self.alphabet, many, generator=generator, device=like.device)
        copied = letters[:, : self.inside]
        opening, closing, end = (
            torch.full_like(like, self.alphabet + k)[:, None] for k in range(3)
        )
        between = letters[:, self.inside :]
        return torch.cat([opening, copied, closing, between, opening, copied, closing, end], 1)

    def _returns(self) -> dict[str, float]:
        """Of predictors that know all, and that know whether the present character is a letter."""
        inside, between, share = self.inside, self.between, 1 / self.alphabet
        # Kinds of characters of a line: letter (drawn or copied), opening, closing, end.
        kinds = "[" + "x" * inside + "]" + "x" * between + "[" + "c" * inside + "]" + "n"
        pairs: dict[str, dict[str, float]] = {}
        optimum = 0.0
        for step in range(self.length):
            now, after = kinds[step % self.period], kinds[(step + 1) % self.period]
            optimum += share if after == "x" else 1
            earned = pairs.setdefault(now.replace("c", "x"), {})
            name = after.replace("c", "x")
            earned[name] = earned.get(name, 0) + (share if name == "x" else 1)
        memoryless = sum(max(earned.values()) for earned in pairs.values())
        return {"optimum": optimum, "memoryless": memoryless}


@dataclass(frozen=True)
class AnBnOptions(Options):
    """Options of aⁿbⁿ."""

    least: Count = 1
    """Least n."""
    most: Count = 32
    """Greatest n."""
    length: Count = 200
    """Characters of an episode."""

    def check(self) -> None:
        """Some n is possible."""
        require(self.most >= self.least, f"most={self.most}: must be ≥ least, here {self.least}")

    def make(self, device: str = "cpu") -> Answering:
        """The core of `semigradient/AnBn-v0`."""
        return Answering(AnBn(self.least, self.most, self.length), device)


@dataclass(frozen=True)
class BracketsOptions(Options):
    """Options of distant brackets."""

    inside: Count = 1
    """Letters in brackets."""
    between: Natural = 5
    """Letters between the brackets."""
    alphabet: Count = 10
    """Different letters."""
    length: Count = 120
    """Characters of an episode."""

    def check(self) -> None:
        """Letters are no brackets."""
        require(2 <= self.alphabet <= 57, f"alphabet={self.alphabet}: must be in [2, 57]")

    def make(self, device: str = "cpu") -> Answering:
        """The core of `semigradient/Brackets-v0`."""
        source = Brackets(self.inside, self.between, self.alphabet, self.length)
        return Answering(source, device)
