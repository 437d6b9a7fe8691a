"""stable-baselines3's A2C."""

from __future__ import annotations

import stable_baselines3

from semigradient.agents.sb3.config import OnPolicy as Config
from semigradient.agents.sb3.on_policy import OnPolicy

__all__ = ["A2C", "Config"]


class A2C(OnPolicy):
    """A rollout and its one update at a time."""

    ALGORITHM = stable_baselines3.A2C
