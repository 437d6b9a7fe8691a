"""Learners on exact games: naive gradients, LookAhead, LOLA and its relatives.

Many pairs of policies learn side by side from random starts, by exact gradients of the game behind
the environment; the first players by the rule that the agent is named after, the second ones by
any rule, or fixed. Steps are updates of a pair of policies.

The rules themselves, with their sources, are in `domains.games.rules`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from semigradient.domains.games import rules
from semigradient.envs.games.differentiable import game_behind
from semigradient.envs.games.iterated import memory_one
from semigradient.envs.games.matrix_games import MatrixGame
from semigradient.errors import require
from semigradient.training.agent import AgentContext, Count, Policy, generator


@dataclass(frozen=True)
class Config:
    """Hyperparameters; the published step size of the tables on matrix games is 25."""

    rule: str = "naive"
    """The first player's learning rule."""
    opponent: str = "same"
    """The second player's: a rule, same, or still: a fixed policy."""
    lr: float = 25.0
    """Step size of both; 25 on normalised values at discount 0.96 is 1 on plain ones."""
    alpha: float = -1.0
    """Step size of imagined updates; negative takes `lr`."""
    pairs: int = 256
    """Pairs that learn side by side."""

    def __post_init__(self) -> None:
        require(self.lr > 0, f"lr={self.lr}: must be > 0")
        require(self.pairs >= 1, f"pairs={self.pairs}: must be ≥ 1")
        rules.check("learning rule", self.rule)
        rules.check("opponent", self.opponent, ("same", "still"))
        imagines = not {self.rule, self.opponent} <= {"naive", "same", "still"}
        message = f"alpha={self.alpha}: neither player imagines updates; accepted is a negative one"
        require(self.alpha < 0 or imagines, message)

    @property
    def imagined(self) -> float:
        """Step size of imagined updates."""
        return self.lr if self.alpha < 0 else self.alpha


class LearningRule:
    """Pairs of policies that learn from exact returns."""

    STATE = ("x", "progress")
    POLICY = ("x",)
    HAS_OPTIMIZER = False

    def __init__(self, config: Config, setup: AgentContext) -> None:
        self.config, self.setup, self.timers = config, setup, setup.timers
        require(not setup.compile, "compile=True: not for exact games")
        self.game = game_behind(setup.envs)
        self.rules = (rules.rule(config.rule, config.imagined), self._opponent())
        draw = generator(setup.seed, 1, setup.device)
        self.x = self.game.draw(config.pairs, draw)
        self.progress = Count()

    def iterate(self) -> Mapping[str, float | Tensor]:
        """One simultaneous update of all pairs."""
        with self.timers("learn"):
            self.x = rules.learn(self.game, self.x, self.rules, self.config.lr, updates=1)
            ours, theirs = self.game.value(self.x).mean(0).unbind()
        self.progress.steps += self.config.pairs
        return {"return": ours, "opponent_return": theirs}

    def policy(self, deterministic: bool = True) -> Policy:
        """How the first pair's first player plays; in other games, the update that it makes."""
        if not isinstance(self.game, MatrixGame):
            return self._update
        own = None if deterministic else generator(self.setup.seed, 3)
        return memory_one(self.game.features(self.x[0, 0]), own)

    def _opponent(self) -> rules.Rule:
        if self.config.opponent == "still":
            return lambda game, x, player: torch.zeros_like(x[..., player, :])
        name = self.config.rule if self.config.opponent == "same" else self.config.opponent
        return rules.rule(name, self.config.imagined)

    def _update(self, obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        x = torch.from_numpy(obs).to(self.setup.device).double().view(len(obs), 2, -1)
        step = self.config.lr * self.rules[0](self.game, x, 0)
        return step.clamp(-1, 1).float().cpu().numpy()
