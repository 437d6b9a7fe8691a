"""Meta-Value Learning (T. Cooijmans, PhD thesis 2024, chapter 6, algorithm 4).

Policies are valued by the returns that learning reaches from them. With x a pair of policies, f
their returns and γ the meta-discount, the meta-value is

    V(x) = (1 − γ) f(x) + γ V(x′),    x′ = x + α ∇V(x),

and a player's learning rule is to follow its own V. Here the correction U(x) = V(x′) is learned
instead (`formulation="u"`), and the gradient of (1 − γ) f + γ U is followed. Two players who follow
it are consistent: each assumes the update that the other makes. Against a learner of another kind,
the other's coordinates move by that learner's rule.

One iteration is an outer loop: B new pairs explore for T updates, with signs of the network's last
hidden layer flipped at random. After every k updates they are followed for k more without flips,
and the network learns from the temporal differences along those: by quantile regression, towards
λ-returns of a target network, at discounts redrawn from the arcsine distribution for each pair and
player.

S models learn side by side, from independent random numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from semigradient.domains.games import rules
from semigradient.domains.games.head_to_head import Contestant, match_scores
from semigradient.envs.games.differentiable import Game, game_behind, simultaneous_gradient
from semigradient.envs.games.iterated import memory_one
from semigradient.envs.games.matrix_games import MatrixGame
from semigradient.errors import UserError, require
from semigradient.nets.meta_value import MetaValueNetwork
from semigradient.training.agent import AgentContext, Count, Policy, generator
from semigradient.training.returns import lambda_return, td_target
from semigradient.training.targets import move_towards


@dataclass(frozen=True)
class Config:
    """Hyperparameters; the defaults are those behind the published tables."""

    opponent: str = "self"
    """The second player: self, another follower of the meta-value, or a learner by a rule: naive,
    lookahead, lola, lola-taylor (its gradient stopped), lola-taylor-full, hola2, pola."""
    alpha: float = 25.0
    """Step size of the policies' updates."""
    opponent_alpha: float = -1.0
    """Step size of the updates that an opponent such as lola imagines; negative takes `alpha`."""
    formulation: Literal["u", "v"] = "u"
    """Learn the correction U to the game's own gradient, or the meta-value V itself."""
    gamma: float = 0.95
    """Meta-discount that the learned rule is used with."""
    variable_gamma: bool = True
    """Train with discounts from the arcsine distribution, by pair and player, or with `gamma`."""
    quantiles: int = 64
    """Quantiles of the value's distribution; 1 learns the mean by a Huber loss."""
    width: int = 128
    """Units of every layer."""
    blocks: int = 1
    """Residual blocks in each of the network's two halves."""
    layer_norm: bool = True
    """Normalise the layers of the network."""
    batch_size: int = 128
    """Pairs of policies."""
    trajectory: int = 100
    """Exploring updates T in an outer loop; 0 follows the initial pairs at once."""
    stride: int = 10
    """Updates k in a stretch that is learned from."""
    flip_probability: float = 1 / 16
    """Probability of flipping a unit's sign while exploring; 0 explores by the model's own rule."""
    td_lambda: float = 0.9
    """λ of the λ-returns."""
    target_rate: float = 0.01
    """Share of the network that the target network takes in per update; 1: no target network."""
    full_gradient: bool = False
    """Differentiate the bootstrap too; needs λ = 0 and no target network."""
    models: int = 1
    """Models trained side by side."""
    evaluation_updates: int = 500
    """Updates that lead to the policy which is evaluated."""

    def __post_init__(self) -> None:
        counts = ("quantiles", "width", "batch_size", "stride", "models", "evaluation_updates")
        for name in counts:
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)}: must be ≥ 1")
        require(self.blocks >= 0, f"blocks={self.blocks}: must be ≥ 0")
        require(self.alpha > 0, f"alpha={self.alpha}: must be > 0")
        rules.check("opponent", self.opponent, ("self",))
        step = self.opponent_alpha
        is_used = self.opponent not in ("self", "naive")
        message = f"opponent_alpha={step}: opponent={self.opponent!r} imagines no updates"
        require(step < 0 or is_used, message)
        require(0 <= self.gamma < 1, f"gamma={self.gamma}: must be in [0, 1)")
        require(0 < self.target_rate <= 1, f"target_rate={self.target_rate}: must be in (0, 1]")
        for name in ("td_lambda", "flip_probability"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"{name}={value}: must be in [0, 1]")
        divisible = self.trajectory >= 0 and self.trajectory % self.stride == 0
        message = f"trajectory={self.trajectory}: must be a multiple of stride={self.stride}"
        require(divisible, message)
        one_step = self.td_lambda == 0 and self.target_rate == 1
        is_valid = one_step or not self.full_gradient
        require(is_valid, "full_gradient=True: needs td_lambda=0 and target_rate=1")

    @property
    def imagined(self) -> float:
        """Step size of the opponent's imagined updates."""
        return self.alpha if self.opponent_alpha < 0 else self.opponent_alpha


