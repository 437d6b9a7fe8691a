"""LOLA-DiCE on repeated 2×2 games: differentiate through the other's sampled policy gradients.

    θ₂' ← θ₂;  K times  θ₂' ← θ₂' + α ∇_θ₂' L²_□(θ₁, θ₂'),   on games of (θ₁, θ₂')
    θ₁ ← θ₁ + η ∇_θ₁ L¹_□(θ₁, θ₂'(θ₁)),                       on games of (θ₁, θ₂')

and at the same time the same for the second player. The box keeps what L²'s gradient depends on,
so the derivative of θ₂' with respect to θ₁ is there; with the surrogate loss of stochastic
computation graphs it is lost, and what is left is naive learning.

`Learner` trains several seeds at once. Its policies are five logits a player, its critics five
values, which are the first-order baseline and are constants inside the lookahead.

Source: the DiCE slides (LOLA-DiCE); hyperparameters as in published code for this game: 150 rounds,
discount 0.96, inner rate 0.3, critic's rate 0.1, batch 128; the outer rule is Adam here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

import optim
from errors import require, unknown
from gradients.dice import dice_return
from gradients.repeated import PRISONERS, Episodes, look_up, sample
from gradients.surrogate import surrogate_return
from training.returns import discounted_return

ESTIMATORS = ("dice", "surrogate")


@dataclass(frozen=True)
class Config:
    """Hyperparameters."""

    lookaheads: int = 1
    """K, the other's steps that are looked through; 0 is naive learning."""
    estimator: Literal["dice", "surrogate"] = "dice"
    """What is differentiated."""
    rounds: int = 150
    """Rounds of a game."""
    batch: int = 128
    """Games for each estimate."""
    gamma: float = 0.96
    """Discount of one round, in [0, 1]."""
    inner_rate: float = 0.3
    """α, the learning rate that the other is supposed to have."""
    learning_rate: float = 0.1
    """η, of Adam."""
    value_rate: float = 0.1
    """Learning rate of the critics."""

    def __post_init__(self) -> None:
        require(self.lookaheads >= 0, f"lookaheads={self.lookaheads}: must be ≥ 0")
        require(self.rounds >= 1, f"rounds={self.rounds}: must be ≥ 1")
        require(self.batch >= 1, f"batch={self.batch}: must be ≥ 1")
        require(0 <= self.gamma <= 1, f"gamma={self.gamma}: must be in [0, 1]")
        require(self.inner_rate >= 0, f"inner_rate={self.inner_rate}: must be ≥ 0")
        for name in ("learning_rate", "value_rate"):
            require(getattr(self, name) > 0, f"{name}={getattr(self, name)}: must be > 0")
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
    known = None if values is None else values[player]
    return dice_return(both, rewards, config.gamma, episodes.weights, known)


class Learner:
    """Two LOLA-DiCE learners in each of S independent pairs.

    Args:
        config: hyperparameters.
        seeds: S.
        seed: root of all randomness.
        payoff: (2, 4).
        spread: standard deviation of the initial logits.
    """

    def __init__(
        self,
        config: Config,
        seeds: int,
        seed: int = 0,
        payoff: Tensor = PRISONERS,
        spread: float = 0.1,
    ) -> None:
        self.config, self.payoff = config, payoff.float()
        self.random = torch.Generator().manual_seed(seed)
        start = spread * torch.randn(seeds, 2, 5, generator=self.random)
        self.policies = start.requires_grad_()
        self.values = torch.zeros(seeds, 2, 5, requires_grad=True)
        make_config: Any = optim.config_class("adam")
        self.optimizer = optim.make(make_config(lr=config.learning_rate), [self.policies])
        self.critics = optim.make(make_config(lr=config.value_rate), [self.values])

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
            other = other + self.config.inner_rate * step
        episodes = self._games(_pair(own, other, player))
        total = objective(self.config, episodes, player, self._values(episodes)).sum()
        return torch.autograd.grad(total, own)[0]

    def _games(self, policies: Tensor) -> Episodes:
        config = self.config
        return sample(policies, self.payoff, config.rounds, config.batch, self.random)

    def _values(self, episodes: Episodes) -> Tensor:
        return look_up(self.values.detach().movedim(1, 0), episodes.states)

    def _fit(self, episodes: Episodes) -> None:
        """Regress the critics on discounted returns to go."""
        rewards = episodes.rewards.movedim(0, 1)  # (T, 2, S, B)
        going_on = torch.zeros_like(rewards, dtype=torch.bool)
        target = discounted_return(rewards, going_on, going_on, self.config.gamma).movedim(0, 1)
        known = look_up(self.values.movedim(1, 0), episodes.states)
        self.critics.zero_grad()
        (known - target).square().mean((0, 1, 3)).sum().backward()
        self.critics.step()


def _pair(own: Tensor, other: Tensor, player: int) -> Tensor:
    return torch.stack((own, other) if player == 0 else (other, own), 1)
