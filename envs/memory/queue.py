"""The queue: repeat the bits that were seen some steps ago.

T. Cooijmans, PhD thesis, chapter 4 (on the variance of UORO), figure 4.4.
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


class QueueState(NamedTuple):
    """The latest bits."""

    bits: Tensor  # (B, delay + 1) int64: the present one last, zeros before the first
    step: Tensor  # (B,) int64


class Queue:
    """Independent fair bits; the right answer is the bit of `delay` steps ago.

    Nothing is asked for during the first `delay` steps. The present bit says nothing about the
    answer, so a guess without memory is right half of the time.

    Args:
        delay: of the answer, in steps.
        length: steps of an episode.
    """

    is_endless = True

    def __init__(self, delay: int, length: int) -> None:
        self.delay, self.length = delay, length
        self.names, self.answers = "01", 2
        self.references: Mapping[str, float] = {
            "optimum": float(length - delay),
            "memoryless": (length - delay) / 2,
        }
        self.losses: Mapping[str, float] = {"optimum": 0.0, "memoryless": math.log(2)}
        self.settings: Mapping[str, Any] = {"delay": delay, "length": length}

    def start(self, n: int, generator: torch.Generator | None, device: torch.device) -> QueueState:
        """The first bits."""
        bits = torch.zeros((n, self.delay + 1), dtype=torch.int64, device=device)
        bits[:, -1] = torch.randint(2, (n,), generator=generator, device=device)
        return QueueState(bits, torch.zeros(n, dtype=torch.int64, device=device))

    def advance(self, state: QueueState, generator: torch.Generator | None = None) -> QueueState:
        """One bit more."""
        n, device = len(state.bits), state.bits.device
        bit = torch.randint(2, (n, 1), generator=generator, device=device)
        return QueueState(torch.cat([state.bits[:, 1:], bit], 1), state.step + 1)

    def emit(self, state: QueueState) -> Emission:
        """The present bit, and that of `delay` steps ago."""
        is_asked = state.step >= self.delay
        return Emission(state.bits[:, -1], state.bits[:, 0], is_asked, is_asked)

    def is_over(self, state: QueueState) -> Tensor:
        """Never: episodes are cut."""
        return torch.zeros_like(state.step, dtype=torch.bool)


@dataclass(frozen=True)
class QueueOptions(Options):
    """Options of the queue."""

    delay: Count = 4
    """Steps from a bit to the answer that it decides."""
    length: Count = 100
    """Steps of an episode."""

    def check(self) -> None:
        """Something is asked for."""
        require(
            self.length > self.delay, f"length={self.length}: must be > delay, here {self.delay}"
        )

    def make(self, device: str = "cpu") -> Answering:
        """The core of `semigradient/Queue-v0`."""
        return Answering(Queue(self.delay, self.length), device)
