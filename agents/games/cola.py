"""COLA: consistent learning with opponent-learning awareness (T. Willi et al. 2022).

Each of two LOLA learners assumes that its opponent learns naively, which is false. Here a network ĝ
is trained to be consistent: each player assumes the update that the other makes:

    ĝ₁(x) = ∇₁ f₁(x₁, x₂ + α ĝ₂(x)),    ĝ₂(x) = ∇₂ f₂(x₁ + α ĝ₁(x), x₂),

by a Huber loss between both sides, without a stop-gradient, for all step sizes α in a range.

Source: T. Cooijmans, PhD thesis (2024), appendices 6.B and 6.D; loss, range and steps are those of
its published code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from semigradient.envs.games.differentiable import Game, game_behind, returns
from semigradient.envs.games.logistic import LogisticGame
from semigradient.errors import UserError, require
from semigradient.nets.meta_value import MetaValueNetwork
from semigradient.training.agent import (
    AgentContext,
    Count,
    Policy,
    generator,
)


@dataclass(frozen=True)
class Config:
    """Hyperparameters of the published run on the Logistic Game."""

    alpha: float = 1.0
    """Step size of the imagined update when the rule is used."""
    largest_alpha: float = 10.0
    """Step sizes are learned from 0 to this, drawn for each pair."""
    batch_size: int = 256
    """Pairs of policies per gradient step."""
    width: int = 64
    """Units of every layer."""
    blocks: int = 1
    """Residual blocks in each of the network's two halves."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "width"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)}: must be ≥ 1")
        require(self.blocks >= 0, f"blocks={self.blocks}: must be ≥ 0")
        top = self.largest_alpha
        require(top > 0, f"largest_alpha={top}: must be > 0")
        is_valid = 0 <= self.alpha <= top
        require(is_valid, f"alpha={self.alpha}: must be in [0, largest_alpha={top}]")


def consistency(
    network: MetaValueNetwork, game: Game, x: Tensor, alpha: Tensor, largest_alpha: float
) -> tuple[Tensor, Tensor]:
    """Both sides (S, B, 2, n) of the equation at policies x (S, B, 2, n), with their graphs.

    `alpha` (S, B) is imagined by both players.
    """
    x = x.detach().clone().requires_grad_()
    first, second = x.unbind(-2)
    share = (alpha / largest_alpha).unsqueeze(-1).expand(x.shape[:-1])
    g = network(game.features(x).float(), share.float()).to(x.dtype)
    step = alpha[..., None, None] * g
    slopes = []
    for player, (own, other) in enumerate(((first, second), (second, first))):
        value = returns(game, own, other + step[..., 1 - player, :], player)
        slopes.append(torch.autograd.grad(value.sum(), x, create_graph=True)[0][..., player, :])
    return g, torch.stack(slopes, -2)


class COLA:
    """Trains ĝ at policies that are redrawn in every step."""

    STATE = ("network", "optimizer", "generator", "progress")
    POLICY = ("network",)

    def __init__(self, config: Config, setup: AgentContext) -> None:
        self.config, self.setup, self.timers = config, setup, setup.timers
        require(not setup.compile, "compile=True: not for cola, which differentiates twice")
        self.game = game_behind(setup.envs)
        if not self.game.symmetric:
            raise UserError("--env: cola shares one network between seats, which must be alike")
        n = self.game.parameters
        width = (config.width, config.blocks)
        self.network = MetaValueNetwork(1, n, n, *width, shared_seats=True).to(setup.device)
        learned = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = setup.make_optimizer(learned)
        self.generator = generator(setup.seed, 1, setup.device)
        self.progress = Count()

    def iterate(self) -> Mapping[str, float | Tensor]:
        """One gradient step."""
        config, draw = self.config, self.generator
        x = self.game.draw(config.batch_size, draw).unsqueeze(0)
        shape = x.shape[:2]
        alpha = torch.rand(shape, generator=draw, dtype=x.dtype, device=x.device)
        with self.timers("learn"):
            sides = consistency(
                self.network, self.game, x, alpha * config.largest_alpha, config.largest_alpha
            )
            loss = F.huber_loss(*sides)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        self.progress.steps += config.batch_size
        return {"loss": loss.detach()}

    @torch.no_grad()
    def direction(self, x: Tensor, alpha: float | None = None) -> Tensor:
        """ĝ (…, 2, n) at policies (…, 2, n); `alpha` replaces the configured one."""
        chosen = self.config.alpha if alpha is None else alpha
        flat = x.reshape(1, -1, *x.shape[-2:])
        share = torch.full(flat.shape[:-1], chosen / self.config.largest_alpha, device=x.device)
        return self.network(self.game.features(flat).float(), share).to(x.dtype).view_as(x)

    def policy(self, deterministic: bool = True) -> Policy:
        """Updates of the first player in the Logistic Game, whose actions are updates."""
        if not isinstance(self.game, LogisticGame):
            raise UserError("cola: is evaluated on semigradient/LogisticGame-v0 alone")

        def act(obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
            x = torch.from_numpy(obs).to(self.setup.device).double().view(len(obs), 2, -1)
            return self.direction(x)[:, 0].clamp(-1, 1).float().cpu().numpy()

        return act
