"""Noise that explores: coherent in physical time, or not.

Noise that is independent between steps, and ε-greedy actions, average out over an interval of
physical time as dt → 0: the trajectory becomes deterministic (C. Tallec, PhD thesis, 2019,
theorems 4 and 10). The Ornstein-Uhlenbeck process

    dz = -κ z dt + σ dB        (eq. 8.29)

keeps its correlation time 1/κ at every dt. It is added to continuous actions, or to the values of
discrete actions before their maximum is taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from semigradient.errors import require
from semigradient.training.draws import Random, draw

Kind = Literal["ou", "white", "epsilon"]


@dataclass(frozen=True)
class NoiseConfig:
    """How actions are perturbed; the published process by default.

    Attributes:
        kind: ou (coherent), white (independent normal noise of the same size) or epsilon
            (uniform actions with probability `epsilon`).
        kappa: rate of return to 0, per second.
        sigma: diffusion, per square root of a second.
        epsilon: probability of a uniform action.
    """

    kind: Kind = "ou"
    kappa: float = 7.5
    sigma: float = 1.5
    epsilon: float = 0.1

    def __post_init__(self) -> None:
        require(0 < self.kappa < math.inf, f"kappa={self.kappa}: must be > 0")
        require(0 <= self.sigma < math.inf, f"sigma={self.sigma}: must be ≥ 0")
        require(0 <= self.epsilon <= 1, f"epsilon={self.epsilon}: must be in [0, 1]")


class Noise:
    """Perturbations of (B, K) outputs, one step after another.

    The process begins in its stationary distribution N(0, σ²/2κ) and is never reset. `white` noise
    has the same variance.

    Args:
        config: which noise.
        shape: (B, K).
        dt: seconds of one step; `UserError` unless κ dt < 1.
        generator: its own, on the device of the noise; of several, all outputs are (runs, B, K).
    """

    STATE = ("value", "generator")

    def __init__(
        self, config: NoiseConfig, shape: Sequence[int], dt: float, generator: Random
    ) -> None:
        pull = config.kappa * dt
        require(
            config.kind != "ou" or pull < 1,
            f"kappa={config.kappa}: kappa × dt = {pull:g} must be < 1 (dt={dt})",
        )
        self.config, self.dt, self.generator, self.shape = config, dt, generator, tuple(shape)
        self.std = config.sigma / math.sqrt(2 * config.kappa)
        self.value = self._normal() * self.std

    def __call__(self) -> Tensor:
        """The perturbation (B, K) of this step; moves on to the next."""
        now = self.value
        if self.config.kind == "ou":
            kick = self.config.sigma * math.sqrt(self.dt)
            self.value = (1 - self.config.kappa * self.dt) * now + kick * self._normal()
        else:
            self.value = self._normal() * self.std
        return now

    def continuous(self, action: Tensor) -> Tensor:
        """Explored actions (B, K) in [-1, 1], of a policy's (B, K)."""
        if self.config.kind != "epsilon":
            return (action + self()).clamp(-1, 1)
        uniform = 2 * self._uniform(self.shape) - 1
        return torch.where(self._explores().unsqueeze(-1), uniform, action)

    def discrete(self, values: Tensor) -> Tensor:
        """Explored actions (B,) int64, of action values (B, K)."""
        if self.config.kind != "epsilon":
            return (values + self()).argmax(-1)
        uniform = (self._uniform(self.shape[:1]) * self.shape[1]).long()
        return torch.where(self._explores(), uniform, values.argmax(-1))

    def _explores(self) -> Tensor:
        return self._uniform(self.shape[:1]) < self.config.epsilon

    def _uniform(self, shape: Sequence[int]) -> Tensor:
        return draw(self.generator, lambda own: torch.rand(shape, generator=own, device=own.device))

    def _normal(self) -> Tensor:
        return draw(
            self.generator, lambda own: torch.randn(self.shape, generator=own, device=own.device)
        )
