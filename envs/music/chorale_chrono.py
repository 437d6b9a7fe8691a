"""Sequential composition: a chorale from left to right, with few past notes observed.

The stream is partially observed on purpose, so that credit assignment and memory are long:
recurrent agents have to remember the notes written. The decision process is this project's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from semigradient.envs.core import Step
from semigradient.envs.music.chorale_setting import (
    ILLEGAL,
    ExcerptOptions,
    Setting,
    numbers,
)
from semigradient.validate import NonNegative

Reward = Literal["rules", "model", "imitation"]
Task = Literal["scratch", "harmonize"]
_MAJOR, _MINOR = (0, 4, 7), (0, 3, 7)


@dataclass(frozen=True)
class ChronoOptions(ExcerptOptions):
    """Options of writing an excerpt in the order of time."""

    NEEDS: ClassVar = {"rules_weight": ("reward", ("model", "imitation"))}

    reward: Reward = "rules"
    """Reward: the rules of harmony, the model's log p, or 1 for the real note (imitation)."""
    rules_weight: NonNegative = 0.0
    """Weight of the rules' reward that is added to another one, as in RL Tuner; 0: none."""
    task: Task = "scratch"
    """What is given: nothing, or the soprano (harmonize)."""
    memory: Literal[1, 4] = 4
    """Observed past notes."""
    cadence: float = 0.0
    """Bonus for a last frame that is the triad on the soprano's last note."""

    def make(self, device: str = "cpu") -> ChoraleChrono:
        """The core of `semigradient/ChoraleChrono-v0`."""
        return ChoraleChrono(self.setting(device), self)


class ChronoState(NamedTuple):
    """Running episodes."""

    pitches: Tensor  # (B, I, T) int64: pitch numbers, -1 where nothing is written
    truth: Tensor  # (B, I, T) int64: the corpus' roll
    written: Tensor  # (B,) int64: notes written
    steps: Tensor  # (B,) int64
    log_p: Tensor  # (B,) float64
    events: Tensor  # (B, E) int64


