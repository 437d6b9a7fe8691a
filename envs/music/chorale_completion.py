"""Completing chorales in a single step, as an environment for the common training loop.

Some notes of a piece by Bach are shown, by task; the action is a joint guess of all others. The
mean return is the share of hidden notes that are guessed correctly.

Source: T. Cooijmans, PhD thesis, section 3.3 (the data and the masks); the score by return is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from semigradient.envs.core import Step
from semigradient.envs.music import chorale_tasks, chorales
from semigradient.envs.music.chorale_rendering import frame
from semigradient.envs.music.chorales import PITCHES, VOICES
from semigradient.envs.options import Options
from semigradient.validate import Count, Share, at_least


@dataclass(frozen=True)
class CompletionOptions(Options):
    """Options of completing a chorale in a single step."""

    NEEDS: ClassVar = {"rate": ("task", ("inpaint",))}

    split: Literal["train", "valid", "test"] = "train"
    """Part of the chorales."""
    source: str = "music21"
    """Chorales: music21's, an .npz file, or a folder of MusicXML and MIDI files."""
    grid: Literal[1, 2, 4] = 1
    """Sixteenths per step."""
    steps: Annotated[int, at_least(4)] = 128
    """Steps of a crop, T."""
    task: str = "orderless"
    """What is shown: scratch, harmonize, voice:i, bridge, inpaint, upsample, orderless."""
    rate: Share = 0.5
    """Probability of each note to be shown by inpaint."""
    align: Count = 1
    """Crops begin at multiples of this many steps."""

    def check(self) -> None:
        """The task exists."""
        chorale_tasks.known(self.task, 1, len(VOICES), self.steps, None, self.rate)

    def make(self, device: str = "cpu") -> Completion:
        """The core of `semigradient/Chorales-v0`."""
        core = Completion(chorales.load(self.split, self.grid, self.source), self, device)
        core.protocol = {"source": self.source, "split": self.split, **core.protocol}
        return core


class CompletionState(NamedTuple):
    """Crops, and which of their notes are shown."""

    pitches: Tensor  # (B, I, T) int64, indices
    known: Tensor  # (B, I, T) bool


class Completion:
    """`semigradient/Chorales-v0`: hidden notes of a chorale, guessed all at once.

    ## Action space
    `MultiDiscrete` (4, T) of 46: the pitch of every note, MIDI 36 to 81; soprano to bass. Guesses
    of known notes are ignored.

    ## Observation space
    `Box(0, 46, (4, T), uint8)`: pitch indices, 46 where a note is hidden.

    ## Rewards
    The share of hidden notes guessed right; 1 if none is hidden.

    ## Starting state
    A random crop of a random piece, with notes hidden by task.
    `options={"task": …, "rate": …}` chooses another task.

    ## Episode end
    Terminated after one step.

    ## Information
    `known` (4, T), what is shown.

    ## Arguments
    Those of `CompletionOptions`. `pieces` (a `Chorales`), `steps` and `task` are public.

    ## Version history
    v0: first version.
    """

    def __init__(
        self,
        pieces: chorales.Chorales,
        options: CompletionOptions,
        device: str | torch.device = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.pieces, self.steps, self.align = pieces, options.steps, options.align
        self.task, self.rate = options.task, options.rate
        steps = options.steps
        shape = (len(VOICES), steps)
        self.single_observation_space = spaces.Box(0, len(PITCHES), shape, np.uint8)
        self.single_action_space = spaces.MultiDiscrete(np.full(shape, len(PITCHES)))
        self.protocol: dict[str, Any] = {"task": self.task, "steps": steps, "grid": pieces.grid}
        chorales.crops(pieces, 1, steps, torch.Generator())  # raises if no piece is that long

    def reset(
        self,
        n: int,
        generator: torch.Generator | None = None,
        task: str | None = None,
        rate: float | None = None,
    ) -> CompletionState:
        """`n` random crops under the task."""
        # Pieces are in the CPU's memory and are drawn there.
        seed = torch.randint(2**62, (), generator=generator, device=self.device)
        source = torch.Generator().manual_seed(int(seed))
        pitches = chorales.crops(self.pieces, n, self.steps, source, self.align)
        chosen = self.task if task is None else task
        share = self.rate if rate is None else rate
        known = chorale_tasks.known(chosen, n, len(VOICES), self.steps, source, share)
        return CompletionState(pitches.to(self.device), known.to(self.device))

    def step(
        self, state: CompletionState, actions: Tensor, generator: torch.Generator | None = None
    ) -> Step:
        """Compare with Bach; every episode ends."""
        hidden = ~state.known
        right = ((actions == state.pitches) & hidden).flatten(1).sum(1)
        count = hidden.flatten(1).sum(1)
        reward = torch.where(count > 0, right / count.clamp(min=1), 1.0).double()
        over = torch.ones_like(count, dtype=torch.bool)
        return Step(state, reward, over, ~over)

    def observe(self, state: CompletionState) -> Tensor:
        """(B, I, T) uint8: pitch indices, the number of pitches where a note is hidden."""
        return torch.where(state.known, state.pitches, len(PITCHES)).to(torch.uint8)

    def info(self, state: CompletionState) -> dict[str, Tensor]:
        """What is shown (B, I, T)."""
        return {"known": state.known.clone()}

    def render(self, state: CompletionState) -> list[np.ndarray]:
        """Piano rolls with axes, one colour per voice; where notes are hidden it is grey."""
        shown = torch.where(state.known, state.pitches, -1)
        return [frame(roll, len(PITCHES), int(PITCHES[0])) for roll in shown]
