"""Adding: the sum of the two numbers that were marked.

C. Tallec, PhD thesis, 2019, chapter 5 (after Hochreiter and Schmidhuber 1997 and Arjovsky et al.
2016).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from semigradient.envs.core import Step
from semigradient.envs.memory.source import Emission
from semigradient.envs.options import Options
from semigradient.envs.pictures import line
from semigradient.validate import at_least


class AddingState(NamedTuple):
    """Sequences of numbers."""

    number: Tensor  # (B,) float32: the present one
    marks: Tensor  # (B, 2) int64: steps of the marked ones
    total: Tensor  # (B,) float32: sum of the marked ones so far
    step: Tensor  # (B,) int64


class Adding:
    """`semigradient/Adding-v0`: numbers go by, two of which are marked; say their sum at the end.

    ## Action space
    `Box(0, 2, (1,), float32)`: the sum. Only the last step's counts.

    ## Observation space
    `Box(0, 1, (2,), float32)`: the present number, uniform on [0, 1], and its mark, 0 or 1.

    ## Rewards
    Minus the squared error at the last step, 0 before.

    ## Starting state
    One mark is uniform on the first half of the steps, one on the second.

    ## Episode end
    Terminated after `length` steps.

    ## Information
    None.

    ## Arguments
    Those of `AddingOptions`.

    ## Version history
    v0: first version.
    """

    is_endless = False

    def __init__(self, length: int, device: str | torch.device = "cpu") -> None:
        self.length, self.device = length, torch.device(device)
        self.single_observation_space = spaces.Box(0, 1, (2,), np.float32)
        self.single_action_space: spaces.Space = spaces.Box(0, 2, (1,), np.float32)
        self.settings: Mapping[str, Any] = {"length": length}
        self.protocol: dict[str, Any] = dict(self.settings)
        # At a last number that is marked, which is one of the second half, only the other is left
        # to guess, whose variance is 1/12 instead of 1/6.
        marked_last = 1 / (length - length // 2)
        self.references: Mapping[str, float] = {
            "optimum": 0.0,
            "memoryless": -(1 / 6) * (1 - marked_last) - (1 / 12) * marked_last,
        }
        self.losses: Mapping[str, float] = {"optimum": 0.0, "memoryless": 1 / 6}

    def reset(self, n: int, generator: torch.Generator | None = None) -> AddingState:
        """`n` new sequences."""
        return self.start(n, generator, self.device)

    def start(self, n: int, generator: torch.Generator | None, device: torch.device) -> AddingState:
        """First numbers, and marks."""
        draw: dict[str, Any] = {"generator": generator, "device": device}
        half = self.length // 2
        first = torch.randint(half, (n,), **draw)
        second = torch.randint(half, self.length, (n,), **draw)
        number = torch.rand(n, **draw)
        step = torch.zeros_like(first)
        total = torch.where(first == 0, number, 0.0)
        return AddingState(number, torch.stack([first, second], 1), total, step)

    def advance(self, state: AddingState, generator: torch.Generator | None = None) -> AddingState:
        """The next numbers."""
        number = torch.rand(state.number.shape, generator=generator, device=state.number.device)
        step = state.step + 1
        is_marked = (state.marks == step[:, None]).any(1)
        return AddingState(number, state.marks, state.total + is_marked * number, step)

    def emit(self, state: AddingState) -> Emission:
        """Numbers and marks (B, 2); the sum so far (B, 1), which is wanted at the end."""
        is_marked = (state.marks == state.step[:, None]).any(1)
        is_last = state.step == self.length - 1
        shown = torch.stack([state.number, is_marked.float()], 1)
        return Emission(shown, state.total[:, None], is_last, is_last)

    def is_over(self, state: AddingState) -> Tensor:
        """Whether all numbers have gone by."""
        return state.step >= self.length

    def step(
        self, state: AddingState, actions: Tensor, generator: torch.Generator | None = None
    ) -> Step:
        """The next numbers; actions (B, 1) count at the last step."""
        asked = self.emit(state)
        error = (actions.double() - asked.target)[:, 0]
        reward = torch.where(asked.is_scored, -error.square(), 0.0)
        after = self.advance(state, generator)
        over = self.is_over(after)
        return Step(after, reward, over, torch.zeros_like(over))

    def observe(self, state: AddingState) -> Tensor:
        """(B, 2) float32."""
        return self.emit(state).symbol

    def info(self, state: AddingState) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def render(self, state: AddingState) -> list[np.ndarray]:
        """The number on a line, and whether it is marked."""
        frames = []
        for (number, mark), step in zip(
            self.emit(state).symbol.tolist(), state.step.tolist(), strict=True
        ):
            words = f"step {step}: {number:.2f}{', marked' if mark else ''}"
            frames.append(line(number, 0, 1, words))
        return frames


@dataclass(frozen=True)
class AddingOptions(Options):
    """Options of adding."""

    length: Annotated[int, at_least(2)] = 50
    """Numbers of an episode."""

    def make(self, device: str = "cpu") -> Adding:
        """The core of `semigradient/Adding-v0`."""
        return Adding(self.length, device)
