"""Synchronous advantage actor-critic: A3C (Mnih et al. 2016, arXiv:1602.01783) without threads.

    L = -E[A log π(a|s)] + c_v E[(V - R)²] - c_e E[H]

one gradient step for each short rollout; A and R are n-step estimates (gae_lambda = 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from semigradient.agents.ppo import normalise
from semigradient.diagnostics.critic import critic_experience
from semigradient.diagnostics.examples import Experience
from semigradient.envs import ExactVector
from semigradient.errors import require
from semigradient.nets import ACTIVATIONS
from semigradient.optim.temporal_difference import TemporalDifference
from semigradient.training.actor_critic import actor_critic, check
from semigradient.training.agent import AgentContext, LearningRate
from semigradient.training.collector import Collector, Preprocessing
from semigradient.training.compiling import maybe_compile
from semigradient.training.corrections import critic_difference, show, warn_of_limits
from semigradient.training.gradients import clip_factor, descend
from semigradient.training.returns import gae


@dataclass(frozen=True)
class Config:
    """Hyperparameters; the defaults are those of Mnih et al. 2016 (Atari, feed-forward)."""

    rollout_steps: int = 5
    """Steps per environment and gradient step."""
    gamma: float = 0.99
    """Discount of one step, in [0, 1]."""
    gae_lambda: float = 1.0
    """Trace decay of the advantage estimate, in [0, 1]; 1 is the n-step return."""
    entropy_coefficient: float = 0.01
    """Weight of the entropy bonus."""
    value_coefficient: float = 0.5
    """Weight of the squared value error."""
    max_grad_norm: float = 0.5
    """Largest norm of the gradient; 0: no clipping."""
    normalise_advantages: bool = False
    """Centre and scale advantages in each batch."""
    schedule: Literal["constant", "linear"] = "linear"
    """Learning rate over the run: constant, or falling linearly to 0."""
    normalise_observations: bool = False
    """Centre and scale observations by running statistics."""
    normalise_rewards: bool = False
    """Scale rewards by the running standard deviation of the discounted return."""
    clip_rewards: bool = False
    """Learn from rewards clipped to [-1, 1] (scores stay raw)."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of policy and value (vector observations)."""
    activation: str = "tanh"
    """Nonlinearity of the hidden layers."""
    log_std_init: float = 0.0
    """Initial log standard deviation of continuous actions."""
    torso: str = "auto"
    """Network: chosen by the observation space (auto), or a registered one, such as coconet."""
    torso_width: int = 32
    """Channels or units per layer of a registered network."""
    torso_depth: int = 2
    """Layers of a registered network (of coconet: beyond six)."""
    torso_weights: str = ""
    """Run folder to take a registered network's weights from."""

    def __post_init__(self) -> None:
        require(self.rollout_steps >= 1, f"rollout_steps={self.rollout_steps}: must be ≥ 1")
        for name in ("gamma", "gae_lambda"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"{name}={value}: must be in [0, 1]")
        for name in ("entropy_coefficient", "value_coefficient", "max_grad_norm"):
            value = getattr(self, name)
            require(value >= 0, f"{name}={value}: must be ≥ 0")
        require(min(self.hidden, default=1) >= 1, f"hidden={self.hidden}: widths must be ≥ 1")
        require(
            self.activation in ACTIVATIONS,
            f"activation={self.activation!r}: accepted are {', '.join(ACTIVATIONS)}",
        )
        check(self)


def actor_critic_loss(
    log_prob: Tensor,
    entropy: Tensor,
    value: Tensor,
    advantage: Tensor,
    return_: Tensor,
    config: Config,
) -> tuple[Tensor, Tensor, Tensor]:
    """Total, policy and value loss of (…, m) samples, (…) each; advantages are constants."""
    policy_loss = -(advantage * log_prob).mean(-1)
    value_loss = (value - return_).square().mean(-1)
    loss = policy_loss + config.value_coefficient * value_loss
    return loss - config.entropy_coefficient * entropy.mean(-1), policy_loss, value_loss


