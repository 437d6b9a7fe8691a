"""stable-baselines3's DQN, PPO and A2C behind this toolkit's agent protocol.

They see the same environments, optimizers, seeds and evaluation as our own agents, so their
scores are comparable. Networks, losses, memories and exploration are SB3's.

SB3 cannot resume exactly. A checkpoint holds the policy, the optimizer, the statistics of the
normalisation and the counters; the replay memory starts empty again, every environment starts a
fresh episode, and NumPy's global generator, which SB3 draws from, starts again from the seed.
`exact` is therefore always false.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from semigradient.agents.sb3.bridge import Bridge
from semigradient.agents.sb3.config import Config, arguments, share_left
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


class SB3:
    """One of SB3's algorithms, a collect-and-train cycle at a time."""

    POLICY = ("model.policy",)

    def __init__(self, config: Config, setup: AgentContext) -> None:
        self.config, self.setup, self.timers = config, setup, setup.timers
        require(not setup.compile, "compile=True: SB3's updates cannot be compiled")
        _check_action_space(config.algorithm, setup.envs.single_action_space)
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
        chosen = arguments(config)
        if config.algorithm == "dqn" and not setup.learning:
            chosen["buffer_size"] = setup.envs.num_envs
        chosen["policy_kwargs"]["optimizer_class"] = self._make_optimizer
        algorithms: dict[str, Callable[..., Any]] = {"dqn": DQN, "ppo": PPO, "a2c": A2C}
        self.model = algorithms[config.algorithm](
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

    def iterate(self) -> Mapping[str, float | Tensor]:
        """One cycle of SB3's `learn`; what SB3 stores while acting counts as acting."""
        model = self.model
        with self.timers("act"):
            if self.config.algorithm == "dqn":
                model.collect_rollouts(
                    model.env,
                    callback=self._callback,
                    train_freq=model.train_freq,
                    replay_buffer=model.replay_buffer,
                    learning_starts=model.learning_starts,
                )
            else:
                model.collect_rollouts(
                    model.env, self._callback, model.rollout_buffer, n_rollout_steps=model.n_steps
                )
                model._update_current_progress_remaining(model.num_timesteps, self._total)
        with self.timers("learn"):
            if self.config.algorithm != "dqn":
                model.train()
            elif model.num_timesteps > model.learning_starts:
                model.train(gradient_steps=model.gradient_steps, batch_size=model.batch_size)
        return self._scalars()

    def policy(self, deterministic: bool = True) -> Policy:
        """SB3's own prediction; DQN explores, unless deterministic, as at the end of the run."""
        rng = np.random.default_rng((self.setup.seed, 3))
        explore = self.config.exploration_final_eps if self.config.algorithm == "dqn" else 0.0

        def act(obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
            if self.normaliser is not None:
                obs = self.normaliser.normalize_obs(obs)  # type: ignore[assignment]
            actions, _ = self.model.policy.predict(obs, deterministic=deterministic)
            if explore and not deterministic:
                random = rng.random(len(actions)) < explore
                count = int(self.setup.envs.single_action_space.n)  # type: ignore[attr-defined]
                actions = np.where(random, rng.integers(count, size=len(actions)), actions)
            return actions

        return act

    def policy_state(self) -> dict[str, Any]:
        """SB3's policy, and the statistics that observations are normalised with."""
        state: dict[str, Any] = {"policy": self.model.policy.state_dict()}
        if self.normaliser is not None and self.config.normalize_obs:
            state["obs_moments"] = _moments(self.normaliser.obs_rms)
        return state

    def load_policy_state(self, state: dict[str, Any]) -> None:
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
        if self.config.algorithm == "dqn":
            state["calls"] = int(self.model._n_calls)
        if self.normaliser is not None:
            state["return_moments"] = _moments(self.normaliser.ret_rms)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what was learned, in fresh episodes and with an empty memory."""
        model = self.model
        load_optimizer_state(model.policy.optimizer, state["optimizer"])
        model._n_updates = state["updates"]
        if self.config.algorithm == "dqn":
            model._n_calls = state["calls"]
            model.replay_buffer.reset()
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
        if self.config.algorithm == "dqn":
            # SB3 computes this only after a step, and would take the first one greedily.
            model.exploration_rate = model.exploration_schedule(model._current_progress_remaining)

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


def _check_action_space(algorithm: str, space: spaces.Space) -> None:
    discrete = isinstance(space, spaces.Discrete) and space.start == 0
    if algorithm == "dqn":
        require(discrete, f"action space {space}: SB3's DQN accepts Discrete (from 0)")
        return
    bounded = isinstance(space, spaces.Box) and space.is_bounded()
    multiple = isinstance(space, (spaces.MultiDiscrete, spaces.MultiBinary))
    require(
        discrete or bounded or multiple,
        f"action space {space}: SB3 accepts Discrete (from 0), bounded Box, MultiDiscrete and "
        "MultiBinary",
    )


def _moments(statistics: Any) -> dict[str, Any]:
    return {
        "mean": np.asarray(statistics.mean).copy(),
        "var": np.asarray(statistics.var).copy(),
        "count": float(statistics.count),
    }


def _load_moments(statistics: RunningMeanStd | Any, state: dict[str, Any]) -> None:
    statistics.mean, statistics.var = np.asarray(state["mean"]), np.asarray(state["var"])
    statistics.count = state["count"]
