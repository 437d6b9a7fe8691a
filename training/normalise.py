"""Running statistics for normalisation; they are part of the agent's state."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class RunningMoments:
    """Mean and variance of a stream, by Chan's parallel update (Chan et al. 1983).

    Starts as one pseudo-observation of mean 0 and variance 1 of weight 1e-4.
    """

    STATE = ("mean", "var", "count")

    def __init__(self, shape: Sequence[int]) -> None:
        self.mean = np.zeros(shape)
        self.var = np.ones(shape)
        self.count = 1e-4

    def update(self, batch: np.ndarray) -> None:
        """Take in (B, *shape) samples."""
        count = len(batch)
        delta = batch.mean(0) - self.mean
        total = self.count + count
        self.mean = self.mean + delta * (count / total)
        square = self.var * self.count + batch.var(0) * count
        self.var = (square + delta**2 * (self.count * count / total)) / total
        self.count = total


class ObservationNormaliser:
    """Centres and scales observations, clipped at ±`clip` standard deviations.

    Variances below `floor` count as `floor`, so that near-constant inputs are not amplified.
    """

    STATE = ("moments",)

    def __init__(self, shape: Sequence[int], clip: float = 10.0, floor: float = 0.0) -> None:
        self.moments = RunningMoments(shape)
        self.clip, self.floor = clip, floor

    def __call__(self, obs: np.ndarray, update: bool = False) -> np.ndarray:
        """Normalised float32 observations (B, *shape); `update` learns from them first."""
        if update:
            self.moments.update(obs)
        scaled = (obs - self.moments.mean) / np.sqrt(
            np.maximum(self.moments.var, self.floor) + 1e-8
        )
        return np.clip(scaled, -self.clip, self.clip).astype(np.float32)


class RewardNormaliser:
    """Divides rewards by the running standard deviation of the discounted return."""

    STATE = ("moments", "returns")

    def __init__(self, num_envs: int, gamma: float, clip: float = 10.0) -> None:
        self.moments = RunningMoments(())
        self.returns = np.zeros(num_envs)
        self.gamma, self.clip = gamma, clip

    def __call__(self, reward: np.ndarray, ended: np.ndarray) -> np.ndarray:
        """Scaled rewards (B,)."""
        self.returns = self.returns * self.gamma + reward
        self.moments.update(self.returns)
        self.returns[ended] = 0
        return np.clip(reward / np.sqrt(self.moments.var + 1e-8), -self.clip, self.clip)