class A2C:
    """Alternates short rollouts of B environments and single gradient steps."""

    STATE = ("network", "optimizer", "collector")
    POLICY = ("network", "collector")

    def __init__(self, config: Config, setup: AgentContext) -> None:
        self.config, self.setup, self.timers = config, setup, setup.timers
        samples = config.rollout_steps * setup.envs.num_envs
        require(
            samples > 1 or not config.normalise_advantages,
            "rollout_steps × num_envs = 1: normalise_advantages needs at least 2",
        )
        self.network = actor_critic(setup, config, config.log_std_init)
        self.optimizer = setup.make_optimizer(self.network.parameters(), temporal_differences=True)
        if setup.learning:
            warn_of_limits(self.optimizer)
        preprocessing = Preprocessing(
            config.normalise_observations,
            config.normalise_rewards,
            config.clip_rewards,
            config.gamma,
        )
        self.collector = Collector(self.network, setup, config.rollout_steps, preprocessing)
        self.learning_rate = LearningRate(self.optimizer, config.schedule)
        self.bind()

    def bind(self) -> None:
        """Join the parts that this agent has now; those of a stack take K runs at once."""
        self.learning_rate = self.learning_rate.of(self.optimizer)
        self.progress, self.policy, self._parameters = self.collector.joined(self.network)
        self._loss = maybe_compile(self._losses, self.setup.compile)

    def iterate(self) -> Mapping[str, float | Tensor]:
        """Collect one rollout and take one gradient step."""
        config = self.config
        rate = self.learning_rate.set(self.progress.steps, self.setup.total_steps)
        rollout = self.collector.collect()
        with self.timers("learn"):
            advantage, return_ = gae(
                rollout["reward"],
                rollout["terminated"],
                rollout["truncated"],
                rollout["value"],
                rollout["next_value"],
                config.gamma,
                config.gae_lambda,
            )
            mask = rollout.flat("mask") if "mask" in rollout else None
            loss, policy_loss, value_loss, entropy = self._loss(
                rollout.flat("obs"),
                mask,
                rollout.flat("action"),
                rollout.flattened(advantage),
                rollout.flattened(return_),
            )
            self.optimizer.zero_grad()
            norm = descend(loss, self._parameters, config.max_grad_norm)
            show(self.optimizer, lambda: [self._critic(rollout.flat("obs"), return_, norm)])
            self.optimizer.step()
        return {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "lr": rate,
        }

    def _critic(self, obs: Tensor, return_: Tensor, norm: Tensor) -> TemporalDifference:
        """The critic's part of the loss, whose gradient was clipped at a norm."""
        config, flat = self.config, return_.flatten()
        weight = 2 * config.value_coefficient * clip_factor(norm, config.max_grad_norm)
        return critic_difference(self.network, obs, flat, weight.expand_as(flat))

    def _losses(
        self, obs: Tensor, mask: Tensor | None, action: Tensor, advantage: Tensor, return_: Tensor
    ) -> tuple[Tensor, ...]:
        """Total loss, then policy loss, value loss and entropy, detached."""
        if self.config.normalise_advantages:
            advantage = normalise(advantage)
        parameters, value = self.network(obs, mask)
        log_prob, entropy = self.network.distribution.log_prob_entropy(parameters, action)
        loss, policy_loss, value_loss = actor_critic_loss(
            log_prob, entropy, value, advantage, return_, self.config
        )
        return loss, policy_loss.detach(), value_loss.detach(), entropy.mean(-1).detach()

    def experience(
        self, envs: ExactVector | None = None, steps: int = 0, seed: int = 0
    ) -> Experience:
        """For observers: the critic on the last rollout, or on `steps` instants in `envs`."""
        return critic_experience(
            self, self.collector.length * self.setup.envs.num_envs, envs, steps, seed
        )
