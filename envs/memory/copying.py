"""Copying: letters are shown, and asked for after a delay.

C. Tallec, PhD thesis, 2019, chapter 5 (the copy and variable copy tasks, after Hochreiter and
Schmidhuber 1997 and Arjovsky et al. 2016).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from semigradient.envs.memory.source import Answering, Emission
from semigradient.envs.options import Options
from semigradient.errors import require
from semigradient.validate import Count


class CopyState(NamedTuple):
    """Sequences to be copied."""

    letters: Tensor  # (B, K) int64
    signal: Tensor  # (B,) int64: the step of the signal
    step: Tensor  # (B,) int64


class Copying:
    """K letters, dummies, a signal, and K dummies, during which the letters are asked for.

    The sequence has K letters, D - 1 dummies (from 1 to D where the delay varies), the signal
    and K dummies. The right answer is the dummy before and at the signal, and the letters in their
    order after it; only these count for rewards, and all of them count in a supervised loss. A
    guess without memory is right once in `alphabet` times.

    Args:
        delay: D.
        letters: K.
        alphabet: how many letters there are.
        varies: whether the number of dummies is uniform on 1, …, D instead of D - 1.
    """

    is_endless = False

    def __init__(self, delay: int, letters: int, alphabet: int, varies: bool) -> None:
        self.delay, self.letters, self.alphabet, self.varies = delay, letters, alphabet, varies
        self.names = "".join(chr(ord("a") + letter) for letter in range(alphabet)) + "·?"
        self.answers = alphabet + 1
        self.length = 2 * letters + delay + int(varies)
        self.references: Mapping[str, float] = {
            "optimum": float(letters),
            "memoryless": letters / alphabet,
        }
        mean_length = self.length - (delay - 1) / 2 * varies
        self.losses: Mapping[str, float] = {
            "optimum": 0.0,
            "memoryless": letters * math.log(alphabet) / mean_length,
        }
        self.settings: Mapping[str, Any] = {
            "delay": delay,
            "letters": letters,
            "alphabet": alphabet,
        }

    def start(self, n: int, generator: torch.Generator | None, device: torch.device) -> CopyState:
        """Letters, and a delay if it varies."""
        draw: dict[str, Any] = {"generator": generator, "device": device}
        letters = torch.randint(self.alphabet, (n, self.letters), **draw)
        if self.varies:
            dummies = torch.randint(1, self.delay + 1, (n,), **draw)
        else:
            dummies = torch.full((n,), self.delay - 1, device=device)
        return CopyState(letters, self.letters + dummies, torch.zeros_like(dummies))

    def advance(self, state: CopyState, generator: torch.Generator | None = None) -> CopyState:
        """One step on."""
        return state._replace(step=state.step + 1)

    def emit(self, state: CopyState) -> Emission:
        """Letters, dummies and the signal; dummies after the end."""
        last = self.letters - 1
        shown = state.letters.gather(1, state.step.clamp(max=last)[:, None])[:, 0]
        symbol = torch.where(state.step <= last, shown, self.alphabet)
        symbol = torch.where(state.step == state.signal, self.alphabet + 1, symbol)
        since = state.step - state.signal - 1
        is_scored = (since >= 0) & (since <= last)
        wanted = state.letters.gather(1, since.clamp(0, last)[:, None])[:, 0]
        target = torch.where(is_scored, wanted, self.alphabet)
        return Emission(symbol, target, is_scored, torch.ones_like(is_scored))

    def is_over(self, state: CopyState) -> Tensor:
        """Whether all letters have been asked for."""
        return state.step > state.signal + self.letters


@dataclass(frozen=True)
class CopyOptions(Options):
    """Options of the copy task."""

    delay: Count = 10
    """Steps between the last letter and the signal."""
    letters: Count = 10
    """Letters to copy."""
    alphabet: Count = 8
    """Different letters."""

    def check(self) -> None:
        """Letters have names."""
        require(2 <= self.alphabet <= 26, f"alphabet={self.alphabet}: must be in [2, 26]")

    def make(self, device: str = "cpu") -> Answering:
        """The core of `semigradient/Copy-v0`."""
        return Answering(Copying(self.delay, self.letters, self.alphabet, False), device)


@dataclass(frozen=True)
class VariableCopyOptions(CopyOptions):
    """Options of the copy task whose delay varies."""

    delay: Count = 10
    """Most dummies between the last letter and the signal; at least one."""

    def make(self, device: str = "cpu") -> Answering:
        """The core of `semigradient/VariableCopy-v0`."""
        return Answering(Copying(self.delay, self.letters, self.alphabet, True), device)
