"""Hyperparameters of stable-baselines3's agents, and the arguments of its classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from semigradient.errors import require, unknown
from semigradient.nets.bricks import ACTIVATIONS


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
        scale = share_left(config.clip_schedule)
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


def share_left(schedule: str) -> Callable[[float], float]:
    """Factor by the remaining share of the run, never negative in the last, overlong rollout."""
    return (lambda remaining: max(0.0, remaining)) if schedule == "linear" else lambda _: 1.0
