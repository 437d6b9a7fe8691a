"""stable-baselines3's algorithms behind this toolkit's agent protocol.

They see the same environments, optimizers, seeds and evaluation as our own agents, so their
scores are comparable. Networks, losses, memories and exploration are SB3's.

SB3 cannot resume exactly. A checkpoint holds the policy, the optimizer, the statistics of the
normalisation and the counters; the replay memory starts empty again, every environment starts a
fresh episode, and NumPy's global generator, which SB3 draws from, starts again from the seed.
`exact` is therefore always false.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from semigradient.agents.sb3.bridge import Bridge
from semigradient.agents.sb3.config import Common, share_left
from semigradient.agents.sb3.zip_parameters import read_zip
from semigradient.errors import UserError, require
from semigradient.training.agent import AgentContext, Policy, load_optimizer_state, optimizer_state


class _Progress:
    """Steps by SB3's count, episodes by the bridge's; a loaded state never continues exactly."""

    exact = False

    def __init__(self, model: Any, bridge: Bridge) -> None:
        self.model, self.bridge = model, bridge

    @property
    def steps(self) -> int:
        """Environment steps so far."""
        return int(self.model.num_timesteps)

    def pop_episodes(self) -> list[tuple[float, int]]:
        """(return, length) of the episodes that ended since the last call."""
        episodes, self.bridge.episodes = self.bridge.episodes, []
        return episodes


def _shows_images(space: spaces.Box) -> bool:
    """Whether SB3's convolutions are for these observations; `UserError` if they are too small."""
    images = space.dtype == np.uint8 and len(space.shape) == 3
    require(
        not images or sorted(space.shape)[1] >= 36,
        f"observation space {space}: SB3's convolutions need at least 36×36 pixels",
    )
    return images


