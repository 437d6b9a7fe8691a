"""Hyperparameters that stable-baselines3's algorithms share, and the arguments of its classes.

Each algorithm has a `Config` of its own beside it, with SB3's names and defaults, so that an option
of another algorithm is unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from semigradient.nets.bricks import ACTIVATIONS
from semigradient.validate import Count, NonNegative, Positive, Share, among, check_fields

Schedule = Literal["constant", "linear"]


@dataclass(frozen=True)
class Common:
    """Hyperparameters of every algorithm."""

    gamma: Share = 0.99
    """Discount of one step, in [0, 1]."""
    net_arch: tuple[Count, ...] = (64, 64)
    """Widths of the hidden layers; for images behind the 512 features of the convolutions."""
    activation_fn: Annotated[str, among(ACTIVATIONS)] = "tanh"
    """Nonlinearity of the hidden layers."""
    max_grad_norm: Positive = 0.5
    """Largest norm of the gradient."""
    schedule: Schedule = "constant"
    """Learning rate over the run: constant, or falling linearly to 0."""
    normalize_obs: bool = False
    """Centre and scale observations by running statistics (SB3's VecNormalize)."""
    normalize_reward: bool = False
    """Scale rewards by running statistics (SB3's VecNormalize)."""
    clip_rewards: bool = False
    """Learn from rewards clipped to [-1, 1] (scores stay raw)."""
    import_zip: str = ""
    """Start from the parameters in a zip that SB3 saved; nothing in it is executed."""

    def __post_init__(self) -> None:
        check_fields(self)

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of SB3's class, all but environment, learning rate and optimizer."""
        network: dict[str, Any] = {
            "net_arch": list(self.net_arch),
            "activation_fn": ACTIVATIONS[self.activation_fn],
        }
        return {
            "gamma": self.gamma,
            "max_grad_norm": self.max_grad_norm,
            "policy_kwargs": network,
        }


@dataclass(frozen=True)
class OnPolicy(Common):
    """Hyperparameters of PPO and A2C."""

    n_steps: Count = 5
    """Steps per environment and rollout."""
    gae_lambda: Share = 1.0
    """Trace decay of the advantage estimate."""
    ent_coef: NonNegative = 0.0
    """Weight of the entropy bonus."""
    vf_coef: NonNegative = 0.5
    """Weight of the value loss."""
    normalize_advantage: bool = False
    """Centre and scale advantages."""

    def arguments(self) -> dict[str, Any]:
        """Those of `Common`, and of the rollouts and the loss."""
        return super().arguments() | {
            "n_steps": self.n_steps,
            "gae_lambda": self.gae_lambda,
            "ent_coef": self.ent_coef,
            "vf_coef": self.vf_coef,
            "normalize_advantage": self.normalize_advantage,
        }


def share_left(schedule: Schedule) -> Callable[[float], float]:
    """Factor by the remaining share of the run, never negative in the last, overlong rollout."""
    return (lambda remaining: max(0.0, remaining)) if schedule == "linear" else lambda _: 1.0
