"""Any construction as an environment: build an object, whose reward comes at the end."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from semigradient.envs.constructions.construction import Construction
from semigradient.envs.core import Step
from semigradient.envs.pictures import captioned


class BuildingState(NamedTuple):
    """Objects under construction."""

    number: Tensor  # (B,) int64: state of the construction
    steps: Tensor  # (B,) int64
    stopped: Tensor  # (B,) bool: kept by the stop action


class Building:
    """`semigradient/HyperGrid-v0` and other constructions, as environments.

    ## Action space
    `Discrete(A)`: the construction's actions, the last of which is stop. `action_mask` marks the
    legal ones; an illegal action only takes a step.

    ## Observation space
    `Box(0, 1, (D,), float32)`: the construction's features; for a hyper-grid every coordinate
    one-hot.

    ## Rewards
    R of the object when the construction ends, 0 before.

    ## Starting state
    The empty object. With `options={"state": k}` the construction starts from state k.

    ## Episode end
    Terminated by stop, or when nothing can be added. Truncated after twice the longest
    construction, which only illegal actions can lead to.

    ## Information
    `action_mask` (A,) of legal actions, `state` (number of the state) and `log_reward` of the
    object that the state is.

    ## Arguments
    Those of the construction, such as `envs.constructions.hypergrid.HyperGridOptions`.

    ## Version history
    v0: first version.
    """

    def __init__(self, rules: Construction, protocol: dict[str, Any]) -> None:
        self.rules, self.protocol, self.device = rules, protocol, rules.device
        self.single_observation_space = spaces.Box(0.0, 1.0, (rules.width,), np.float32)
        self.single_action_space: spaces.Space = spaces.Discrete(rules.actions)
        self.max_steps = 2 * rules.horizon

    def reset(
        self,
        n: int,
        generator: torch.Generator | None = None,
        state: int | list[int] | Tensor | None = None,
    ) -> BuildingState:
        """`n` empty objects, or the given states."""
        start = self.rules.root if state is None else state
        number = torch.as_tensor(start, dtype=torch.int64, device=self.device).expand(n).clone()
        return BuildingState(
            number, torch.zeros_like(number), torch.zeros_like(number, dtype=torch.bool)
        )

    def step(
        self, state: BuildingState, actions: Tensor, generator: torch.Generator | None = None
    ) -> Step:
        """Add a piece, or stop. Actions are (B,)."""
        rules = self.rules
        allowed = rules.legal(state.number).gather(1, actions[:, None]).squeeze(1)
        stop = rules.actions - 1
        child = rules.child(state.number, torch.where(allowed, actions, stop))
        number = torch.where(allowed, child, state.number)
        stopped = allowed & (actions == stop)
        steps = state.steps + 1
        over = stopped | rules.finished(number)
        reward = torch.zeros(len(number), dtype=torch.float64, device=self.device)
        reward[over] = rules.log_reward(number[over]).exp()
        truncated = (steps >= self.max_steps) & ~over
        return Step(BuildingState(number, steps, stopped), reward, over, truncated)

    def observe(self, state: BuildingState) -> Tensor:
        """(B, D) float32."""
        return self.rules.features(state.number)

    def info(self, state: BuildingState) -> dict[str, Tensor]:
        """Mask of legal actions (B, A), state and log-reward (B,)."""
        return {
            "action_mask": self.rules.legal(state.number),
            "state": state.number,
            "log_reward": self.rules.log_reward(state.number),
        }

    def render(self, state: BuildingState) -> list[np.ndarray]:
        """The construction's pictures, with the states' names and rewards."""
        names, rewards = self.rules.names(state.number), self.rules.log_reward(state.number)
        words = [f"{n}   log R = {r:.2f}" for n, r in zip(names, rewards.tolist(), strict=True)]
        return list(map(captioned, self.rules.pictures(state.number), words))