class _QuantileHuber(torch.autograd.Function):
    """The loss below with its derivatives computed on the way: a third of autograd's time."""

    @staticmethod
    def forward(ctx: Any, predicted: Tensor, target: Tensor) -> Tensor:
        count = predicted.shape[-1]
        middle = (torch.arange(count, dtype=predicted.dtype, device=predicted.device) + 0.5) / count
        middle = middle.unsqueeze(-1)
        error = target.unsqueeze(-2) - predicted.unsqueeze(-1)
        clipped = error.clamp(-1, 1)
        # |τ − [e < 0]| without a branch.
        weight = torch.addcmul(middle, (error < 0).to(error.dtype), 1 - 2 * middle)
        slope = weight.mul_(clipped).div_(target.shape[-1])
        ctx.save_for_backward(-slope.sum(-1), slope.sum(-2))
        # Huber's function of e is c (e − c/2), with c the clipped e.
        return slope.mul_(error.sub_(clipped, alpha=0.5)).sum((-1, -2))

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor]:
        by_predicted, by_target = ctx.saved_tensors
        return slope.unsqueeze(-1) * by_predicted, slope.unsqueeze(-1) * by_target


def quantile_huber(predicted: Tensor, target: Tensor) -> Tensor:
    """Quantile regression with Huber's threshold 1 (Dabney et al. 2018): (…, M), (…, N) → (…).

    Σᵢ meanⱼ |τᵢ − [uᵢⱼ < 0]| · Huber(uᵢⱼ) with uᵢⱼ = targetⱼ − predictedᵢ and τᵢ = (i − ½)/M.
    One quantile is plain Huber regression.
    """
    if predicted.shape[-1] == target.shape[-1] == 1:
        return F.huber_loss(predicted, target, reduction="none").squeeze(-1)
    return _QuantileHuber.apply(predicted, target)


def meta_gradient(
    network: MetaValueNetwork,
    game: Game,
    x: Tensor,
    gamma: Tensor,
    formulation: str = "u",
    flips: Tensor | None = None,
    naive: Tensor | None = None,
) -> Tensor:
    """Update direction of followers of the meta-value: (S, B, 2, n), each player's own gradient.

    Args:
        network: S models.
        game: the game.
        x: policies (S, B, 2, n).
        gamma: meta-discounts (S, B, 2).
        formulation: "u": of (1 − γ) f + γ U; "v": of V.
        flips: signs (S, B, 2, width).
        naive: the game's own simultaneous gradient at x, where it has been computed already.
    """
    with torch.enable_grad():
        own = x.detach().clone().requires_grad_()
        dtype = network.seat_scale.dtype
        outputs = network(game.features(own).to(dtype), gamma.to(dtype), flips, stop=True).mean(-1)
        total = (gamma * outputs).sum() if formulation == "u" else outputs.sum()
        (slope,) = torch.autograd.grad(total, own)
    if formulation == "v":
        return slope
    if naive is None:
        naive = simultaneous_gradient(game, x)
    return slope + (1 - gamma).unsqueeze(-1) * naive


def targets(
    formulation: str,
    returns: Tensor,
    bootstrap: Tensor,
    gamma: Tensor,
    lambda_: float,
) -> Tensor:
    """λ-returns (k, S, B, 2, M), for every quantile on its own.

    Args:
        formulation: U's reward is the return after an update, V's that before it.
        returns: f of the policies x⁰ … xᵏ: (k + 1, S, B, 2).
        bootstrap: quantiles of x¹ … xᵏ: (k, S, B, 2, M).
        gamma: (S, B, 2).
        lambda_: λ.
    """
    reward = returns[1:] if formulation == "u" else returns[:-1]
    reward = ((1 - gamma) * reward).unsqueeze(-1).expand_as(bootstrap).to(bootstrap.dtype)
    discount = gamma.unsqueeze(-1).to(bootstrap.dtype)
    if lambda_ == 0:
        return td_target(reward, discount.expand_as(reward), bootstrap)
    never = torch.zeros_like(reward, dtype=torch.bool)
    return lambda_return(reward, never, never, bootstrap, discount, lambda_)