class ChoraleChrono:
    """`semigradient/ChoraleChrono-v0`: frame by frame, soprano to bass, one note per step.

    ## Action space
    `Discrete(P)`: the pitch of the next note, within the voice's range.

    ## Observation space
    `Box(0, 1, (D,), float32)`, one-hots side by side: the `memory` (4, or 1) notes before this one
    in the order of writing, the latest first; the place in a bar of four quarters; the voice that
    is next; when harmonizing, the soprano's note now and in the next frame. Missing notes are rows
    of zeros.

    ## Rewards
    `rules`: the change of the potential of `envs.music.chorale_rules`. `model`: log p of the note
    given all that was written (when harmonizing, and the whole soprano). `imitation`: 1 for the
    real note, 0 otherwise, and the real note is what is written. An illegal action changes nothing
    and costs 10. In addition, `cadence` for a last frame that is the complete major or minor triad
    on the pitch class of the soprano's last note. `rules_weight` adds so many times the reward of
    `rules` to the others: a note model plus rules (N. Jaques et al. 2017, arXiv:1611.02796).

    ## Starting state
    An empty roll, or one that has the soprano of a roll of the corpus (`task="harmonize"`).
    `options`: `piece`, `offset`.

    ## Episode end
    Terminated when everything is written, truncated after four times as many steps, which only
    illegal actions can lead to.

    ## Information
    `action_mask` (P,), `pianoroll` (I, T) int8 of MIDI pitches with -1 where unknown, `log_p` of
    the notes written (0 where the reward needs no model), `rules` (E,), the counts of
    `envs.music.chorale_rules.EVENTS`.

    ## Arguments
    Those of `ChronoOptions`.

    ## Version history
    v0: first version.
    """

    def __init__(self, setting: Setting, options: ChronoOptions) -> None:
        reward, task, memory = options.reward, options.task, options.memory
        self.rules = setting.need_rules("ChoraleChrono")
        if reward == "model":
            setting.need_model(f"reward={reward!r}")
        self.setting, self.device = setting, setting.device
        self.reward, self.task, self.memory, self.cadence = reward, task, memory, options.cadence
        self.rules_weight = options.rules_weight
        self.first = 1 if task == "harmonize" else 0
        self.notes_per_frame = setting.voices - self.first
        self.notes = self.notes_per_frame * setting.frames
        self.bar = 4 * self.rules.beat
        width = memory * setting.pitches + self.bar + setting.voices
        width += 2 * setting.pitches * self.first
        self.single_observation_space = spaces.Box(0.0, 1.0, (width,), np.float32)
        self.single_action_space: spaces.Space = spaces.Discrete(setting.pitches)
        self.protocol: dict[str, Any] = {
            "frames": setting.frames,
            "reward": reward,
            "task": task,
            "memory": memory,
            **({"rules_weight": options.rules_weight} if options.rules_weight else {}),
        }

    def reset(
        self,
        n: int,
        generator: torch.Generator | None = None,
        piece: int | list[int] | Tensor | None = None,
        offset: int | list[int] | Tensor | None = None,
    ) -> ChronoState:
        """`n` episodes on rolls of the corpus, random unless given."""
        where = (numbers(piece, n, self.device), numbers(offset, n, self.device))
        truth = self.setting.corpus.draw(n, generator, *where)
        pitches = torch.full_like(truth, -1)
        pitches[:, : self.first] = truth[:, : self.first]
        count = torch.zeros(n, dtype=torch.int64, device=self.device)
        return ChronoState(pitches, truth, count, count, count.double(), self.rules.count(pitches))

    def step(
        self, state: ChronoState, actions: Tensor, generator: torch.Generator | None = None
    ) -> Step:
        """Write the next note. Actions are (B,)."""
        setting, rows = self.setting, torch.arange(len(state.steps), device=self.device)
        voice, time = self._place(state)
        legal = setting.singable[voice, actions]
        real = state.truth[rows, voice, time]
        pitch = real if self.reward == "imitation" else actions
        pitches = state.pitches.clone()
        pitches[rows, voice, time] = pitch.where(legal, -1)
        gained = self.rules.completed(pitches, voice, time) * legal[:, None]
        log_p = torch.zeros_like(state.log_p)
        if self.reward == "model":
            model = setting.need_model("reward")
            seen = model(state.pitches.clamp(min=0), state.pitches >= 0)
            log_p = seen[rows, voice, time, actions].double().where(legal, 0.0)
        written, steps = state.written + legal.long(), state.steps + 1
        terminated = written == self.notes
        truncated = (steps >= 4 * self.notes) & ~terminated
        after = ChronoState(
            pitches, state.truth, written, steps, state.log_p + log_p, state.events + gained
        )
        paid = {
            "rules": lambda: self.rules.potential(gained),
            "model": lambda: log_p,
            "imitation": lambda: (actions == real).double(),
        }[self.reward]()
        if self.rules_weight:
            paid = paid + self.rules_weight * self.rules.potential(gained)
        if self.cadence:
            paid = paid + self.cadence * (terminated & self._closes(pitches))
        return Step(after, paid.where(legal, ILLEGAL), terminated, truncated)

    def observe(self, state: ChronoState) -> Tensor:
        """(B, D) float32."""
        setting = self.setting
        voice, time = self._place(state)
        stream = state.pitches.transpose(1, 2).flatten(1)  # frame by frame, soprano to bass
        now = time * setting.voices + voice
        back = now[:, None] - 1 - torch.arange(self.memory, device=self.device)
        recent = stream.gather(1, back.clamp(min=0)).where(back >= 0, -1)
        parts = [
            self._one_hot(recent),
            F.one_hot(time % self.bar, self.bar),
            F.one_hot(voice, setting.voices),
        ]
        if self.first:
            near = time[:, None] + torch.arange(2, device=self.device)
            inside = near < setting.frames
            soprano = state.pitches[:, 0].gather(1, near.clamp(max=setting.frames - 1))
            parts.append(self._one_hot(soprano.where(inside, -1)))
        return torch.cat([part.float() for part in parts], 1)

    def info(self, state: ChronoState) -> dict[str, Tensor]:
        """Legal pitches, the roll, and its log p and events."""
        return {
            "action_mask": self.setting.singable[self._place(state)[0]],
            "pianoroll": self.setting.notes(state.pitches),
            "log_p": state.log_p,
            "rules": state.events,
        }

    def render(self, state: ChronoState) -> list[np.ndarray]:
        """Frames (H, W, 3) with axes."""
        return self.setting.pictures(state.pitches)

    def text(self, state: ChronoState) -> list[str]:
        """The same as text."""
        return self.setting.texts(state.pitches)

    def export_midi(self, state: ChronoState, path: str | Path, index: int = 0) -> None:
        """Write the roll of one episode as a MIDI file."""
        self.setting.export_midi(state.pitches[index], path)

    def _place(self, state: ChronoState) -> tuple[Tensor, Tensor]:
        """Voice and frame (B,) of the next note, those of the last one when all is written."""
        index = state.written.clamp(max=self.notes - 1)
        return self.first + index % self.notes_per_frame, index // self.notes_per_frame

    def _one_hot(self, pitches: Tensor) -> Tensor:
        """(B, n P) of pitch numbers (B, n), zeros for -1."""
        return F.one_hot(pitches + 1, self.setting.pitches + 1)[..., 1:].flatten(1)

    def _closes(self, pitches: Tensor) -> Tensor:
        """Whether the last frame (B,) is the triad on the soprano's last note."""
        last = pitches[:, :, -1]
        above = (last - last[:, :1]) % 12
        soprano, alto, tenor, bass = (torch.ones_like(above) << above).unbind(1)
        sets = soprano | alto | tenor | bass
        triads = [sum(1 << step for step in chord) for chord in (_MAJOR, _MINOR)]
        return ((sets == triads[0]) | (sets == triads[1])) & (last >= 0).all(1)
