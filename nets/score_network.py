"""Coconet as the network of a policy or of action values, on rolls that are being filled.

The convolutions of `nets.coconet` see what its own input is: known notes and what is known. Their
outputs log p(pitch | cell) plus a learned preference for the cell are the logits of a joint choice
of cell and pitch: with weights of a trained Coconet the policy begins as the ancestral sampler. A
value is read off the mean of the last hidden layer over time and pitch.
"""

from __future__ import annotations

import torch
from gymnasium import spaces
from torch import Tensor, nn

from semigradient.errors import UserError
from semigradient.nets.bricks import mlp
from semigradient.nets.coconet import Coconet
from semigradient.nets.distributions import Categorical

_SHALLOWEST = 6


class ScoreTrunk(nn.Module):
    """Features (B, H), log p (B, I, T, P) and preferences of cells (B, I, T) of observations.

    Batch normalisation keeps the statistics it came with: acting and learning must agree.

    Args:
        observation: of `semigradient/ChoraleFill-v0`, (2I or 3I, T, P).
        actions: I T P, or P where the observation points to a cell.
        width: channels of the hidden layers.
        depth: layers beyond the six that there are at least.
        trained: whose layers and statistics to begin with, instead of those of this size.

    Raises:
        UserError: the spaces are those of something else.
    """

    def __init__(
        self,
        observation: spaces.Box,
        actions: int,
        width: int,
        depth: int,
        trained: Coconet | None = None,
    ) -> None:
        super().__init__()
        shape = observation.shape
        channels, times, pitches = shape if len(shape) == 3 else (0, 0, 0)
        self.pointed = actions == pitches
        self.voices = channels // (3 if self.pointed else 2)
        if self.voices == 0 or (not self.pointed and actions != self.voices * times * pitches):
            raise UserError(f"torso='coconet': is for rolls, not observations of shape {shape}")
        if trained is None:
            self.layers = Coconet(width, _SHALLOWEST + depth, pitches, self.voices)
            for norm in self.layers.norms[:-1]:  # without statistics it only scales
                nn.init.ones_(norm.weight)  # type: ignore[arg-type]
        else:
            has_bias = trained.pitch_bias is not None
            shape_of_rolls = trained.pitches, trained.voices
            self.layers = Coconet(*trained.sizes, *shape_of_rolls, pitch_bias=has_bias)
            self.layers.load_state_dict(trained.state_dict())
            fits = (trained.pitches, trained.voices) == (pitches, self.voices)
            if not fits:
                raise UserError(
                    f"torso_weights: {trained.voices} voices, {trained.pitches} pitches"
                )
        # In this order of memory the convolutions of a CPU take half the time.
        self.layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.width = self.layers.sizes[0]
        self.preference = nn.Conv1d(self.width, self.voices, 1)
        nn.init.zeros_(self.preference.weight)
        nn.init.zeros_(self.preference.bias)  # type: ignore[arg-type]
        self.train()

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean features (B, H) and action logits (B, A) of observations."""
        seen = obs[:, : 2 * self.voices].contiguous(memory_format=torch.channels_last)
        hidden, logits = self.layers.run(seen)
        logits = logits.log_softmax(-1) + self.preference(hidden.mean(3))[..., None]
        features = hidden.mean((2, 3))
        if not self.pointed:
            return features, logits.flatten(1)
        return features, (logits * obs[:, 2 * self.voices :]).sum((1, 2))

    def train(self, mode: bool = True) -> ScoreTrunk:
        """All but the normalisation, which keeps its statistics."""
        super().train(mode)
        self.layers.norms.eval()
        return self


class ScoreActorCritic(nn.Module):
    """Policy and value over one trunk; the face of `nets.actor_critic.ActorCritic`."""

    shared = True

    def __init__(self, trunk: ScoreTrunk, actions: int) -> None:
        super().__init__()
        self.distribution = Categorical(actions)
        self.trunk = trunk
        self.critic = mlp((trunk.width, 64, 1), "tanh")

    def forward(self, obs: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits (B, A) and values (B,)."""
        features, logits = self.trunk(obs)
        return self.distribution.parameters_of(logits, mask), self.critic(features).squeeze(-1)

    def policy(self, obs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits (B, A)."""
        return self.distribution.parameters_of(self.trunk(obs)[1], mask)

    def value(self, obs: Tensor) -> Tensor:
        """Values (B,)."""
        return self(obs)[1]


class ScoreQNetwork(nn.Module):
    """Action values (B, A): a value of the roll and the logits as advantages."""

    def __init__(self, trunk: ScoreTrunk) -> None:
        super().__init__()
        self.trunk, self.critic = trunk, mlp((trunk.width, 64, 1), "tanh")

    def forward(self, obs: Tensor) -> Tensor:
        """(B, *observation) → (B, A)."""
        features, logits = self.trunk(obs)
        return self.critic(features) + logits - torch.mean(logits, -1, keepdim=True)
