"""Writing a chorale note by note: the orderless autoregressive model as a decision process.

The known part of a roll grows by one note per step until it is complete. With the reward
log p(note | known notes) of a model, the return is the log-probability of the roll in the chosen
order; with an entropy bonus of temperature 1 on the choice of cell and pitch the optimal
policy is ancestral sampling in random order, π(i, t, p) = p(x_it = p | x_C) / |¬C|, and the value
of a state is log(|¬C|!), for any model whose conditionals are normalised.

Source: T. Cooijmans, PhD thesis, chapter 3 (the model, its orders and tasks); the decision process
is this project's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from semigradient.envs.core import Step
from semigradient.envs.forms import Features
from semigradient.envs.music.chorale_setting import (
    ILLEGAL,
    VOICES,
    ExcerptOptions,
    Setting,
    check_task,
    contexts,
    numbers,
    toy_setting,
)
from semigradient.envs.options import Options
from semigradient.errors import require
from semigradient.validate import Share

Order = Literal["free", "random", "chrono", "chrono-bass"]
Reward = Literal["nade", "rules", "mixed", "terminal", "terminal-rules"]
Actions = Literal["flat", "multidiscrete"]


@dataclass(frozen=True)
class WritingOptions(Options):
    """Options of writing a roll note by note."""

    NEEDS: ClassVar = {"context_rate": ("task", ("inpaint",))}

    reward: Reward = "nade"
    """Reward: the model's (nade), the rules of harmony, both (mixed), or at the end alone
    (terminal, terminal-rules)."""
    order: Order = "free"
    """Who chooses the next cell: the agent (free), chance (random), or the order of time."""
    task: str = "scratch"
    """What is given: scratch, harmonize, voice:i, bridge, inpaint, upsample, orderless."""
    context_rate: Share = 0.5
    """Probability of each note to be given by inpaint."""
    actions: Actions = "flat"
    """One number, or voice, frame and pitch (multidiscrete)."""

    def check(self) -> None:
        """Only agents that choose the cell can name it."""
        is_valid = self.order == "free" or self.actions == "flat"
        require(is_valid, f"actions={self.actions!r}: is for order='free'")


@dataclass(frozen=True)
class ToyChoraleOptions(WritingOptions):
    """Options of two voices, three frames and pitches; the model is the exact joint."""

    def make(self, device: str = "cpu") -> ChoraleFill:
        """The core of `semigradient/ToyChorale-v0`."""
        return ChoraleFill(toy_setting(device), self)


@dataclass(frozen=True)
class FillOptions(WritingOptions, ExcerptOptions):
    """Options of writing an excerpt of a chorale."""

    NEEDS: ClassVar = {**WritingOptions.NEEDS, "mix": ("reward", ("mixed",))}

    reward: Reward = "rules"
    """Reward: the model's (nade), the rules of harmony, both (mixed), or at the end alone
    (terminal, terminal-rules)."""
    mix: Share = 0.5
    """Weight of the model in the mixed reward."""

    def check(self) -> None:
        """The task is one of four voices."""
        super().check()
        check_task(self.task, self.context_rate, VOICES)

    def make(self, device: str = "cpu") -> ChoraleFill:
        """The core of `semigradient/ChoraleFill-v0`."""
        return ChoraleFill(self.setting(device), self, self.mix)


class FillState(NamedTuple):
    """Running episodes."""

    pitches: Tensor  # (B, I, T) int64: pitch numbers, -1 where nothing is known
    cell: Tensor  # (B,) int64: i T + t, which cell is next; -1 where the agent chooses
    missing: Tensor  # (B,) int64: how many cells are unknown
    steps: Tensor  # (B,) int64
    log_p: Tensor  # (B,) float64: sum of log p of the notes that were written
    events: Tensor  # (B, E) int64: counts of the rules' events, or (B, 0)


class ChoraleFill:
    """`semigradient/ChoraleFill-v0`, and `semigradient/ToyChorale-v0`: write one note at a time.

    ## Action space
    With `order="free"` `Discrete(I T P)`: a = (i T + t) P + p writes pitch number p in voice i at
    frame t; with `actions="multidiscrete"` `MultiDiscrete([I, T, P])`. With the other orders the
    environment chooses the next cell and the action is a pitch, `Discrete(P)`: `random` draws the
    cell uniformly among the unknown ones, `chrono` takes frame by frame, soprano to bass,
    `chrono-bass` soprano, bass, alto, tenor. An action is legal if its cell is unknown and its
    pitch within the voice's range.

    ## Observation space
    `Box(0, 1, (2I, T, P), float32)`: I channels with ones at the known notes, I channels with ones
    at the known cells, constant along the pitches; where the environment chooses the cell, I more
    with ones at the cell that is next. Soprano first.

    ## Rewards
    `nade`: log p(note | known notes) of the model. `rules`: the change of the potential of
    `envs.music.chorale_rules`. `mixed`: `mix` nade / D + (1 - `mix`) rules / (T / 100).
    `terminal`: at the end minus the framewise negative log-likelihood of the roll under the model
    (one random ordering), 0 before; `terminal-rules`: at the end the potential. An illegal action
    changes nothing and costs 10.

    ## Starting state
    A roll of the corpus of which the task's cells are known. `options`: `piece` and `offset`
    (numbers, one for all or one per episode), `task`, `context_rate`.

    ## Episode end
    Terminated when all cells are known; truncated after 4 I T steps, which only illegal actions
    can lead to.

    ## Information
    `action_mask`, `pianoroll` (I, T) int8 of MIDI pitches with -1 where unknown, `missing` (cells),
    `log_p` of the notes written (0 where the reward needs no model), and with four voices `rules`
    (E,), the counts of `envs.music.chorale_rules.EVENTS`.

    ## Arguments
    Those of `FillOptions`, of `ToyChoraleOptions` for the toy.

    ## Version history
    v0: first version.
    """

    def __init__(self, setting: Setting, options: WritingOptions, mix: float = 0.5) -> None:
        reward, order = options.reward, options.order
        bass = order != "chrono-bass" or setting.voices == 4
        require(bass, f"order={order!r}: is for 4 voices, not {setting.voices}")
        check_task(options.task, options.context_rate, setting.voices)
        self.setting, self.device = setting, setting.device
        self.reward, self.order, self.mix = reward, order, mix
        self.task, self.rate = options.task, options.context_rate
        if reward in ("nade", "mixed", "terminal"):
            setting.need_model(f"reward={reward!r}")
        if reward in ("rules", "mixed", "terminal-rules"):
            setting.need_rules(f"reward={reward!r}")
        self.max_steps = 4 * setting.cells
        self._lay_out(options.actions)
        self.protocol: dict[str, Any] = {
            "frames": setting.frames,
            "reward": reward,
            "order": order,
            "task": self.task,
        }

    def reset(
        self,
        n: int,
        generator: torch.Generator | None = None,
        piece: int | list[int] | Tensor | None = None,
        offset: int | list[int] | Tensor | None = None,
        task: str | None = None,
        context_rate: float | None = None,
    ) -> FillState:
        """`n` rolls of the corpus with some cells known; random unless given."""
        setting = self.setting
        rate = self.rate if context_rate is None else context_rate
        task = self.task if task is None else task
        check_task(task, rate, setting.voices)
        where = (numbers(piece, n, self.device), numbers(offset, n, self.device))
        roll = setting.corpus.draw(n, generator, *where)
        given = contexts(task, n, setting, generator, rate)
        pitches = roll.where(given, -1)
        missing = (~given).flatten(1).sum(1)
        count = torch.zeros_like(missing)
        if setting.rules is None:
            events = pitches.new_zeros(n, 0)
        else:
            events = setting.rules.count(pitches)
        cell = self._next_cell(pitches, generator)
        return FillState(pitches, cell, missing, count, count.double(), events)

    def step(
        self, state: FillState, actions: Tensor, generator: torch.Generator | None = None
    ) -> Step:
        """Write a note. Actions are (B,), or (B, 3) if they are voice, frame and pitch."""
        setting = self.setting
        cell, pitch = self._read(state, actions)
        rows = torch.arange(len(cell), device=self.device)
        voice, time = cell // setting.frames, cell % setting.frames
        legal = (state.pitches[rows, voice, time] < 0) & setting.singable[voice, pitch]
        pitches = state.pitches.clone()
        pitches[rows, voice, time] = pitch.where(legal, pitches[rows, voice, time])
        missing, steps = state.missing - legal.long(), state.steps + 1
        log_p, gained = torch.zeros_like(state.log_p), torch.zeros_like(state.events)
        if self.reward in ("nade", "mixed"):
            log_p = self._log_p(state.pitches)[rows, voice, time, pitch].double()
        if setting.rules is not None:
            gained = setting.rules.completed(pitches, voice, time) * legal[:, None]
        log_p = log_p.where(legal, 0.0)
        terminated = missing == 0
        truncated = (steps >= self.max_steps) & ~terminated
        after = FillState(
            pitches,
            self._next_cell(pitches, generator, state.cell, legal),
            missing,
            steps,
            state.log_p + log_p,
            state.events + gained,
        )
        reward = self._reward(after, log_p, gained, terminated, generator)
        return Step(after, reward.where(legal, ILLEGAL), terminated, truncated)

    def observe(self, state: FillState) -> Tensor:
        """(B, 2I or 3I, T, P) float32: every row along the pitches is one of a few patterns."""
        setting, known = self.setting, state.pitches >= 0
        kinds = [state.pitches + 1, known + setting.pitches + 1]
        if self.order != "free":
            here = torch.arange(setting.cells, device=self.device) == state.cell[:, None]
            kinds.append(here.view_as(known) + setting.pitches + 1)
        rows = torch.cat(kinds, 1)
        channels = self._patterns.index_select(0, rows.flatten())
        return channels.view(*rows.shape, setting.pitches)

    def info(self, state: FillState) -> dict[str, Tensor]:
        """Legal actions, the roll, and its log p and events."""
        info = {
            "action_mask": self.legal(state),
            "pianoroll": self.setting.notes(state.pitches),
            "missing": state.missing,
            "log_p": state.log_p,
        }
        return info | ({"rules": state.events} if self.setting.rules else {})

    def legal(self, state: FillState) -> Tensor:
        """(B, A) bool; for MultiDiscrete what is legal with some choice of the others."""
        setting, unknown = self.setting, state.pitches < 0
        if self.order != "free":
            return setting.singable[state.cell.clamp(min=0) // setting.frames]
        if isinstance(self.single_action_space, spaces.MultiDiscrete):
            voices, times = unknown.any(2), unknown.any(1)
            pitches = (voices[:, :, None] & setting.singable).any(1)
            return torch.cat([voices, times, pitches], 1)
        voice = torch.arange(setting.voices, device=self.device)[:, None]
        rows = torch.where(unknown, voice, setting.voices).flatten()
        return self._singable_or_nothing.index_select(0, rows).view(len(unknown), -1)

    def render(self, state: FillState) -> list[np.ndarray]:
        """Frames (H, W, 3) with axes."""
        return self.setting.pictures(state.pitches)

    def text(self, state: FillState) -> list[str]:
        """The same as text."""
        return self.setting.texts(state.pitches)

    def export_midi(self, state: FillState, path: str | Path, index: int = 0) -> None:
        """Write the roll of one episode as a MIDI file; unknown cells are rests."""
        self.setting.export_midi(state.pitches[index], path)

    def _lay_out(self, actions: Actions) -> None:
        setting, device = self.setting, self.device
        voices, frames, pitches = setting.voices, setting.frames, setting.pitches
        given = self.order != "free"
        shape = ((3 if given else 2) * voices, frames, pitches)
        self.single_observation_space = Features(0.0, 1.0, shape, np.float32)
        self.single_action_space: spaces.Space = spaces.Discrete(
            pitches if given else setting.cells * pitches
        )
        if actions == "multidiscrete":
            self.single_action_space = spaces.MultiDiscrete([voices, frames, pitches])
        eye, one = torch.eye(pitches, device=device), torch.ones(1, pitches, device=device)
        self._patterns = torch.cat([0 * one, eye, 0 * one, one])  # nothing, a note, no, yes
        nothing = torch.zeros_like(setting.singable[:1])
        self._singable_or_nothing = torch.cat([setting.singable, nothing])
        order = torch.arange(voices, device=device)
        if self.order == "chrono-bass":
            order = order[[0, 3, 1, 2]]
        times = torch.arange(frames, device=device)
        self._chrono = (order * frames + times[:, None]).flatten()

    def _read(self, state: FillState, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Cells and pitches (B,) of actions."""
        actions, setting = actions.to(torch.int64), self.setting
        if self.order != "free":
            return state.cell.clamp(min=0), actions
        if actions.dim() == 2:
            voice, time, pitch = actions.unbind(1)
            return voice * setting.frames + time, pitch
        return actions // setting.pitches, actions % setting.pitches

    def _next_cell(
        self,
        pitches: Tensor,
        generator: torch.Generator | None,
        now: Tensor | None = None,
        moved: Tensor | None = None,
    ) -> Tensor:
        """The cell (B,) to be written next; it stays where nothing was written."""
        unknown = (pitches < 0).flatten(1)
        if self.order == "free":
            return torch.full_like(pitches[:, 0, 0], -1)
        if self.order == "random":
            shape, device = unknown.shape, self.device
            uniform = torch.rand(shape, generator=generator, device=device, dtype=torch.float64)
            cell = uniform.where(unknown, -1.0).argmax(1)
        else:
            cell = self._chrono[unknown[:, self._chrono].long().argmax(1)]
        return cell if now is None or moved is None else cell.where(moved, now)

    def _log_p(self, pitches: Tensor) -> Tensor:
        known = pitches >= 0
        return self.setting.need_model("reward")(pitches.clamp(min=0), known)

    def _reward(
        self,
        after: FillState,
        log_p: Tensor,
        gained: Tensor,
        over: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        setting = self.setting
        if self.reward == "nade":
            return log_p
        if self.reward == "terminal":
            return self._framewise(after.pitches, over, generator)
        rules = setting.need_rules("reward")
        if self.reward == "terminal-rules":
            return rules.potential(after.events).where(over, 0.0)
        change = rules.potential(gained)
        if self.reward == "rules":
            return change
        return self.mix * log_p / setting.cells + (1 - self.mix) * change / (setting.frames / 100)

    def _framewise(
        self, pitches: Tensor, over: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Minus the framewise negative log-likelihood of the rolls that are over, else 0."""
        from semigradient.envs.music.chorale_filling import framewise_log_likelihood

        reward = torch.zeros(len(over), dtype=torch.float64, device=self.device)
        rows = over.nonzero().squeeze(1)
        if len(rows):
            model = self.setting.need_model("reward")
            reward[rows] = framewise_log_likelihood(model, pitches[rows], generator)
        return reward
