"""A policy and a value function over one observation space."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch
from gymnasium import spaces
from torch import Tensor, nn

from semigradient.nets.bricks import Flat, mlp, orthogonal, torso
from semigradient.nets.distributions import Distribution, distribution
from semigradient.nets.perceptron import Perceptron


class ActorCritic(nn.Module):
    """Separate perceptrons for vectors, one shared convolutional torso for images.

    Initialised orthogonally as the reference implementations of PPO and A2C do: gain √2 inside,
    0.01 for the policy's outputs, 1 for the value.

    Attributes:
        distribution: turns policy outputs into actions, log-probabilities and entropies.
        shared: whether policy and value share their torso.
    """

    STACKS = True

    def __init__(
        self,
        observation: spaces.Box,
        action: spaces.Space,
        hidden: Sequence[int],
        nonlinearity: str,
        log_std_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.distribution: Distribution = distribution(action, log_std_init)
        self.torso = torso(observation)
        self.shared = not isinstance(self.torso, Flat)
        outputs = self.distribution.outputs
        if self.shared:
            self.features = nn.Sequential(self.torso, nn.Linear(self.torso.width, 512), nn.ReLU())
            self.actor, self.critic = mlp((512, outputs)), mlp((512, 1))
        else:
            self.features = nn.Sequential(self.torso)
            self.actor = Perceptron(*mlp((self.torso.width, *hidden, outputs), nonlinearity))
            self.critic = Perceptron(*mlp((self.torso.width, *hidden, 1), nonlinearity))
        orthogonal(self, sqrt(2))
        orthogonal(self.actor[-1], 0.01)
        orthogonal(self.critic[-1], 1.0)

    def forward(self, obs: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Distribution parameters (B, P) and values (B,)."""
        features = self.features(obs)
        parameters = self.distribution.parameters_of(self.actor(features), mask)
        return parameters, self.critic(features).squeeze(-1)

    def policy(self, obs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Distribution parameters (B, P)."""
        return self.distribution.parameters_of(self.actor(self.features(obs)), mask)

    def value(self, obs: Tensor) -> Tensor:
        """Values (B,)."""
        return self.critic(self.features(obs)).squeeze(-1)


@torch.no_grad()
def explained_variance(value: Tensor, return_: Tensor) -> Tensor:
    """1 - Var(return - value) / Var(return) of (…, m): 1 is perfect, 0 no better than a constant.

    Where returns do not vary there is nothing to explain: 0.
    """
    error, spread = (rows.var(-1, correction=0) for rows in (return_ - value, return_))
    return torch.where(spread > 1e-8, 1 - error / spread.clamp_min(1e-8), 0.0)
