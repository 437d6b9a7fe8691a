"""M-FOS: a policy over policies, learned without a model of the other's learning.

Where learning is a game of its own, whose state is the pair of policies x and whose action is one's
next policy, a meta-policy

    x₁ᵗ⁺¹ ~ N(μ_θ(xᵗ), diag s_θ(xᵗ)),    x₂ᵗ⁺¹ = x₂ᵗ + α ∇₂ f₂(xᵗ)  or any other rule,

is trained on Σₜ γᵗ f₁(xᵗ) by proximal policy optimisation. Nothing is differentiated through the
opponent; the change from one policy to the next is not gradual.

Both players may be such learners (`opponent="self"`), with networks of their own. S pairs of them
are trained side by side, as one stack of weights.

Source: C. Lu et al., "Model-free opponent shaping" (2022); hyperparameters are those of its public
code. T. Cooijmans' thesis (2024) re-runs it for its tables 6.2 and 6.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log, pi
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semigradient.agents.ppo import policy_loss
from semigradient.domains.games import rules
from semigradient.domains.games.head_to_head import Contestant, contest, follower, match_scores
from semigradient.envs.games.differentiable import game_behind
from semigradient.envs.games.iterated import memory_one
from semigradient.envs.games.matrix_games import MatrixGame
from semigradient.errors import UserError, require
from semigradient.nets.meta_value import Dense
from semigradient.training.agent import (
    AgentContext,
    Count,
    Policy,
    generator,
)
from semigradient.training.returns import discounted_return
from semigradient.training.rollout import minibatches


@dataclass(frozen=True)
class Config:
    """Hyperparameters; the defaults are those of the public code."""

    opponent: str = "naive"
    """The second player: self, another M-FOS learner, or a learner by a rule: naive, lookahead,
    lola, lola-taylor, lola-taylor-full (that of the public code), hola2, pola."""
    alpha: float = 25.0
    """Step size of the opponent's updates, and of LOLA's imagined updates."""
    updates: int = 100
    """Simultaneous updates in a meta-episode."""
    batch_size: int = 4096
    """Pairs of policies that a meta-episode is played with."""
    gamma: float = 0.99
    """Meta-discount of one update, in [0, 1]."""
    epochs: int = 4
    """Passes over each batch of episodes."""
    minibatches: int = 1
    """Gradient steps in a pass; divides updates × batch_size."""
    clip: float = 0.2
    """Largest change of the probability ratio that is rewarded."""
    entropy_coefficient: float = 0.01
    """Weight of the entropy bonus."""
    value_coefficient: float = 0.5
    """Weight of the value loss."""
    width: int = 256
    """Units of the hidden layer of policy and value."""
    models: int = 1
    """Pairs of learners trained side by side."""
    evaluation_updates: int = 500
    """Updates that lead to the policy which is evaluated."""

    def __post_init__(self) -> None:
        require(self.alpha > 0, f"alpha={self.alpha}: must be > 0")
        for name in ("updates", "batch_size", "epochs", "minibatches", "width", "models"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)}: must be ≥ 1")
        rules.check("opponent", self.opponent, ("self",))
        require(0 <= self.gamma <= 1, f"gamma={self.gamma}: must be in [0, 1]")
        require(self.clip > 0, f"clip={self.clip}: must be > 0")
        for name in ("entropy_coefficient", "value_coefficient", "evaluation_updates"):
            require(getattr(self, name) >= 0, f"{name}={getattr(self, name)}: must be ≥ 0")
        samples = self.updates * self.batch_size
        require(samples > 1, "updates × batch_size = 1: returns are scaled by their spread")
        require(
            samples % self.minibatches == 0,
            f"minibatches={self.minibatches}: must divide updates × batch_size = {samples}",
        )


class MetaPolicy(nn.Module):
    """L learners: means and variances of the next policy, and the value, of pairs of policies.

    Args:
        learners: L.
        parameters: n, of one policy.
        width: units of the hidden layers.
    """

    def __init__(self, learners: int, parameters: int, width: int) -> None:
        super().__init__()
        self.actor_in = Dense(learners, 2 * parameters, width)
        self.actor_out = Dense(learners, width, 2 * parameters)
        self.critic_in = Dense(learners, 2 * parameters, width)
        self.critic_out = Dense(learners, width, 1)

    def distribution(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Means and variances (L, N, n), of features of both policies (L, N, 2 n), own first."""
        mean, spread = self.actor_out(torch.tanh(self.actor_in(seen))).chunk(2, -1)
        return mean, F.softplus(spread) + 1e-6

    def value(self, seen: Tensor) -> Tensor:
        """Values (L, N)."""
        return self.critic_out(torch.tanh(self.critic_in(seen))).squeeze(-1)


