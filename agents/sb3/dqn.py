"""stable-baselines3's DQN."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import stable_baselines3
from gymnasium import spaces

from semigradient.agents.sb3.adapter import SB3
from semigradient.agents.sb3.config import Common
from semigradient.errors import require
from semigradient.nets.bricks import ACTIVATIONS
from semigradient.training.agent import AgentContext, Policy
from semigradient.validate import Count, Natural, Positive, Share, among


@dataclass(frozen=True)
class Config(Common):
    """Hyperparameters with SB3's names and defaults."""

    activation_fn: Annotated[str, among(ACTIVATIONS)] = "relu"
    """Nonlinearity of the hidden layers."""
    max_grad_norm: Positive = 10.0
    """Largest norm of the gradient."""
    batch_size: Count = 32
    """Transitions per gradient step."""
    n_steps: Count = 1
    """Steps of the return."""
    buffer_size: Count = 1_000_000
    """Transitions in the replay memory."""
    learning_starts: Natural = 100
    """Environment steps with random actions before learning."""
    train_freq: Count = 4
    """Steps of the vector environment between learning phases."""
    gradient_steps: Count = 1
    """Gradient steps per learning phase."""
    tau: Share = 1.0
    """Share of the online network that the target takes in per update."""
    target_update_interval: Count = 10_000
    """Environment steps between updates of the target."""
    exploration_fraction: Share = 0.1
    """Share of the run over which exploration falls linearly."""
    exploration_initial_eps: Share = 1.0
    """Probability of a random action at the beginning."""
    exploration_final_eps: Share = 0.05
    """Probability of a random action at the end."""

    def arguments(self) -> dict[str, Any]:
        """Those of `Common`, and every field of its own."""
        return super().arguments() | {
            "batch_size": self.batch_size,
            "n_steps": self.n_steps,
            "buffer_size": self.buffer_size,
            "learning_starts": self.learning_starts,
            "train_freq": self.train_freq,
            "gradient_steps": self.gradient_steps,
            "tau": self.tau,
            "target_update_interval": self.target_update_interval,
            "exploration_fraction": self.exploration_fraction,
            "exploration_initial_eps": self.exploration_initial_eps,
            "exploration_final_eps": self.exploration_final_eps,
        }


class DQN(SB3):
    """Some steps of the environments and the learning phase after them at a time."""

    ALGORITHM = stable_baselines3.DQN

    @staticmethod
    def check_action_space(space: spaces.Space) -> None:
        """Discrete from 0."""
        require(
            isinstance(space, spaces.Discrete) and space.start == 0,
            f"action space {space}: SB3's DQN accepts Discrete (from 0)",
        )

    @staticmethod
    def arguments(config: Any, setup: AgentContext) -> dict[str, Any]:
        """SB3's, with the smallest memory for an agent that only acts."""
        chosen = SB3.arguments(config, setup)
        return chosen if setup.learning else chosen | {"buffer_size": setup.envs.num_envs}

    def policy(self, deterministic: bool = True) -> Policy:
        """SB3's own prediction; it explores, unless deterministic, as at the end of the run."""
        greedy = super().policy(deterministic)
        explore = 0.0 if deterministic else self.config.exploration_final_eps
        rng = np.random.default_rng((self.setup.seed, 3))

        def act(obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
            actions = greedy(obs, mask)
            if explore:
                random = rng.random(len(actions)) < explore
                count = int(self.setup.envs.single_action_space.n)  # type: ignore[attr-defined]
                actions = np.where(random, rng.integers(count, size=len(actions)), actions)
            return actions

        return act

    def state_dict(self) -> dict[str, Any]:
        """That of every algorithm, and how often the target was asked for."""
        return super().state_dict() | {"calls": int(self.model._n_calls)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with an empty memory and the exploration of that step."""
        model = self.model
        model._n_calls = state["calls"]
        model.replay_buffer.reset()
        super().load_state_dict(state)
        # SB3 computes this only after a step, and would take the first one greedily.
        model.exploration_rate = model.exploration_schedule(model._current_progress_remaining)

    def _collect(self) -> None:
        model = self.model
        model.collect_rollouts(
            model.env,
            callback=self._callback,
            train_freq=model.train_freq,
            replay_buffer=model.replay_buffer,
            learning_starts=model.learning_starts,
        )

    def _learn(self) -> None:
        model = self.model
        if model.num_timesteps > model.learning_starts:
            model.train(gradient_steps=model.gradient_steps, batch_size=model.batch_size)
