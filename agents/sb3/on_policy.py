"""What stable-baselines3's PPO and A2C share: they learn from one rollout after another."""

from __future__ import annotations

from gymnasium import spaces

from semigradient.agents.sb3.adapter import SB3
from semigradient.errors import require


class OnPolicy(SB3):
    """One of SB3's algorithms that learn from rollouts."""

    @staticmethod
    def check_action_space(space: spaces.Space) -> None:
        """Discrete from 0, bounded Box, MultiDiscrete and MultiBinary."""
        discrete = isinstance(space, spaces.Discrete) and space.start == 0
        bounded = isinstance(space, spaces.Box) and space.is_bounded()
        multiple = isinstance(space, (spaces.MultiDiscrete, spaces.MultiBinary))
        require(
            discrete or bounded or multiple,
            f"action space {space}: SB3 accepts Discrete (from 0), bounded Box, MultiDiscrete and "
            "MultiBinary",
        )

    def _collect(self) -> None:
        model = self.model
        model.collect_rollouts(
            model.env, self._callback, model.rollout_buffer, n_rollout_steps=model.n_steps
        )
        model._update_current_progress_remaining(model.num_timesteps, self._total)

    def _learn(self) -> None:
        self.model.train()
