"""LOLA-DiCE on repeated 2×2 games: differentiate through the other's sampled policy gradients.

    θ₂' ← θ₂;  K times  θ₂' ← θ₂' + α ∇_θ₂' L²_□(θ₁, θ₂'),   on games of (θ₁, θ₂')
    θ₁ ← θ₁ + η ∇_θ₁ L¹_□(θ₁, θ₂'(θ₁)),                       on games of (θ₁, θ₂')

and simultaneously the same for the second player. The box keeps the dependencies of L²'s
gradient, so θ₂' is differentiable with respect to θ₁; with the surrogate loss of stochastic
computation graphs this derivative is lost, which leaves naive learning.

`LolaDiceLearner` trains several pairs at once; `LolaDice` is the agent made of it. Its policies
are five logits per player, its critics five values, which are the first-order baseline and
constants inside the lookahead. A step is one round of one sampled game.

Source: the DiCE slides (LOLA-DiCE); hyperparameters as in published code for this game: 150 rounds,
discount 0.96, inner rate 0.3, critic's rate 0.1, batch 128; the outer rule is Adam here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from semigradient import optim
from semigradient.domains.games.repeated import PRISONERS, Episodes, look_up, sample
from semigradient.envs.games.iterated import matrix_game_behind, memory_one
from semigradient.errors import require, unknown
from semigradient.gradients.dice import dice_return
from semigradient.gradients.surrogate import surrogate_return
from semigradient.training.agent import (
    AgentContext,
    Count,
    Policy,
    generator,
)
from semigradient.training.returns import discounted_return

MakeOptimizer = Callable[[Iterable[Any]], torch.optim.Optimizer]

ESTIMATORS = ("dice", "surrogate")


@dataclass(frozen=True)
class Config:
    """Hyperparameters."""

    lookaheads: int = 1
    """K, lookahead steps of the other player; 0 is naive learning."""
    estimator: Literal["dice", "surrogate"] = "dice"
    """The objective that is differentiated."""
    rounds: int = 150
    """Rounds of a game; in an environment with a horizon, that many."""
    batch_size: int = 128
    """Games for each estimate."""
    gamma: float = 0.96
    """Discount of one round, in [0, 1]."""
    lr_inner: float = 0.3
    """α, the learning rate that the other player is assumed to have."""
    lr_value: float = 0.1
    """Learning rate of the critics, whose optimizer is Adam."""
    pairs: int = 1
    """Pairs trained side by side."""

    def __post_init__(self) -> None:
        require(self.lookaheads >= 0, f"lookaheads={self.lookaheads}: must be ≥ 0")
        require(self.rounds >= 1, f"rounds={self.rounds}: must be ≥ 1")
        require(self.batch_size >= 1, f"batch_size={self.batch_size}: must be ≥ 1")
        require(0 <= self.gamma <= 1, f"gamma={self.gamma}: must be in [0, 1]")
        require(self.lr_inner >= 0, f"lr_inner={self.lr_inner}: must be ≥ 0")
        require(self.lr_value > 0, f"lr_value={self.lr_value}: must be > 0")
        require(self.pairs >= 1, f"pairs={self.pairs}: must be ≥ 1")
        if self.estimator not in ESTIMATORS:
            unknown("estimator", self.estimator, ESTIMATORS)


def objective(
    config: Config, episodes: Episodes, player: int, values: Tensor | None = None
) -> Tensor:
    """(S,) a player's return, with the derivatives that the estimator has.

    Args:
        config: which estimator, and the discount.
        episodes: games of S pairs.
        player: 0 or 1.
        values: (2, T, S, B) of the states that the players saw, for DiCE's baseline.
    """
    both, rewards = episodes.log_probs.sum(0), episodes.rewards[player]
    if config.estimator == "surrogate":
        return surrogate_return(both, rewards, config.gamma, episodes.weights)
    baseline = None if values is None else values[player]
    return dice_return(both, rewards, config.gamma, episodes.weights, baseline)


def adam(rate: float) -> MakeOptimizer:
    """Adam with its default averages."""
    make_config: Any = optim.config_class("adam")
    return partial(optim.make, make_config(lr=rate))


class LolaDiceLearner:
    """Two LOLA-DiCE learners in each of S independent pairs.

    Args:
        config: hyperparameters.
        seeds: S.
        seed: root of all randomness.
        payoff: (2, 4).
        spread: standard deviation of the initial logits.
        make_optimizer: of the policies; default: Adam at 0.1.

    Attributes:
        progress: steps are rounds of sampled games, for each pair.
    """

    STATE = ("policies", "values", "optimizer", "critics", "random", "progress")
    POLICY = ("policies",)

    def __init__(
        self,
        config: Config,
        seeds: int,
        seed: int = 0,
        payoff: Tensor = PRISONERS,
        spread: float = 0.1,
        make_optimizer: MakeOptimizer | None = None,
    ) -> None:
        self.config, self.payoff = config, payoff.float()
        self.random = torch.Generator().manual_seed(seed)
        start = spread * torch.randn(seeds, 2, 5, generator=self.random)
        self.policies = start.requires_grad_()
        self.values = torch.zeros(seeds, 2, 5, requires_grad=True)
        self.optimizer = (make_optimizer or adam(0.1))([self.policies])
        self.critics = adam(config.lr_value)([self.values])
        self.progress = Count()

    def iterate(self) -> Tensor:
        """Both players' step; the mean reward of a round (S, 2) before it."""
        gradient = torch.stack([self.gradient(player) for player in (0, 1)], 1)
        episodes = self._games(self.policies.detach())
        self._fit(episodes)
        self.policies.grad = -gradient
        self.optimizer.step()
        return episodes.rewards.mean((1, 3)).T

    def gradient(self, player: int) -> Tensor:
        """(S, 5): how a player's return after the other's lookahead grows with its policy."""
        own = self.policies.detach()[:, player].requires_grad_()
        other = self.policies.detach()[:, 1 - player].requires_grad_()
        for _ in range(self.config.lookaheads):
            episodes = self._games(_pair(own, other, player))
            foreseen = objective(self.config, episodes, 1 - player, self._values(episodes)).sum()
            (step,) = torch.autograd.grad(foreseen, other, create_graph=True)
            other = other + self.config.lr_inner * step
        episodes = self._games(_pair(own, other, player))
        total = objective(self.config, episodes, player, self._values(episodes)).sum()
        return torch.autograd.grad(total, own)[0]

    def _games(self, policies: Tensor) -> Episodes:
        config = self.config
        self.progress.steps += config.rounds * config.batch_size
        return sample(policies, self.payoff, config.rounds, config.batch_size, self.random)

    def _values(self, episodes: Episodes) -> Tensor:
        return look_up(self.values.detach().movedim(1, 0), episodes.states)

    def _fit(self, episodes: Episodes) -> None:
        """Regress the critics on discounted returns to go."""
        rewards = episodes.rewards.movedim(0, 1)  # (T, 2, S, B)
        going_on = torch.zeros_like(rewards, dtype=torch.bool)
        target = discounted_return(rewards, going_on, going_on, self.config.gamma).movedim(0, 1)
        predicted = look_up(self.values.movedim(1, 0), episodes.states)
        self.critics.zero_grad()
        (predicted - target).square().mean((0, 1, 3)).sum().backward()
        self.critics.step()


