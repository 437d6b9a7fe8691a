"""The network of action values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gymnasium import spaces
from torch import Tensor, nn

from semigradient.nets.bricks import Flat, is_glimpse, mlp, torso
from semigradient.nets.glimpse import glorot


class QNetwork(nn.Module):
    """Action values (B, A); dueling: Q = V + A - mean A (Wang et al. 2016, eq. 9)."""

    STACKS = True

    def __init__(
        self,
        observation: spaces.Box,
        actions: int,
        hidden: Sequence[int],
        activation: str,
        dueling: bool,
        make_torso: Callable[[spaces.Space], Any] = torso,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.torso = make_torso(observation)
        sizes = (self.torso.width, *hidden)
        if dueling and isinstance(self.torso, Flat):
            # Vectors share all hidden layers but the last; images share the convolutions.
            self.shared = mlp(sizes[:-1], activation, last=True, layer_norm=layer_norm)
            sizes = sizes[-2:]
        else:
            self.shared = nn.Sequential()
        self.advantage = mlp((*sizes, actions), activation, layer_norm=layer_norm)
        self.value = mlp((*sizes, 1), activation, layer_norm=layer_norm) if dueling else None
        if is_glimpse(self.torso):
            glorot(self)

    def forward(self, obs: Tensor) -> Tensor:
        """(B, *observation) → (B, A)."""
        features = self.shared(self.torso(obs))
        advantage = self.advantage(features)
        if self.value is None:
            return advantage
        return self.value(features) + advantage - advantage.mean(-1, keepdim=True)
