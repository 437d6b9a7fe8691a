"""Warped time: remember the previous character, of sequences that are stretched or padded.

C. Tallec, PhD thesis, 2019, chapter 5 ("Pure warpings and paddings").
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from semigradient.envs.memory.source import Answering, Emission
from semigradient.envs.options import Options
from semigradient.errors import require
from semigradient.validate import Count


class WarpState(NamedTuple):
    """Warped sequences."""

    letter: Tensor  # (B,) int64: the present character
    previous: Tensor  # (B,) int64: the one before it, the dummy if there was none
    left: Tensor  # (B,) int64: steps for which it will still be there
    is_new: Tensor  # (B,) bool: whether it came at this step
    step: Tensor  # (B,) int64


class Warp:
    """Random characters, each unlike the one before, and each there for a while.

    A character stays for `warp` steps, or if that varies for a number of steps that is uniform on
    `least`, …, `warp`. The right answer is the previous character, which counts for rewards once
    there is one. With `padded` the character is seen at its first step only, and the dummy
    afterwards, which is then also the right answer (and earns nothing).

    Args:
        warp: most steps of a character.
        least: fewest steps, where they vary.
        varies: whether they do.
        padded: dummies instead of repetitions.
        letters: different characters, without the dummy.
        length: steps of an episode.
    """

    is_endless = True

    def __init__(
        self, warp: int, least: int, varies: bool, padded: bool, letters: int, length: int
    ) -> None:
        self.stay = (least if varies else warp, warp)
        self.padded, self.letters, self.length = padded, letters, length
        self.names = "".join(chr(ord("a") + letter) for letter in range(letters)) + "·"
        self.answers = letters + 1
        self.settings: Mapping[str, Any] = {
            "warp": warp,
            **({"least": least} if varies else {}),
            "variable": varies,
            "padded": padded,
            "letters": letters,
            "length": length,
        }
        scored = self._scored()
        self.references: Mapping[str, float] = {
            "optimum": scored,
            "memoryless": scored / (letters - 1),
        }
        share = 2 / sum(self.stay) if padded else 1.0
        self.losses: Mapping[str, float] = {
            "optimum": 0.0,
            "memoryless": math.log(letters - 1) * share,
        }

    def start(self, n: int, generator: torch.Generator | None, device: torch.device) -> WarpState:
        """First characters."""
        letter = torch.randint(self.letters, (n,), generator=generator, device=device)
        left = self._stay(letter, generator)
        is_new = torch.ones(n, dtype=torch.bool, device=device)
        dummy = torch.full_like(letter, self.letters)
        return WarpState(letter, dummy, left, is_new, torch.zeros_like(letter))

    def advance(self, state: WarpState, generator: torch.Generator | None = None) -> WarpState:
        """One step on; another character where the present one has been there for long enough."""
        shift = torch.randint(
            1, self.letters, state.letter.shape, generator=generator, device=state.letter.device
        )
        is_new = state.left == 0
        return WarpState(
            torch.where(is_new, (state.letter + shift) % self.letters, state.letter),
            torch.where(is_new, state.letter, state.previous),
            torch.where(is_new, self._stay(state.left, generator), state.left - 1),
            is_new,
            state.step + 1,
        )

    def emit(self, state: WarpState) -> Emission:
        """The present character, and the previous one."""
        is_there = state.is_new if self.padded else torch.ones_like(state.is_new)
        dummy = torch.full_like(state.letter, self.letters)
        return Emission(
            torch.where(is_there, state.letter, dummy),
            torch.where(is_there, state.previous, dummy),
            is_there & (state.previous < self.letters),
            torch.ones_like(is_there),
        )

    def is_over(self, state: WarpState) -> Tensor:
        """Never: episodes are cut."""
        return torch.zeros_like(state.step, dtype=torch.bool)

    def _stay(self, like: Tensor, generator: torch.Generator | None) -> Tensor:
        """Steps after the first for which a new character is there."""
        low, high = self.stay
        return torch.randint(low - 1, high, like.shape, generator=generator, device=like.device)

    def _scored(self) -> float:
        """Expected steps that count in an episode."""
        stays = np.arange(self.stay[0], self.stay[1] + 1)
        if not self.padded:  # all but those of the first character
            return float(np.maximum(self.length - stays, 0).mean())
        comes = np.zeros(self.length)  # expected characters that begin at a step
        comes[0] = 1
        for step in range(self.length):
            after = step + stays[step + stays < self.length]
            comes[after] += comes[step] / len(stays)
        return float(comes[1:].sum())


@dataclass(frozen=True)
class WarpOptions(Options):
    """Options of warped sequences."""

    NEEDS: ClassVar[Mapping[str, tuple[str, tuple[Any, ...]]]] = {"least": ("variable", (True,))}

    warp: Count = 10
    """Steps for which a character stays; the most, if that varies."""
    variable: bool = True
    """Whether it varies, independently for each character."""
    least: Count = 1
    """Fewest steps of a character, if they vary."""
    padded: bool = False
    """A character is followed by dummies instead of being repeated."""
    letters: Count = 9
    """Different characters, without the dummy."""
    length: Count = 200
    """Steps of an episode."""

    def check(self) -> None:
        """There are characters enough, and one has time to pass."""
        require(3 <= self.letters <= 26, f"letters={self.letters}: must be in [3, 26]")
        least = self.least
        require(self.warp >= least, f"least={least}: must be ≤ warp, here {self.warp}")
        require(
            self.length > (least if self.variable else self.warp),
            f"length={self.length}: must be more than the steps of one character",
        )

    def make(self, device: str = "cpu") -> Answering:
        """The core of `semigradient/Warp-v0`."""
        source = Warp(self.warp, self.least, self.variable, self.padded, self.letters, self.length)
        return Answering(source, device)
