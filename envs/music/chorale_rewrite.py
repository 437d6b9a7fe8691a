"""Rewriting a chorale: repeatedly erase a part and let a model fill the gap.

Blocked Gibbs sampling as a decision process: the action erases cells, the filling is the
environment's only randomness, and the reward is the increase of the roll's score. An annealed
schedule of erasure rates is one policy among others.

Source: T. Cooijmans, PhD thesis, section 3.4.2 (the samplers); the decision process is this
project's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from semigradient.envs.core import Step
from semigradient.envs.forms import Features
from semigradient.envs.music import chorale_tasks
from semigradient.envs.music.chorale_filling import Fill, fill, framewise_log_likelihood
from semigradient.envs.music.chorale_setting import (
    ILLEGAL,
    VOICES,
    Conditionals,
    ExcerptOptions,
    Setting,
    check_task,
    contexts,
    numbers,
    toy_setting,
)
from semigradient.envs.music.toy_chorale import toy_joint
from semigradient.errors import require
from semigradient.validate import Count, Natural, NonNegative, Positive, Share, within

Action = Literal["block", "mask", "schedule", "note"]
Score = Literal["masked", "frame", "rules"]
LENGTHS = 5
"""Blocks are 1, 2, 4, 8 or 16 frames long."""


@dataclass(frozen=True)
class RewriteOptions(ExcerptOptions):
    """Options of rewriting an excerpt."""

    NEEDS: ClassVar = {
        "context_rate": ("task", ("inpaint",)),
        "masks": ("score", ("masked",)),
    }

    model: str | Conditionals = ""
    """Conditionals: a run folder of a Coconet, module:function@argument, none, or toy: two voices,
    three frames and pitches, with the exact ones (other options of the excerpt do not apply)."""
    actions: Action = "block"
    """What is erased: a block, cells (mask), each cell with a probability (schedule); or note: a
    block gets a pitch."""
    score: Score = "masked"
    """Score to raise: mean log p of hidden cells, the framewise likelihood, or the rules'."""
    refill: Fill = "independent"
    """How erased cells are filled."""
    temperature: Positive = 1.0
    """Temperature of the filling."""
    task: str = "scratch"
    """What is given and never erased: scratch, harmonize, voice:i, bridge, inpaint, upsample,
    orderless."""
    context_rate: Share = 0.5
    """Probability of each note to be given by inpaint."""
    corrupt: Annotated[float, within(-1, 1)] = -1.0
    """Share of a real excerpt that is replaced at the beginning; below 0 begin with a filling."""
    steps: Natural = 0
    """Steps per episode, N; 0: the number of cells."""
    masks: Count = 8
    """Contexts of the masked score, K."""
    cost: NonNegative = 0.0
    """Cost per erased cell."""

    def check(self) -> None:
        """The toy has a single excerpt, and the task exists."""
        voices = toy_joint().voices if self.model == "toy" else VOICES
        if self.model == "toy":
            for name in ("frames", "grid", "split", "source", "align"):
                default = ExcerptOptions.__dataclass_fields__[name].default
                value = getattr(self, name)
                require(value == default, f"{name}={value!r}: is not for model='toy'")
        check_task(self.task, self.context_rate, voices)

    def make(self, device: str = "cpu") -> ChoraleRewrite:
        """The core of `semigradient/ChoraleRewrite-v0`."""
        setting = toy_setting(device) if self.model == "toy" else self.setting(device)
        return ChoraleRewrite(setting, self)


class RewriteState(NamedTuple):
    """Running episodes; rolls are always complete."""

    pitches: Tensor  # (B, I, T) int64
    given: Tensor  # (B, I, T) bool: never erased
    known: Tensor  # (B, K, I, T) bool: contexts of the masked score
    score: Tensor  # (B,) float64
    steps: Tensor  # (B,) int64
    erased: Tensor  # (B,) int64: cells erased in the last step


