"""Influence balancing: a parameter whose first effects have the wrong sign.

C. Tallec, PhD thesis, 2019, §3.7, equations 3.23 and 3.24.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from semigradient.envs.core import Step
from semigradient.envs.options import Options
from semigradient.envs.pictures import line
from semigradient.errors import require
from semigradient.validate import Count, Positive, at_least


class BalanceState(NamedTuple):
    """Units and the parameter."""

    units: Tensor  # (B, n) float64
    theta: Tensor  # (B,) float64
    step: Tensor  # (B,) int64


def dynamics(units: int, positive: int) -> tuple[Tensor, Tensor]:
    """A (n, n) and b (n,), float64, of s' = A s + θ b; b is +1 for the first `positive` units."""
    half = torch.full((units,), 0.5, dtype=torch.float64)
    signs = torch.where(torch.arange(units) < positive, 1.0, -1.0).double()
    return torch.diag(half) + torch.diag(half[1:], 1), signs


class InfluenceBalance:
    """`semigradient/InfluenceBalance-v0`: steer s' = A s + θ b so that its first unit is 1.

    A is 1/2 on and above the diagonal, b is 1 for the first p units and -1 for the other n - p. A
    θ that is held leads to s₁ = 2 (2p - n) θ, here -6 θ, but the first effect of θ on s₁ is
    positive: greedy control goes the wrong way. Loss 0 is reached at θ = 1 / (2 (2p - n)) = -1/6.

    ## Action space
    `Box(-rate, rate, (1,), float32)`: what is added to θ.

    ## Observation space
    `Box(-inf, inf, (n + 1,), float32)`: the units, and θ.

    ## Rewards
    -(s₁ - 1)² / 2, after the step.

    ## Starting state
    The units are 0, θ is 0.5.

    ## Episode end
    Truncated after `length` steps.

    ## Information
    None.

    ## Arguments
    Those of `InfluenceBalanceOptions`.

    ## Version history
    v0: first version.
    """

    START = 0.5

    def __init__(
        self,
        units: int,
        positive: int,
        rate: float,
        length: int,
        device: str | torch.device = "cpu",
    ) -> None:
        self.rate, self.length, self.device = rate, length, torch.device(device)
        a, b = dynamics(units, positive)
        self.a, self.b = a.to(self.device), b.to(self.device)
        self.target = 1 / (2 * (2 * positive - units))
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (units + 1,), np.float32)
        self.single_action_space: spaces.Space = spaces.Box(-rate, rate, (1,), np.float32)
        self.protocol: dict[str, Any] = {
            "units": units,
            "positive": positive,
            "rate": rate,
            "length": length,
            "optimal_theta": round(self.target, 6),
        }
        self.references: Mapping[str, float] = {
            "bound": 0.0,
            "straight": self._return(self.target),
            "idle": self._return(self.START),
        }

    def reset(self, n: int, generator: torch.Generator | None = None) -> BalanceState:
        """Units of 0."""
        units = torch.zeros((n, len(self.b)), dtype=torch.float64, device=self.device)
        return BalanceState(units, units[:, 0] + self.START, units[:, 0].long())

    def step(
        self, state: BalanceState, actions: Tensor, generator: torch.Generator | None = None
    ) -> Step:
        """Add actions (B, 1) to θ, and move on."""
        theta = state.theta + actions[:, 0].double().clamp(-self.rate, self.rate)
        # Sums of products, not a matrix product: rows do not depend on how many there are.
        units = (self.a * state.units[:, None, :]).sum(2) + theta[:, None] * self.b
        after = BalanceState(units, theta, state.step + 1)
        is_late = after.step >= self.length
        reward = -0.5 * (units[:, 0] - 1).square()
        return Step(after, reward, torch.zeros_like(is_late), is_late)

    def observe(self, state: BalanceState) -> Tensor:
        """(B, n + 1) float32."""
        return torch.cat([state.units, state.theta[:, None]], 1).float()

    def info(self, state: BalanceState) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def render(self, state: BalanceState) -> list[np.ndarray]:
        """The first unit on a line, and θ."""
        pairs = zip(state.units[:, 0].tolist(), state.theta.tolist(), strict=True)
        return [
            line(unit, -3, 3, f"s₁ = {unit:.2f} (wanted: 1), θ = {theta:.3f}")
            for unit, theta in pairs
        ]

    def _return(self, theta: float) -> float:
        """Of an episode that goes to a θ as fast as it may, and stays there."""
        state, total = self.reset(1), 0.0
        for _ in range(self.length):
            state, reward, *_ = self.step(state, (theta - state.theta)[:, None])
            total += reward.item()
        return total


@dataclass(frozen=True)
class InfluenceBalanceOptions(Options):
    """Options of influence balancing."""

    units: Annotated[int, at_least(2)] = 23
    """Units, n."""
    positive: Count = 10
    """Units on which θ acts with a positive sign, p; at most as many as the others."""
    rate: Positive = 0.1
    """Greatest change of θ in one step."""
    length: Count = 200
    """Steps of an episode."""

    def check(self) -> None:
        """The long run contradicts the short run."""
        require(
            2 * self.positive < self.units,
            f"positive={self.positive}: must be less than half of units, here {self.units}",
        )

    def make(self, device: str = "cpu") -> InfluenceBalance:
        """The core of `semigradient/InfluenceBalance-v0`."""
        return InfluenceBalance(self.units, self.positive, self.rate, self.length, device)