class SB3(ABC):
    """One of SB3's algorithms, a collect-and-train cycle at a time."""

    ALGORITHM: ClassVar[Any]
    """SB3's class."""
    POLICY = ("model.policy",)

    def __init__(self, config: Common, setup: AgentContext) -> None:
        self.config: Any = config
        self.setup, self.timers = setup, setup.timers
        require(not setup.compile, "compile=True: SB3's updates cannot be compiled")
        self.check_action_space(setup.envs.single_action_space)
        self.bridge = Bridge(setup.envs, setup.timers, config.clip_rewards)
        images = _shows_images(setup.envs.single_observation_space)
        require(
            not (config.normalize_obs and images),
            "normalize_obs=True: images are scaled by the network",
        )
        self.normaliser: VecNormalize | None = None
        if config.normalize_obs or config.normalize_reward:
            self.normaliser = VecNormalize(
                self.bridge,
                norm_obs=config.normalize_obs,
                norm_reward=config.normalize_reward,
                gamma=config.gamma,
            )
        self._rate = 0.0  # known once the optimizer exists; SB3 needs one before
        scale = share_left(config.schedule)
        chosen = self.arguments(config, setup)
        chosen["policy_kwargs"]["optimizer_class"] = self._make_optimizer
        self.model = self.ALGORITHM(
            "CnnPolicy" if images else "MlpPolicy",
            self.bridge if self.normaliser is None else self.normaliser,
            learning_rate=lambda remaining: self._rate * scale(remaining),
            seed=setup.seed % 2**32,
            device=setup.device,
            **chosen,
        )
        self.progress = _Progress(self.model, self.bridge)
        # A logger of our own, or SB3 makes a folder in the system's temporary directory.
        self.model.set_logger(Logger(folder=None, output_formats=[]))
        self._callback: Any = None
        if setup.learning:
            if config.import_zip:
                self._import(read_zip(Path(config.import_zip)))
            self._start()

    @staticmethod
    @abstractmethod
    def check_action_space(space: spaces.Space) -> None:
        """`UserError` unless the algorithm has a distribution for these actions."""

    @staticmethod
    def arguments(config: Common, setup: AgentContext) -> dict[str, Any]:
        """Keyword arguments of SB3's class."""
        return config.arguments()

    def iterate(self) -> Mapping[str, float | Tensor]:
        """One cycle of SB3's `learn`; what SB3 stores while acting counts as acting."""
        with self.timers("act"):
            self._collect()
        with self.timers("learn"):
            self._learn()
        return self._scalars()

    def policy(self, deterministic: bool = True) -> Policy:
        """SB3's own prediction."""

        def act(obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
            if self.normaliser is not None:
                obs = self.normaliser.normalize_obs(obs)  # type: ignore[assignment]
            actions, _ = self.model.policy.predict(obs, deterministic=deterministic)
            return actions

        return act

    def policy_state(self) -> dict[str, Any]:
        """SB3's policy, and the statistics that observations are normalised with."""
        state: dict[str, Any] = {"policy": self.model.policy.state_dict()}
        if self.normaliser is not None and self.config.normalize_obs:
            state["obs_moments"] = _moments(self.normaliser.obs_rms)
        return state

    def load_policy_state(self, state: Mapping[str, Any]) -> None:
        """Load what `policy_state` gave."""
        self.model.policy.load_state_dict(state["policy"])
        if "obs_moments" in state and self.normaliser is not None:
            _load_moments(self.normaliser.obs_rms, state["obs_moments"])

    def state_dict(self) -> dict[str, Any]:
        """Policy, optimizer, statistics and counters; neither memory nor running episodes."""
        state: dict[str, Any] = {
            **self.policy_state(),
            "optimizer": optimizer_state(self.model.policy.optimizer),
            "steps": int(self.model.num_timesteps),
            "updates": int(self.model._n_updates),
            "resets": self.setup.envs.resets.copy(),
        }
        if self.normaliser is not None:
            state["return_moments"] = _moments(self.normaliser.ret_rms)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what was learned, in fresh episodes."""
        model = self.model
        load_optimizer_state(model.policy.optimizer, state["optimizer"])
        model._n_updates = state["updates"]
        # The reset counts decide the seeds: continue with unused seeds.
        self.setup.envs.resets[:] = state["resets"]
        self.bridge.episodes = []
        self._start()
        # Only now, so that the reset of a moment ago leaves the statistics as they were saved.
        self.load_policy_state(state)
        if self.normaliser is not None:
            _load_moments(self.normaliser.ret_rms, state["return_moments"])
        model.num_timesteps = state["steps"]
        model._update_current_progress_remaining(model.num_timesteps, self._total)

    @abstractmethod
    def _collect(self) -> None:
        """Act in the environments, as far as one cycle goes."""

    @abstractmethod
    def _learn(self) -> None:
        """What SB3 learns from it."""

    def _start(self) -> None:
        """What SB3's `learn` does before its loop: reset the environments and the counters."""
        self._total = self.setup.total_steps
        _, self._callback = self.model._setup_learn(self._total)

    def _make_optimizer(
        self, parameters: Iterable[Any], lr: float = 0.0, **_: Any
    ) -> torch.optim.Optimizer:
        """Stand in for the optimizer class that SB3 expects."""
        optimizer = self.setup.make_optimizer(parameters)
        self._rate = optimizer.param_groups[0]["lr"]
        return optimizer

    def _import(self, parameters: dict[str, Tensor]) -> None:
        """Take the parameters of a policy of the same architecture."""
        try:
            self.model.policy.load_state_dict(parameters)
        except RuntimeError as problem:
            reason = " ".join(str(problem).split())
            raise UserError(
                f"import_zip={self.config.import_zip!r}: another architecture "
                f"(algorithm, net_arch or environment differ): {reason}"
            ) from None

    def _scalars(self) -> dict[str, float | Tensor]:
        """What SB3 recorded since the last call, without its prefixes."""
        recorded = self.model.logger.name_to_value
        scalars = {name.split("/")[-1]: float(value) for name, value in recorded.items()}
        recorded.clear()
        # Undefined where all returns of a rollout are equal: no sign of a broken run.
        if not np.isfinite(scalars.get("explained_variance", 0.0)):
            del scalars["explained_variance"]
        return dict(scalars)


def _moments(statistics: Any) -> dict[str, Any]:
    return {
        "mean": np.asarray(statistics.mean).copy(),
        "var": np.asarray(statistics.var).copy(),
        "count": float(statistics.count),
    }


def _load_moments(statistics: RunningMeanStd | Any, state: dict[str, Any]) -> None:
    statistics.mean, statistics.var = np.asarray(state["mean"]), np.asarray(state["var"])
    statistics.count = state["count"]
