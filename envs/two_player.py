"""Games of two: rules for both seats at once, and how one learner meets an opponent in them.

A joint core has the rules of a game on batches of tensors, like the cores of `envs.faces`, except
that both players act in a step and both are rewarded. It is worn four ways: `Against` puts an
opponent into the second seat, which makes it a core for one learner, hence a `gymnasium.Env` and a
vector environment; `envs.parallel` makes it a PettingZoo environment; and learners that play both
seats on the device use it as it is.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from envs.faces import State, Step


class JointStep(NamedTuple):
    """What one round of B games leads to."""

    state: State
    reward: Tensor  # (B, 2) float64
    terminated: Tensor  # (B,) bool
    truncated: Tensor  # (B,) bool


class JointCore(Protocol):
    """Rules of a game of two. Each seat has the same spaces and sees the game from its own side.

    Attributes:
        device: where its tensors live.
        single_observation_space: space of one player's observation.
        single_action_space: space of one player's action.
        protocol: how scores are to be read.
    """

    device: torch.device
    single_observation_space: spaces.Box
    single_action_space: spaces.Space
    protocol: dict[str, Any]

    def reset(self, n: int, generator: torch.Generator | None = None, **options: Any) -> State:
        """`n` fresh games."""
        ...

    def step(
        self, state: State, actions: tuple[Tensor, Tensor], generator: torch.Generator | None = None
    ) -> JointStep:
        """Both act once, (B, *action) each, in every game."""
        ...

    def observe(self, state: State, player: int) -> Tensor:
        """What a player (0 or 1) sees: (B, *observation) in memory of its own."""
        ...

    def info(self, state: State) -> dict[str, Tensor]:
        """What may be known about the games besides: tensors (B, …)."""
        ...

    def render(self, state: State) -> list[np.ndarray]:
        """RGB frames (H, W, 3) uint8, one a game."""
        ...


class Opponent(Protocol):
    """Who sits in the second seat; it may know the whole state, and holds no memory of its own."""

    def act(self, state: State, generator: torch.Generator | None) -> Tensor:
        """Actions (B, *action) of player 1."""
        ...


class Against:
    """A core for one learner, in the first seat of a joint core, against a fixed opponent.

    Args:
        joint: the rules.
        opponent: who plays the second seat.
        name: the opponent's, for the protocol.
    """

    def __init__(self, joint: JointCore, opponent: Opponent, name: str) -> None:
        self.joint, self.opponent = joint, opponent
        self.device = joint.device
        self.single_observation_space = joint.single_observation_space
        self.single_action_space = joint.single_action_space
        self.protocol = {**joint.protocol, "opponent": name}

    def reset(self, n: int, generator: torch.Generator | None = None, **options: Any) -> State:
        """`n` fresh games."""
        return self.joint.reset(n, generator, **options)

    def step(self, state: State, actions: Tensor, generator: torch.Generator | None = None) -> Step:
        """Act once in every game; the reward is the learner's."""
        theirs = self.opponent.act(state, generator)
        state, reward, terminated, truncated = self.joint.step(state, (actions, theirs), generator)
        return Step(state, reward[:, 0], terminated, truncated)

    def observe(self, state: State) -> Tensor:
        """What the learner sees."""
        return self.joint.observe(state, 0)

    def info(self, state: State) -> dict[str, Tensor]:
        """The joint core's."""
        return self.joint.info(state)

    def render(self, state: State) -> list[np.ndarray]:
        """The joint core's."""
        return self.joint.render(state)
