"""Sources: random sequences of symbols, each of which asks for an answer.

A source is a Markov process on small tensors. It is written once, and used twice: `Answering` is
the environment of any source (an action is an answer, a right one where it counts is a reward of
1), and `envs.memory.streams` gives its inputs, targets and masks to supervised learners.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from semigradient.envs.core import Step
from semigradient.envs.pictures import INK, PALE, blank, finished, write

State = Any
"""A `NamedTuple` of tensors (B, …), one of which is `step` (B,) int64, the symbols so far."""


class Emission(NamedTuple):
    """What B sequences show, and what they ask for."""

    symbol: Tensor  # (B,) int64: seen; numbers (B, S) float32 in `envs.memory.adding`
    target: Tensor  # (B,) int64: the right answer; (B, 1) float32 there
    is_scored: Tensor  # (B,) bool: whether an answer can earn a reward
    is_learned: Tensor  # (B,) bool: whether the answer counts in a supervised loss


class Source(Protocol):
    """Sequences of symbols with an answer for each.

    Attributes:
        names: a character for each symbol; answers are the first of them.
        answers: how many answers there are.
        length: symbols of an episode where they are always as many, and the most where not.
        is_endless: whether episodes are cut from a sequence that goes on.
        references: expected returns of an episode, by name: `optimum` and `memoryless`, the best
            policies that see everything since the start, and the present symbol alone.
        losses: mean cross-entropies in nats of the answers that are learned (of numbers, mean
            squared errors) of a long stream: `optimum`, and `memoryless` as it was published.
        settings: what decides them.
    """

    names: str
    answers: int
    length: int
    is_endless: bool
    references: Mapping[str, float]
    losses: Mapping[str, float]
    settings: Mapping[str, Any]

    def start(self, n: int, generator: torch.Generator | None, device: torch.device) -> State:
        """The first symbols of `n` sequences."""
        ...

    def advance(self, state: State, generator: torch.Generator | None) -> State:
        """The next symbols."""
        ...

    def emit(self, state: State) -> Emission:
        """Of the present symbols; after the end of a sequence too, whatever is shown there."""
        ...

    def is_over(self, state: State) -> Tensor:
        """(B,) bool: whether the sequences have ended, and `state` is one after their last."""
        ...


class Answering:
    """Environments of sources: see a symbol, give the answer that it asks for.

    ## Action space
    `Discrete(A)`: the answer to the present symbol. Where none is asked for it does nothing.

    ## Observation space
    `Box(0, 1, (S,), float32)`: the present symbol, one-hot.

    ## Rewards
    1 for a right answer where it counts, 0 otherwise.

    ## Starting state
    A new sequence.

    ## Episode end
    Terminated at the end of the sequence; truncated after `length` symbols of one that goes on.

    ## Information
    None: what is wanted depends on what was seen.

    ## Arguments
    Those of the source.

    ## Version history
    v0: first version.
    """

    remembers = 15

    def __init__(self, source: Source, device: str | torch.device = "cpu") -> None:
        self.source, self.device = source, torch.device(device)
        self.single_observation_space = spaces.Box(0, 1, (len(source.names),), np.float32)
        self.single_action_space: spaces.Space = spaces.Discrete(source.answers)
        self.protocol: dict[str, Any] = dict(source.settings)
        self.references = dict(source.references)

    def reset(self, n: int, generator: torch.Generator | None = None) -> State:
        """`n` new sequences."""
        return self.source.start(n, generator, self.device)

    def step(self, state: State, actions: Tensor, generator: torch.Generator | None = None) -> Step:
        """Answer (B,), and see the next symbol."""
        asked = self.source.emit(state)
        reward = (asked.is_scored & (actions == asked.target)).double()
        after = self.source.advance(state, generator)
        over = self.source.is_over(after)
        late = after.step >= self.source.length
        is_cut = late & ~over if self.source.is_endless else torch.zeros_like(over)
        return Step(after, reward, over, is_cut)

    def observe(self, state: State) -> Tensor:
        """(B, S) float32."""
        symbol = self.source.emit(state).symbol
        return torch.nn.functional.one_hot(symbol, len(self.source.names)).float()

    def info(self, state: State) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def render(self, state: State, past: list[State]) -> list[np.ndarray]:
        """The latest symbols, the present one on the right, and the answers that count."""
        states = [*past, state]
        shown = [self.source.emit(each) for each in states]
        steps = np.stack([each.step.cpu().numpy() for each in states])
        # A state of the running episode is as many steps back as it was seen.
        is_of_this = steps[-1] - steps == np.arange(len(states))[::-1, None]
        return [
            strip(
                [
                    (self.source.names[one.symbol[row]], self._answer(one, row))
                    for one, is_shown in zip(shown, is_of_this[:, row], strict=True)
                    if is_shown
                ],
                f"step {steps[-1, row]}: symbols, and the answers that count",
            )
            for row in range(steps.shape[1])
        ]

    def _answer(self, emission: Emission, row: int) -> str:
        is_scored = bool(emission.is_scored[row])
        return self.source.names[emission.target[row]] if is_scored else ""


def strip(columns: list[tuple[str, str]], words: str) -> np.ndarray:
    """Two rows of characters, of which the last column is framed, (112, 464, 3).

    Args:
        columns: above and below, at most 16.
        words: over them.
    """
    width = 28
    canvas, draw = blank(16 * width + 16, 112)
    write(draw, (8, 8), words)
    for index, (above, below) in enumerate(columns, 16 - len(columns)):
        x = 8 + index * width
        last = index == 15
        draw.rectangle((x, 38, x + width - 4, 66), outline=INK if last else PALE)
        write(draw, (x + width / 2 - 2, 52), above, size=16, anchor="mm")
        write(draw, (x + width / 2 - 2, 88), below, (200, 40, 40), 16, "mm")
    return finished(canvas)