def _pair(own: Tensor, other: Tensor, player: int) -> Tensor:
    return torch.stack((own, other) if player == 0 else (other, own), 1)


class LolaDice:
    """`LolaDiceLearner` on the 2×2 game behind an environment; both players learn alike."""

    STATE = ("learner",)
    POLICY = ("learner",)

    def __init__(self, config: Config, setup: AgentContext) -> None:
        self.setup, self.timers = setup, setup.timers
        require(not setup.compile, "compile=True: not for lola-dice, which differentiates twice")
        require(setup.device.type == "cpu", f"device={setup.device}: lola-dice runs on the cpu")
        self.game = matrix_game_behind(setup.envs)
        self.config = replace(config, rounds=self.game.horizon or config.rounds)
        self.learner = LolaDiceLearner(
            self.config,
            config.pairs,
            setup.seed,
            self.game.payoff,
            make_optimizer=setup.make_optimizer,
        )
        self.progress = self.learner.progress

    def iterate(self) -> Mapping[str, float | Tensor]:
        """One update of both players; the mean rewards of a round."""
        with self.timers("learn"):
            ours, theirs = self.learner.iterate().mean(0).unbind()
        return {"reward": ours, "opponent_reward": theirs}

    def policy(self, deterministic: bool = True) -> Policy:
        """How the first pair's first player plays."""
        own = None if deterministic else generator(self.setup.seed, 3)
        return memory_one(self.learner.policies[0, 0].sigmoid(), own)
