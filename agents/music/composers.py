"""Composers that learn nothing: the samplers of a model as policies, and trivial baselines.

What is sampled note by note fills (`semigradient/ChoraleFill-v0`, `semigradient/ToyChorale-v0`),
what erases rewrites (`semigradient/ChoraleRewrite-v0`). Ancestral sampling is the optimal policy of
filling with log-probabilities for rewards and an entropy bonus of temperature 1.

Source: T. Cooijmans, PhD thesis, section 3.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from semigradient.domains.music.gibbs import Annealed
from semigradient.envs.adapters import CoreVector
from semigradient.envs.music.chorale_fill import ChoraleFill
from semigradient.envs.music.chorale_rewrite import ChoraleRewrite
from semigradient.errors import UserError, require
from semigradient.training.agent import AgentContext, Policy, generator
from semigradient.training.stepping import EnvStepper

Kind = Literal["random-legal", "ancestral", "annealed", "constant", "one-voice", "nothing"]


@dataclass(frozen=True)
class Config:
    """Which composer."""

    kind: Kind = "ancestral"
    """random-legal: any legal action. ancestral: a random unknown cell, a pitch of the model's
    distribution. annealed, constant: cells are erased at a rate that falls, or does not.
    one-voice: whole voices in turn, soprano first. nothing: nothing is erased."""
    alpha: float = 0.3
    """Rate of constant."""
    alpha_max: float = 0.9
    """First rate of annealed."""
    alpha_min: float = 0.1
    """Last rate of annealed."""
    eta: float = 0.7
    """Share of the steps after which annealed has its last rate."""
    rollout_steps: int = 16
    """Steps per environment and iteration."""

    def __post_init__(self) -> None:
        kinds = get_args(Kind)
        require(self.kind in kinds, f"kind={self.kind!r}: accepted are {', '.join(kinds)}")
        require(0 <= self.alpha <= 1, f"alpha={self.alpha}: must be in [0, 1]")
        require(self.rollout_steps >= 1, f"rollout_steps={self.rollout_steps}: must be ≥ 1")
        Annealed(self.alpha_max, self.alpha_min, self.eta)


class Composer:
    """Acts in B environments, so that baselines are scored like all other agents."""

    STATE = ("stepper", "generator")
    POLICY = ()
    HAS_OPTIMIZER = False

    def __init__(self, config: Config, setup: AgentContext) -> None:
        self.config, self.setup, self.timers = config, setup, setup.timers
        self.progress = self.stepper = EnvStepper(setup.envs, setup.timers)
        self.generator = generator(setup.seed, 1)
        self._act = self._choose(self.generator)

    def iterate(self) -> Mapping[str, float | Tensor]:
        """Act for a while."""
        for _ in range(self.config.rollout_steps):
            self.stepper.step(self._act(self.stepper.obs, self.stepper.mask))
        return {}

    def policy(self, deterministic: bool = True) -> Policy:
        """The composer with a generator of its own; all of them are random."""
        return self._choose(generator(self.setup.seed, 3))

    def _choose(self, random: torch.Generator) -> Policy:
        """The policy, or a `UserError` where it does not fit the environment."""
        config, envs = self.config, self.setup.envs
        core = envs.core if isinstance(envs, CoreVector) else None
        if config.kind == "random-legal":
            return random_legal(envs.single_action_space, random)
        if config.kind == "ancestral" and isinstance(core, ChoraleFill):
            return ancestral(core, random)
        if isinstance(core, ChoraleRewrite):
            actions = "block" if config.kind == "one-voice" else "schedule"
            if config.kind != "ancestral" and core.actions == actions:
                return _eraser(config, core)
        raise UserError(
            f"kind={config.kind!r}: ancestral fills, one-voice rewrites with actions=block, "
            "annealed, constant and nothing with actions=schedule"
        )


def random_legal(space: spaces.Space, random: torch.Generator) -> Policy:
    """Uniform over the legal actions; over all without a mask."""

    def act(obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        if isinstance(space, spaces.Box):
            uniform = torch.rand((len(obs), *space.shape), generator=random).numpy()
            return (space.low + uniform * (space.high - space.low)).astype(space.dtype)
        if isinstance(space, spaces.MultiBinary):
            bits = torch.randint(2, (len(obs), *space.shape), generator=random)
            return bits.to(torch.int8).numpy()
        if isinstance(space, spaces.MultiDiscrete):
            uniform = torch.rand((len(obs), len(space.nvec)), generator=random).numpy()
            return (uniform * space.nvec).astype(np.int64)
        assert isinstance(space, spaces.Discrete)
        legal = np.ones((len(obs), int(space.n)), bool) if mask is None else mask
        weights = torch.from_numpy(np.asarray(legal, np.float32))
        return torch.multinomial(weights, 1, generator=random)[:, 0].numpy()

    return act


def ancestral(core: ChoraleFill, random: torch.Generator) -> Policy:
    """A cell drawn uniformly among the unknown ones, a pitch drawn from the model's distribution.

    The probability of illegal pitches is redistributed over the others of the cell.
    """
    setting, flat = core.setting, isinstance(core.single_action_space, spaces.Discrete)
    model, voices = setting.need_model("kind='ancestral'"), setting.voices
    is_valid = flat and core.order == "free"
    require(is_valid, "kind='ancestral': needs order=free and actions=flat")

    def act(obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        rows = torch.from_numpy(obs).to(setting.device)
        known = rows[:, voices : 2 * voices, :, 0] > 0.5
        log_p = model(rows[:, :voices].argmax(-1), known)
        weight = log_p.double().exp() * setting.singable[:, None]
        weight = weight / weight.sum(-1, keepdim=True) * ~known[..., None]
        drawn = torch.multinomial(weight.flatten(1).cpu(), 1, generator=random)
        return drawn[:, 0].numpy()

    return act


def _eraser(config: Config, core: ChoraleRewrite) -> Policy:
    """Erasing by the step alone, which is read from the observations."""
    schedule = Annealed(config.alpha_max, config.alpha_min, config.eta)
    horizon, setting = core.horizon, core.setting

    def act(obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        steps = np.rint(obs[:, -1, 0, 0] * horizon).astype(np.int64)
        if config.kind == "one-voice":
            # Blocks are at most 16 frames long, so a long voice is erased part by part.
            parts = -(-setting.frames // 16)
            start = steps % parts * 16
            return np.stack([steps // parts % setting.voices, start, np.full_like(steps, 4)], 1)
        rates = {"constant": config.alpha, "nothing": 0.0}
        rows = [rates.get(config.kind, schedule(int(step), horizon)) for step in steps]
        return np.array(rows, np.float32)[:, None]

    return act
