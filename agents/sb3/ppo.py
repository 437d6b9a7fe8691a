"""stable-baselines3's PPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import stable_baselines3

from semigradient.agents.sb3 import config
from semigradient.agents.sb3.on_policy import OnPolicy
from semigradient.validate import Count, NonNegative, Positive, Share


@dataclass(frozen=True)
class Config(config.OnPolicy):
    """Hyperparameters with SB3's names and defaults."""

    batch_size: Count = 64
    """Transitions per gradient step."""
    n_steps: Count = 2048
    """Steps per environment and rollout."""
    n_epochs: Count = 10
    """Passes over each rollout."""
    gae_lambda: Share = 0.95
    """Trace decay of the advantage estimate."""
    normalize_advantage: bool = True
    """Centre and scale advantages."""
    clip_range: Positive = 0.2
    """Largest change of the probability ratio that is rewarded."""
    clip_range_vf: NonNegative = 0.0
    """Largest change of the value that is rewarded; 0: no clipping."""
    clip_schedule: config.Schedule = "constant"
    """Policy clip over the run: constant, or falling linearly to 0."""
    target_kl: NonNegative = 0.0
    """Stop the epochs when the policy has moved this far (times 1.5); 0 never stops."""

    def arguments(self) -> dict[str, Any]:
        """Those of `OnPolicy`, and of the epochs."""
        scale = config.share_left(self.clip_schedule)
        return super().arguments() | {
            "batch_size": self.batch_size,
            "n_epochs": self.n_epochs,
            "clip_range": lambda remaining: self.clip_range * scale(remaining),
            "clip_range_vf": self.clip_range_vf or None,
            "target_kl": self.target_kl or None,
        }


class PPO(OnPolicy):
    """A rollout and its epochs at a time."""

    ALGORITHM = stable_baselines3.PPO