def log_density(mean: Tensor, variance: Tensor, action: Tensor) -> Tensor:
    """(…,) of actions (…, n) under a normal distribution with a diagonal covariance."""
    return -0.5 * ((action - mean).square() / variance + variance.log() + log(2 * pi)).sum(-1)


class MFOS:
    """Alternates meta-episodes of all pairs and epochs of gradient steps on them."""

    STATE = ("network", "optimizer", "generator", "shuffling", "progress")
    POLICY = ("network",)

    def __init__(self, config: Config, setup: AgentContext) -> None:
        self.config, self.setup, self.timers = config, setup, setup.timers
        require(not setup.compile, "compile=True: not for exact games")
        self.game = game_behind(setup.envs)
        self.seats = 2 if config.opponent == "self" else 1
        learners = self.seats * config.models
        self.network = MetaPolicy(learners, self.game.parameters, config.width).to(setup.device)
        self.optimizer = setup.make_optimizer(self.network.parameters())
        self.generator = generator(setup.seed, 1, setup.device)
        self.shuffling = generator(setup.seed, 2)
        self.progress = Count()
        self._other = None
        if config.opponent != "self":
            self._other = follower(rules.rule(config.opponent, config.alpha), config.alpha)

    def iterate(self) -> Mapping[str, float | Tensor]:
        """One batch of meta-episodes, and the gradient steps on it."""
        config = self.config
        with self.timers("play"):
            data, returns = self._play()
        with self.timers("learn"):
            loss = self._learn(data)
        self.progress.steps += config.updates * config.batch_size
        ours, theirs = returns.mean((0, 1)).unbind()
        return {"loss": loss, "return": ours, "opponent_return": theirs}

    @torch.no_grad()
    def act(self, x: Tensor, seat: int, random: torch.Generator) -> Tensor:
        """Next policies (S, B, n) of the learners in a seat (0 or 1), from x (S, B, 2, n)."""
        mean, variance = self._distribution(self._seen(x, seat), seat)
        noise = torch.randn(mean.shape, generator=random, device=mean.device)
        return (mean + variance.sqrt() * noise).to(x.dtype)

    def contestant(self, model: int = 0, seed: int = 0) -> Contestant:
        """A learner, for matches. In the second seat it is the one that was trained there."""
        random = generator(seed, 4, self.setup.device)

        def change(_: Any, x: Tensor, player: int) -> Tensor:
            if player >= self.seats:
                raise UserError("m-fos: was trained from the first seat alone")
            every = x.expand(self.config.models, *x.shape)
            return self.act(every, player, random)[model]

        return Contestant(change)

    def further_scores(self) -> dict[str, float]:
        """Final returns of matches of the first model with naive learners, LOLA and itself."""
        alpha, updates = self.config.alpha, self.config.evaluation_updates
        learner, device = self.contestant(seed=self.setup.seed), self.setup.device
        both = self.seats == 2
        steps = (alpha, alpha, updates)
        return match_scores(self.game, learner, *steps, plays_both=both, device=device)

    def policy(self, deterministic: bool = True) -> Policy:
        """How the first player plays after meeting the opponent that it was trained with."""
        if not isinstance(self.game, MatrixGame):
            raise UserError("m-fos: is evaluated on matrix games alone")
        own = generator(self.setup.seed, 3)
        learner = self.contestant(seed=self.setup.seed)
        x = self.game.draw(1, own).to(self.setup.device)
        x = contest(
            self.game,
            (learner, self._other or learner),
            x,
            self.config.evaluation_updates,
        )
        return memory_one(self.game.features(x[0, 0]), None if deterministic else own)

    def _seen(self, x: Tensor, seat: int) -> Tensor:
        """Features (S, B, 2 n) of both policies, own first."""
        own_first = x if seat == 0 else x.flip(-2)
        return self.game.features(own_first).flatten(-2).float()

    def _distribution(self, seen: Tensor, seat: int) -> tuple[Tensor, Tensor]:
        """Means and variances of the learners in one seat."""
        models = self.config.models
        every = seen.repeat(self.seats, 1, 1)
        rows = slice(seat * models, (seat + 1) * models)
        mean, variance = self.network.distribution(every)
        return mean[rows], variance[rows]

    @torch.no_grad()
    def _play(self) -> tuple[dict[str, Tensor], Tensor]:
        """Samples (L, T·B, …) of all learners, and the returns (S, B, 2) of the last policies."""
        config = self.config
        x = self.game.draw(config.models * config.batch_size, self.generator)
        x = x.view(config.models, config.batch_size, 2, -1)
        rows: dict[str, list[Tensor]] = {"seen": [], "action": [], "reward": []}
        for _ in range(config.updates):
            seen = torch.cat([self._seen(x, seat) for seat in range(self.seats)])
            mean, variance = self.network.distribution(seen)
            noise = torch.randn(mean.shape, generator=self.generator, device=mean.device)
            action = mean + variance.sqrt() * noise
            moves = list(action.to(x.dtype).chunk(self.seats))
            if self._other is not None:
                moves.append(self._other.change(self.game, x, 1))
            x = torch.stack(moves, -2)
            returns = self.game.value(x)
            reward = torch.cat([returns[..., seat] for seat in range(self.seats)])
            for name, row in (("seen", seen), ("action", action), ("reward", reward.float())):
                rows[name].append(row)
        return self._samples({name: torch.stack(steps) for name, steps in rows.items()}), returns

    def _samples(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is learned from (T, L, B, …): returns to go in units of their spread, and so on."""
        going_on = torch.zeros_like(rows["reward"], dtype=torch.bool)
        to_go = discounted_return(rows["reward"], going_on, going_on, self.config.gamma)
        flat = {name: row.transpose(0, 1).flatten(1, 2) for name, row in rows.items()}
        to_go = to_go.transpose(0, 1).flatten(1, 2)
        centred = to_go - to_go.mean(1, keepdim=True)
        flat["return_"] = centred / (to_go.std(1, keepdim=True) + 1e-5)
        flat["log_prob"] = log_density(*self.network.distribution(flat["seen"]), flat["action"])
        return flat

    def _learn(self, data: dict[str, Tensor]) -> Tensor:
        """The epochs; the last loss, averaged over learners."""
        config = self.config
        samples = config.updates * config.batch_size
        size = samples // config.minibatches
        for _ in range(config.epochs):
            for index in minibatches(samples, size, self.shuffling, self.setup.device):
                batch = {name: rows.index_select(1, index) for name, rows in data.items()}
                loss = self._loss(batch)
                self.optimizer.zero_grad()
                # Learners are added, samples averaged: each learns as if it were alone.
                (loss * len(batch["log_prob"])).backward()
                self.optimizer.step()
        return loss.detach()

    def _loss(self, batch: dict[str, Tensor]) -> Tensor:
        config = self.config
        mean, variance = self.network.distribution(batch["seen"])
        value = self.network.value(batch["seen"])
        log_prob = log_density(mean, variance, batch["action"])
        entropy = 0.5 * (variance.log() + log(2 * pi) + 1).sum(-1).mean()
        advantage = batch["return_"] - value.detach()
        clip = torch.tensor(config.clip, device=advantage.device)
        surrogate = policy_loss(log_prob, batch["log_prob"], advantage, clip).mean()
        squared = (value - batch["return_"]).square().mean()
        bonus = config.entropy_coefficient * entropy
        return surrogate + config.value_coefficient * squared - bonus
