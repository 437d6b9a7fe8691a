"""Completing chorales in one go, so that one loop trains and scores what learns to.

Of a piece by Bach some notes are shown, as the task says; the action is a guess of all others at
once. The mean return is the share of hidden notes that are guessed as Bach wrote them.

Source: T. Cooijmans, PhD thesis, section 3.3 (the data and the masks); the score by return is ours.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from semigradient.envs.core import Step
from semigradient.envs.music import chorale_tasks, chorales
from semigradient.envs.music.chorale_rendering import picture
from semigradient.envs.music.chorales import PITCHES, VOICES
from semigradient.errors import require


class State(NamedTuple):
    """A crop, and what of it is shown."""

    pitches: Tensor  # (B, I, T) int64, indices
    known: Tensor  # (B, I, T) bool


class Completion:
    """`semigradient/Chorales-v0`: hidden notes of a chorale, guessed all at once.

    ## Action space
    `MultiDiscrete` (4, T) of 46: the pitch of every note, MIDI 36 to 81; soprano to bass. What it
    says of known notes is not looked at.

    ## Observation space
    `Box(0, 46, (4, T), uint8)`: pitch indices, 46 where a note is hidden.

    ## Rewards
    The share of hidden notes guessed right; 1 if none is hidden.

    ## Starting state
    A random crop of a random piece, with notes hidden as the task says.
    `options={"task": …, "rate": …}` chooses another task.

    ## Episode end
    Terminated after one step.

    ## Information
    `known` (4, T), what is shown.

    ## Arguments
    Those of `make` below. `pieces` (a `Chorales`), `steps` and `task` are public, for learners.

    ## Version history
    v0: first version.
    """

    def __init__(
        self,
        pieces: chorales.Chorales,
        steps: int,
        task: str = "orderless",
        rate: float = 0.5,
        align: int = 1,
        device: str | torch.device = "cpu",
    ) -> None:
        require(steps >= 4, f"steps={steps}: must be ≥ 4")
        require(align >= 1, f"align={align}: must be ≥ 1")
        chorale_tasks.known(task, 1, len(VOICES), steps, None, rate)  # checks their names
        self.device = torch.device(device)
        self.pieces, self.steps, self.task, self.rate = pieces, steps, task, rate
        self.align = align
        shape = (len(VOICES), steps)
        self.single_observation_space = spaces.Box(0, len(PITCHES), shape, np.uint8)
        self.single_action_space = spaces.MultiDiscrete(np.full(shape, len(PITCHES)))
        self.protocol: dict[str, Any] = {"task": task, "steps": steps, "grid": pieces.grid}
        chorales.crops(pieces, 1, steps, torch.Generator())  # is any piece that long?

    def reset(
        self,
        n: int,
        generator: torch.Generator | None = None,
        task: str | None = None,
        rate: float | None = None,
    ) -> State:
        """`n` random crops under the task."""
        # Pieces lie in the processor's memory, and are drawn there.
        seed = torch.randint(2**62, (), generator=generator, device=self.device)
        source = torch.Generator().manual_seed(int(seed))
        pitches = chorales.crops(self.pieces, n, self.steps, source, self.align)
        chosen = self.task if task is None else task
        share = self.rate if rate is None else rate
        known = chorale_tasks.known(chosen, n, len(VOICES), self.steps, source, share)
        return State(pitches.to(self.device), known.to(self.device))

    def step(self, state: State, actions: Tensor, generator: torch.Generator | None = None) -> Step:
        """Compare with Bach; every episode ends."""
        hidden = ~state.known
        right = ((actions == state.pitches) & hidden).flatten(1).sum(1)
        count = hidden.flatten(1).sum(1)
        reward = torch.where(count > 0, right / count.clamp(min=1), 1.0).double()
        over = torch.ones_like(count, dtype=torch.bool)
        return Step(state, reward, over, ~over)

    def observe(self, state: State) -> Tensor:
        """(B, I, T) uint8: pitch indices, the number of pitches where a note is hidden."""
        return torch.where(state.known, state.pitches, len(PITCHES)).to(torch.uint8)

    def info(self, state: State) -> dict[str, Tensor]:
        """What is shown (B, I, T)."""
        return {"known": state.known.clone()}

    def render(self, state: State) -> list[np.ndarray]:
        """Piano rolls (4P, 8T, 3), a colour each voice; what is hidden is grey."""
        shown = torch.where(state.known, state.pitches, -1)
        return [picture(each, len(PITCHES)) for each in shown]


def make(
    split: str = "train",
    source: str = "music21",
    grid: int = 1,
    steps: int = 128,
    task: str = "orderless",
    rate: float = 0.5,
    align: int = 1,
    device: str = "cpu",
) -> Completion:
    """Chorales to complete.

    Args:
        split: train, valid or test.
        source: music21, an .npz file or a folder, as in `envs.music.chorales.load`.
        grid: sixteenths in a step.
        steps: T.
        task: what is shown, of `envs.music.chorale_tasks`.
        rate: of the task inpaint.
        align: crops begin at multiples of this many steps.
        device: where the tensors live.
    """
    core = Completion(chorales.load(split, grid, source), steps, task, rate, align, device)
    core.protocol = {"source": source, "split": split, **core.protocol}
    return core