class ChoraleRewrite:
    """`semigradient/ChoraleRewrite-v0`: erase cells, which a model refills.

    ## Action space
    What is erased, never the given cells. `actions="block"` `MultiDiscrete([I + 1, T, 5])`: a voice
    (the last number: all voices), a first frame, and l for 2^l frames, cut off at the end. `mask`
    `MultiBinary(I T)`: cell i T + t. `schedule` `Box(0, 1, (1,))`: every cell with that
    probability. `note` `MultiDiscrete([I, T, 5, P])`: nothing is filled in; the last number is the
    pitch that the block gets. A pitch that the voice does not sing changes nothing and costs 10.

    ## Observation space
    `Box(0, 1, (2I + 1, T, P), float32)`: I channels with ones at the notes, I with ones at the
    given cells, one that is n / N everywhere, with n of N steps done.

    ## Rewards
    S(x') - S(x) - `cost` × erased cells, so a return telescopes. `score="masked"`: S is the mean,
    over K contexts that are drawn once per episode, of the mean log p of the hidden
    cells. `frame`: the framewise log-likelihood in one ordering, the same for all. `rules`: the
    potential of `envs.music.chorale_rules` by 100 frames.

    ## Starting state
    The task's cells of a roll of the corpus are given, the others filled at once by the model.
    With `corrupt` ≥ 0 a roll of the corpus, in which every cell that is not given was replaced with
    that probability by a random singable pitch. `options`: `piece`, `offset`, `task`,
    `context_rate`.

    ## Episode end
    Truncated after N steps: `steps`, or I T if that is 0.

    ## Information
    `pianoroll` (I, T) int8 of MIDI pitches, `score`, `erased` (cells in the last step), and with
    four voices `rules` (E,), the counts of `envs.music.chorale_rules.EVENTS`.

    ## Arguments
    Those of `RewriteOptions`.

    ## Version history
    v0: first version.
    """

    def __init__(self, setting: Setting, options: RewriteOptions) -> None:
        check_task(options.task, options.context_rate, setting.voices)
        if options.score != "rules":
            setting.need_model(f"score={options.score!r}")
        else:
            setting.need_rules(f"score={options.score!r}")
        if options.actions != "note" or options.corrupt < 0:
            setting.need_model(f"actions={options.actions!r}, corrupt={options.corrupt}")
        self.setting, self.device = setting, setting.device
        self.actions, self.score, self.refill = options.actions, options.score, options.refill
        self.temperature, self.corrupt, self.cost = (
            options.temperature,
            options.corrupt,
            options.cost,
        )
        self.task, self.rate = options.task, options.context_rate
        self.masks = options.masks if self.score == "masked" else 0
        self.horizon = options.steps or setting.cells
        voices, frames, pitches = setting.voices, setting.frames, setting.pitches
        self.single_observation_space = Features(
            0.0, 1.0, (2 * voices + 1, frames, pitches), np.float32
        )
        self.single_action_space: spaces.Space = {
            "block": spaces.MultiDiscrete([voices + 1, frames, LENGTHS]),
            "mask": spaces.MultiBinary(setting.cells),
            "schedule": spaces.Box(0.0, 1.0, (1,), np.float32),
            "note": spaces.MultiDiscrete([voices, frames, LENGTHS, pitches]),
        }[self.actions]
        self.protocol: dict[str, Any] = {
            "frames": frames,
            "actions": self.actions,
            "score": self.score,
            "refill": self.refill,
            "steps": self.horizon,
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
    ) -> RewriteState:
        """`n` complete rolls; random unless given."""
        setting, device = self.setting, self.device
        rate = self.rate if context_rate is None else context_rate
        task = self.task if task is None else task
        check_task(task, rate, setting.voices)
        where = (numbers(piece, n, device), numbers(offset, n, device))
        roll = setting.corpus.draw(n, generator, *where)
        given = contexts(task, n, setting, generator, rate)
        if self.corrupt < 0:
            model = setting.need_model("reset")
            roll = fill(model, roll, given, "independent", self.temperature, generator)
        else:
            uniform = torch.rand(roll.shape, generator=generator, device=device)
            weights = setting.singable.float()
            noise = torch.multinomial(weights, n * setting.frames, True, generator=generator)
            noise = noise.view(setting.voices, n, setting.frames).movedim(1, 0)
            roll = noise.where(~given & (uniform < self.corrupt), roll)
        shape = (n * self.masks, setting.voices, setting.frames)
        known = chorale_tasks.orderless(*shape, generator).to(device).view(n, -1, *shape[1:])
        count = torch.zeros(n, dtype=torch.int64, device=device)
        return RewriteState(roll, given, known, self.score_of(roll, known), count, count)

    def step(
        self, state: RewriteState, actions: Tensor, generator: torch.Generator | None = None
    ) -> Step:
        """Erase and fill. Actions are (B, …) as the action space has them."""
        erased = self._erased(state, actions, generator) & ~state.given
        legal = torch.ones(len(erased), dtype=torch.bool, device=self.device)
        if self.actions == "note":
            voice, pitch = actions[:, 0], actions[:, 3]
            legal = self.setting.singable[voice, pitch]
            erased = erased & legal[:, None, None]
            pitches = pitch[:, None, None].where(erased, state.pitches)
        else:
            model = self.setting.need_model("step")
            pitches = fill(model, state.pitches, ~erased, self.refill, self.temperature, generator)
        same = (pitches == state.pitches).flatten(1).all(1)
        score = state.score.where(same, self.score_of(pitches, state.known))
        count = erased.flatten(1).sum(1)
        reward = (score - state.score - self.cost * count).where(legal, ILLEGAL)
        steps = state.steps + 1
        truncated = steps >= self.horizon
        after = RewriteState(pitches, state.given, state.known, score, steps, count)
        return Step(after, reward, torch.zeros_like(truncated), truncated)

    def score_of(self, pitches: Tensor, known: Tensor) -> Tensor:
        """S (B,) float64 of complete rolls (B, I, T), in contexts (B, K, I, T)."""
        setting = self.setting
        if self.score == "rules":
            rules = setting.need_rules("score")
            return rules.potential(rules.count(pitches)) / (setting.frames / 100)
        model = setting.need_model("score")
        if self.score == "frame":
            fixed = torch.Generator(self.device).manual_seed(0)
            return framewise_log_likelihood(model, pitches, fixed, shared=True)
        rows = pitches.repeat_interleave(self.masks, 0)
        seen = known.flatten(0, 1)
        log_p = model(rows.where(seen, 0), seen).gather(-1, rows[..., None]).squeeze(-1)
        hidden = (~seen).flatten(1)
        mean = log_p.double().flatten(1).where(hidden, 0.0).sum(1) / hidden.sum(1)
        return mean.view(len(pitches), self.masks).mean(1)

    def observe(self, state: RewriteState) -> Tensor:
        """(B, 2I + 1, T, P) float32."""
        setting = self.setting
        shape = (len(state.pitches), -1, setting.frames, setting.pitches)
        notes = torch.nn.functional.one_hot(state.pitches, setting.pitches).float()
        given = state.given.float()[..., None].expand_as(notes)
        done = (state.steps / self.horizon).float()[:, None, None, None].expand_as(notes[:, :1])
        return torch.cat([notes, given, done], 1).view(shape)

    def info(self, state: RewriteState) -> dict[str, Tensor]:
        """The roll and its score."""
        setting = self.setting
        info = {
            "pianoroll": setting.notes(state.pitches),
            "score": state.score,
            "erased": state.erased,
        }
        return info | ({"rules": setting.rules.count(state.pitches)} if setting.rules else {})

    def render(self, state: RewriteState) -> list[np.ndarray]:
        """Frames (H, W, 3) with axes."""
        return self.setting.pictures(state.pitches)

    def text(self, state: RewriteState) -> list[str]:
        """The same as text."""
        return self.setting.texts(state.pitches)

    def export_midi(self, state: RewriteState, path: str | Path, index: int = 0) -> None:
        """Write the roll of one episode as a MIDI file."""
        self.setting.export_midi(state.pitches[index], path)

    def _erased(
        self, state: RewriteState, actions: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Cells (B, I, T) bool that an action names."""
        shape, setting = state.pitches.shape, self.setting
        if self.actions == "mask":
            return actions.view(shape) > 0
        if self.actions == "schedule":
            uniform = torch.rand(shape, generator=generator, device=self.device)
            return uniform < actions[:, :, None].float()
        voice, start, length = (column[:, None] for column in actions.unbind(1)[:3])
        times = torch.arange(setting.frames, device=self.device)
        inside = (times >= start) & (times < start + 2**length)
        voices = torch.arange(setting.voices, device=self.device)
        chosen = (voices == voice) | (voice == setting.voices)
        return chosen[:, :, None] & inside[:, None]