class MeVa:
    """Learns the meta-value; the policies themselves are redrawn in every iteration."""

    STATE = ("network", "target", "optimizer", "generator", "progress")
    POLICY = ("network", "target")

    def __init__(self, config: Config, setup: AgentContext) -> None:
        self.config, self.setup, self.timers = config, setup, setup.timers
        require(not setup.compile, "compile=True: not for meva, which differentiates as it plays")
        self.game = game_behind(setup.envs)
        probe = torch.zeros(2, self.game.parameters, dtype=torch.float64)
        self.network = MetaValueNetwork(
            config.models,
            self.game.features(probe).shape[-1],
            config.quantiles,
            config.width,
            config.blocks,
            shared_seats=self.game.symmetric and config.opponent == "self",
            layer_norm=config.layer_norm,
        ).to(setup.device)
        self.target = copy.deepcopy(self.network).requires_grad_(False)
        self._learned = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = setup.make_optimizer(self._learned)
        self.generator = generator(setup.seed, 1, setup.device)
        self.progress = Count()
        self._rule = (
            None if config.opponent == "self" else rules.rule(config.opponent, config.imagined)
        )

    def iterate(self) -> Mapping[str, float | Tensor]:
        """One outer loop."""
        config = self.config
        x, gamma = self._initial(), self._discounts()
        flips = self._flips()
        losses = []
        for _ in range(max(1, config.trajectory // config.stride)):
            if config.trajectory:
                with self.timers("explore"):
                    x = self._follow(x, gamma, flips)[-1]
            drawn = self._discounts()
            with self.timers("follow"):
                visited = self._follow(x, drawn)
            with self.timers("learn"):
                losses.append(self._learn(visited, drawn))
            rounds = 2 if config.trajectory else 1
            self.progress.steps += config.batch_size * config.stride * rounds
        returns = self.game.value(visited[-1]).mean((0, 1))
        return {
            "loss": torch.stack(losses).mean(),
            "return": returns[0],
            "opponent_return": returns[1],
        }

    def direction(self, x: Tensor, gamma: float | None = None) -> Tensor:
        """Update direction of both players at x (S, B, 2, n), by the target network: (S, B, 2, n).

        `gamma` replaces the configured meta-discount.
        """
        chosen = self.config.gamma if gamma is None else gamma
        discount = torch.full(x.shape[:-1], chosen, dtype=x.dtype, device=x.device)
        return self._direction(self._followed, x, discount)

    def learn_policies(self, x: Tensor, updates: int, gamma: float | None = None) -> Tensor:
        """Policies (S, B, 2, n) after `updates` updates by the learned rule and the opponent's."""
        for _ in range(updates):
            x = x + self.config.alpha * self.direction(x, gamma)
        return x

    def contestant(self, model: int = 0) -> Contestant:
        """A learner, for matches. In the second of two like seats it sees itself in the first."""
        config = self.config

        def change(_: Game, x: Tensor, player: int) -> Tensor:
            seen = x.flip(-2) if player and self.game.symmetric else x
            seat = 0 if self.game.symmetric else player
            if seat and self._rule is not None:
                raise UserError("meva: was trained from the first seat alone")
            every = seen.expand(config.models, *x.shape)
            gamma = torch.full(every.shape[:-1], config.gamma, dtype=x.dtype, device=x.device)
            step = meta_gradient(self._followed, self.game, every, gamma, config.formulation)
            return x[..., player, :] + config.alpha * step[model, ..., seat, :]

        return Contestant(change)

    def further_scores(self) -> dict[str, float]:
        """Final returns of matches of the first model with naive learners, LOLA and itself."""
        config = self.config
        steps = config.alpha, config.imagined, config.evaluation_updates
        return match_scores(self.game, self.contestant(), *steps, device=self.setup.device)

    def policy(self, deterministic: bool = True) -> Policy:
        """How the first player plays the game after learning, from policies drawn by the seed.

        In the Logistic Game acting is learning: the policy makes the model's updates.
        """
        own = generator(self.setup.seed, 3)
        if not isinstance(self.game, MatrixGame):
            return self._update
        x = self.game.draw(1, own).to(self.setup.device).expand(self.config.models, -1, -1, -1)
        learned = self.learn_policies(x, self.config.evaluation_updates)[0, 0, 0]
        return memory_one(self.game.features(learned), None if deterministic else own)

    @property
    def _followed(self) -> MetaValueNetwork:
        """The slow network, where there is one."""
        return self.target if self.config.target_rate < 1 else self.network

    def _initial(self) -> Tensor:
        models, batch = self.config.models, self.config.batch_size
        drawn = self.game.draw(models * batch, self.generator)
        return drawn.view(models, batch, 2, -1)

    def _discounts(self) -> Tensor:
        """(S, B, 2), from Beta(½, ½): the distribution of sin² of a uniform angle."""
        shape = (self.config.models, self.config.batch_size, 2)
        device = self.generator.device
        if not self.config.variable_gamma:
            return torch.full(shape, self.config.gamma, dtype=torch.float64, device=device)
        angle = torch.rand(shape, generator=self.generator, dtype=torch.float64, device=device)
        return torch.sin(torch.pi / 2 * angle) ** 2

    def _flips(self) -> Tensor | None:
        config = self.config
        if config.flip_probability == 0:
            return None
        shape = (config.models, config.batch_size, 2, config.width)
        drawn = torch.rand(shape, generator=self.generator, device=self.generator.device)
        return 1 - 2 * (drawn < config.flip_probability).float()

    def _direction(
        self, network: MetaValueNetwork, x: Tensor, gamma: Tensor, flips: Tensor | None = None
    ) -> Tensor:
        naive = simultaneous_gradient(self.game, x) if self.config.opponent == "naive" else None
        step = meta_gradient(network, self.game, x, gamma, self.config.formulation, flips, naive)
        if self._rule is None:
            return step
        opponent_step = self._rule(self.game, x, 1) if naive is None else naive[..., 1, :]
        return torch.stack((step[..., 0, :], opponent_step), -2)

    def _follow(self, x: Tensor, gamma: Tensor, flips: Tensor | None = None) -> Tensor:
        """The next k updates: x⁰ … xᵏ (k + 1, S, B, 2, n)."""
        for parameter in self._learned:
            parameter.requires_grad_(False)  # saves the memory of their derivatives
        visited = [x]
        for _ in range(self.config.stride):
            step = self._direction(self.network, visited[-1], gamma, flips)
            visited.append(visited[-1] + self.config.alpha * step)
        for parameter in self._learned:
            parameter.requires_grad_(True)
        return torch.stack(visited)

    def _values(self, network: MetaValueNetwork, visited: Tensor, gamma: Tensor) -> Tensor:
        """Quantiles (K, S, B, 2, M) of policies (K, S, B, 2, n), in one call."""
        steps, models, batch = visited.shape[:3]
        flat = visited.transpose(0, 1).reshape(models, steps * batch, 2, -1)
        repeated = gamma.unsqueeze(1).expand(-1, steps, -1, -1).reshape(models, steps * batch, 2)
        values = network(self.game.features(flat).float(), repeated.float())
        return values.view(models, steps, batch, 2, -1).transpose(0, 1)

    def _learn(self, visited: Tensor, gamma: Tensor) -> Tensor:
        """One gradient step on a stretch (k + 1, S, B, 2, n); the mean loss, 0-dim."""
        config = self.config
        returns = self.game.value(visited)
        if config.full_gradient:
            values = self._values(self.network, visited, gamma)
            predicted, bootstrap = values[:-1], values[1:]
        else:
            with torch.no_grad():
                bootstrap = self._values(self._followed, visited[1:], gamma)
            predicted = self._values(self.network, visited[:-1], gamma)
        target = targets(config.formulation, returns, bootstrap, gamma, config.td_lambda)
        # Models are added, pairs and players averaged: each model learns as if it were alone.
        loss = quantile_huber(predicted, target).mean((0, 2, 3)).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if config.target_rate < 1:
            move_towards(self.target, self.network, config.target_rate)
        return loss.detach() / config.models

    def _update(self, obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """The first player's update (B, n) of the pairs it sees (B, 2 n)."""
        x = torch.from_numpy(obs).to(self.setup.device).double().view(1, len(obs), 2, -1)
        x = x.expand(self.config.models, -1, -1, -1)
        step = self.config.alpha * self.direction(x)[0, :, 0]
        return step.clamp(-1, 1).float().cpu().numpy()
