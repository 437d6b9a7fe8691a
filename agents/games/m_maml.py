"""M-MAML: a start and a step size from which naive learning ends well.

A learner that follows its own gradient is not bound to start anywhere, nor to a step size:

    maximise over (x₁⁰, a)   E over x₂⁰ of meanₜ f₁(xᵗ),
    x₁ᵗ⁺¹ = x₁ᵗ + a ∇₁ f₁(xᵗ),    x₂ᵗ⁺¹ = x₂ᵗ + α ∇₂ f₂(xᵗ),

by the exact derivative through all T updates of both players, the other's included. Opponents start
as the game draws them. It is the exact form of Meta-MAPG (D. Kim et al. 2021) with a learned step,
the baseline of C. Lu et al., "Model-free opponent shaping" (2022), and of the public code behind
the meta-value thesis (T. Cooijmans 2024); the thesis itself does not name it.

S learners are trained side by side, from starts of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from semigradient.domains.games import rules
from semigradient.domains.games.head_to_head import Contestant, contest, follower, match_scores
from semigradient.envs.games.differentiable import Game, game_behind, simultaneous_gradient
from semigradient.envs.games.iterated import memory_one
from semigradient.envs.games.matrix_games import MatrixGame
from semigradient.errors import UserError, require
from semigradient.training.agent import (
    AgentContext,
    Count,
    Policy,
    generator,
)


@dataclass(frozen=True)
class Config:
    """Hyperparameters; the defaults are those of the public code behind the meta-value thesis."""

    alpha: float = 25.0
    """Step size of the opponents, and the learners' own at first."""
    updates: int = 300
    """Updates T of both players that are differentiated through."""
    batch_size: int = 64
    """Opponents drawn for each learner in an iteration."""
    seat: Literal["first", "second"] = "first"
    """Whose start is learned; it matters where the seats of the game differ."""
    models: int = 1
    """Learners trained side by side."""
    evaluation_updates: int = 500
    """Updates against a naive learner that lead to the policy which is evaluated."""

    def __post_init__(self) -> None:
        require(self.alpha > 0, f"alpha={self.alpha}: must be > 0")
        for name in ("updates", "batch_size", "models"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)}: must be ≥ 1")
        count = self.evaluation_updates
        require(count >= 0, f"evaluation_updates={count}: must be ≥ 0")


def lifetime_return(
    game: Game, start: Tensor, rate: Tensor, others: Tensor, alpha: float, updates: int, seat: int
) -> Tensor:
    """Mean returns (S, B, 2) over T naive updates, differentiable in the start and the step size.

    Args:
        game: the game.
        start: the learners' first policies (S, n).
        rate: their step sizes (S,).
        others: their opponents' first policies (S, B, n).
        alpha: the opponents' step size.
        updates: T; the mean is over the returns after each.
        seat: the learners', 0 or 1.
    """
    own = start.unsqueeze(1).expand_as(others)
    x = torch.stack((own, others) if seat == 0 else (others, own), -2)
    steps = (rate, torch.full_like(rate, alpha))
    sizes = torch.stack(steps if seat == 0 else steps[::-1], -1)[:, None, :, None]
    total = torch.zeros_like(x[..., 0])
    for _ in range(updates):
        x = x + sizes * simultaneous_gradient(game, x, graph=True)
        total = total + game.value(x)
    return total / updates


class MMAML:
    """Learns from where, and how fast, to learn naively."""

    STATE = ("start", "rate", "optimizer", "generator", "progress")
    POLICY = ("start", "rate")

    def __init__(self, config: Config, setup: AgentContext) -> None:
        self.config, self.setup, self.timers = config, setup, setup.timers
        require(not setup.compile, "compile=True: not for m-maml, which differentiates twice")
        self.game = game_behind(setup.envs)
        self.seat = ("first", "second").index(config.seat)
        self.generator = generator(setup.seed, 1, setup.device)
        self.start = nn.Parameter(self._draw(1)[:, 0])
        # In units of α, so that one learning rate suits starts and step sizes.
        self.rate = nn.Parameter(torch.ones_like(self.start[:, 0]))
        self.optimizer = setup.make_optimizer([self.start, self.rate])
        self.progress = Count()

    def iterate(self) -> Mapping[str, float | Tensor]:
        """One gradient step through the lifetimes of B pairs for each learner."""
        config = self.config
        others = self._draw(config.batch_size)
        rate = config.alpha * self.rate
        with self.timers("learn"):
            returns = lifetime_return(
                self.game, self.start, rate, others, config.alpha, config.updates, self.seat
            )
            self.optimizer.zero_grad()
            # Learners are added, opponents averaged: each learns as if it were alone.
            (-returns[..., self.seat].mean(1).sum()).backward()
            self.optimizer.step()
        self.progress.steps += config.batch_size * config.updates
        ours, theirs = returns.detach().mean((0, 1))[[self.seat, 1 - self.seat]].unbind()
        return {"return": ours, "opponent_return": theirs, "rate": rate.detach().mean()}

    def contestant(self, model: int = 0) -> Contestant:
        """A learner, for matches: its start, and naive updates of its own step size."""
        start = self.start[model].detach()
        rate = self.config.alpha * float(self.rate[model].detach())
        naive = follower(rules.rule("naive", 0.0), rate)
        return Contestant(naive.change, lambda drawn: start.expand_as(drawn))

    def further_scores(self) -> dict[str, float]:
        """Final returns of matches of the first model with naive learners, LOLA and itself."""
        alpha, updates = self.config.alpha, self.config.evaluation_updates
        steps, device = (alpha, alpha, updates, self.seat), self.setup.device
        return match_scores(self.game, self.contestant(), *steps, device=device)

    def policy(self, deterministic: bool = True) -> Policy:
        """How the learner plays after meeting a naive learner, which is drawn by the seed."""
        if not isinstance(self.game, MatrixGame):
            raise UserError("m-maml: is evaluated on matrix games alone")
        if self.seat and not self.game.symmetric:
            raise UserError(
                "seat='second': environments are played from the first seat; accepted are games "
                "that are alike from both"
            )
        config, own = self.config, generator(self.setup.seed, 3)
        naive = follower(rules.rule("naive", 0.0), config.alpha)
        pair = (self.contestant(), naive)
        x = self.game.draw(1, own).to(self.setup.device)
        x = contest(self.game, pair[::-1] if self.seat else pair, x, config.evaluation_updates)
        return memory_one(self.game.features(x[0, self.seat]), None if deterministic else own)

    def _draw(self, count: int) -> Tensor:
        """Single policies (S, count, n), as the game draws the first of a pair."""
        models = self.config.models
        drawn = self.game.draw(models * count, self.generator)[:, 0]
        return drawn.view(models, count, -1)
