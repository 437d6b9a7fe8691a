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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from semigradient.agents.sb3.bridge import Bridge
from semigradient.agents.sb3.zip_parameters import read_zip
from semigradient.errors import UserError, require, unknown
from semigradient.nets.bricks import ACTIVATIONS
from semigradient.training.agent import AgentContext, Policy, load_optimizer_state, optimizer_state


@dataclass(frozen=True)
class Config:
    """Hyperparameters in SB3's words; 0 (and -1, "auto") leave SB3's default of the algorithm."""

    algorithm: Literal["dqn", "ppo", "a2c"] = "ppo"
    """Which of SB3's algorithms."""
    gamma: float = 0.99
    """Discount of one step, in [0, 1]."""
    batch_size: int = 0
    """dqn, ppo: transitions per gradient step; 0: 32 for dqn, 64 for ppo."""
    n_steps: int = 0
    """Steps per environment and rollout, for dqn of the return; 0: 1 dqn, 2048 ppo, 5 a2c."""
    max_grad_norm: float = -1.0
    """Largest norm of the gradient; -1: 10 for dqn, 0.5 for the others."""
    net_arch: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers; for images behind the 512 features of the convolutions."""
    activation_fn: str = "auto"
    """Nonlinearity of the hidden layers; auto: relu for dqn, tanh for the others."""
    schedule: Literal["constant", "linear"] = "constant"
    """Learning rate over the run: constant, or falling linearly to 0."""
    normalize_obs: bool = False
    """Centre and scale observations by running statistics (SB3's VecNormalize)."""
    normalize_reward: bool = False
    """Scale rewards by running statistics (SB3's VecNormalize)."""
    clip_rewards: bool = False
    """Learn from rewards clipped to [-1, 1] (scores stay raw)."""
    buffer_size: int = 1_000_000
    """dqn: transitions in the replay memory."""
    learning_starts: int = 100
    """dqn: environment steps with random actions before learning."""
    train_freq: int = 4
    """dqn: steps of the vector environment between learning phases."""
    gradient_steps: int = 1
    """dqn: gradient steps per learning phase."""
    tau: float = 1.0
    """dqn: share of the online network that the target takes in per update."""
    target_update_interval: int = 10_000
    """dqn: environment steps between updates of the target."""
    exploration_fraction: float = 0.1
    """dqn: share of the run over which exploration falls linearly."""
    exploration_initial_eps: float = 1.0
    """dqn: probability of a random action at the beginning."""
    exploration_final_eps: float = 0.05
    """dqn: probability of a random action at the end."""
    gae_lambda: float = -1.0
    """ppo, a2c: trace decay of the advantage estimate; -1: 0.95 for ppo, 1 for a2c."""
    ent_coef: float = 0.0
    """ppo, a2c: weight of the entropy bonus."""
    vf_coef: float = 0.5
    """ppo, a2c: weight of the value loss."""
    normalize_advantage: Literal["auto", "on", "off"] = "auto"
    """ppo, a2c: centre and scale advantages; auto: on for ppo, off for a2c."""
    n_epochs: int = 10
    """ppo: passes over each rollout."""
    clip_range: float = 0.2
    """ppo: largest change of the probability ratio that is rewarded."""
    clip_range_vf: float = 0.0
    """ppo: largest change of the value that is rewarded; 0: no clipping."""
    clip_schedule: Literal["constant", "linear"] = "constant"
    """ppo: policy clip over the run: constant, or falling linearly to 0."""
    target_kl: float = 0.0
    """ppo: stop the epochs when the policy has moved this far (times 1.5); 0 never stops."""
    import_zip: str = ""
    """Start from the parameters in a zip that SB3 saved; nothing in it is executed."""

    def __post_init__(self) -> None:
        for name in ("buffer_size", "train_freq", "gradient_steps", "n_epochs"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)}: must be ≥ 1")
        require(self.target_update_interval >= 1, "target_update_interval: must be ≥ 1")
        for name in ("batch_size", "n_steps", "learning_starts"):
            require(getattr(self, name) >= 0, f"{name}={getattr(self, name)}: must be ≥ 0")
        for name in ("ent_coef", "vf_coef", "clip_range_vf", "target_kl"):
            require(getattr(self, name) >= 0, f"{name}={getattr(self, name)}: must be ≥ 0")
        for name in (
            "gamma",
            "tau",
            "exploration_fraction",
            "exploration_initial_eps",
            "exploration_final_eps",
        ):
            value = getattr(self, name)
            require(0 <= value <= 1, f"{name}={value}: must be in [0, 1]")
        require(
            self.gae_lambda == -1 or 0 <= self.gae_lambda <= 1,
            f"gae_lambda={self.gae_lambda}: must be in [0, 1], or -1 for SB3's default",
        )
        require(
            self.max_grad_norm == -1 or self.max_grad_norm > 0,
            f"max_grad_norm={self.max_grad_norm}: must be > 0, or -1 for SB3's default",
        )
        require(self.clip_range > 0, f"clip_range={self.clip_range}: must be > 0")
        if self.activation_fn not in ("auto", *ACTIVATIONS):
            unknown("activation_fn", self.activation_fn, ("auto", *ACTIVATIONS))
        require(all(n >= 1 for n in self.net_arch), f"net_arch={self.net_arch}: must be ≥ 1")


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
        scale = _scale(config.schedule)
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


def arguments(config: Config) -> dict[str, Any]:
    """Keyword arguments of SB3's class, all but environment, learning rate and optimizer."""
    network: dict[str, Any] = {"net_arch": list(config.net_arch)}
    if config.activation_fn != "auto":
        network["activation_fn"] = ACTIVATIONS[config.activation_fn]
    chosen: dict[str, Any] = {"gamma": config.gamma, "policy_kwargs": network}
    if config.n_steps > 0:
        chosen["n_steps"] = config.n_steps
    if config.max_grad_norm > 0:
        chosen["max_grad_norm"] = config.max_grad_norm
    if config.batch_size > 0 and config.algorithm != "a2c":
        chosen["batch_size"] = config.batch_size
    names = _DQN_FIELDS if config.algorithm == "dqn" else ("ent_coef", "vf_coef")
    chosen |= {name: getattr(config, name) for name in names}
    if config.algorithm != "dqn":
        if config.gae_lambda >= 0:
            chosen["gae_lambda"] = config.gae_lambda
        if config.normalize_advantage != "auto":
            chosen["normalize_advantage"] = config.normalize_advantage == "on"
    if config.algorithm == "ppo":
        scale = _scale(config.clip_schedule)
        chosen |= {
            "n_epochs": config.n_epochs,
            "clip_range": lambda remaining: config.clip_range * scale(remaining),
            "clip_range_vf": config.clip_range_vf or None,
            "target_kl": config.target_kl or None,
        }
    return chosen


_DQN_FIELDS = (
    "buffer_size",
    "learning_starts",
    "train_freq",
    "gradient_steps",
    "tau",
    "target_update_interval",
    "exploration_fraction",
    "exploration_initial_eps",
    "exploration_final_eps",
)


def _scale(schedule: str) -> Callable[[float], float]:
    """Factor by the remaining share of the run, never negative in the last, overlong rollout."""
    return (lambda remaining: max(0.0, remaining)) if schedule == "linear" else lambda _: 1.0


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
