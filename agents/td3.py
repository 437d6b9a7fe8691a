"""Twin delayed deep deterministic policy gradients.

    ã = clip(π̄(s') + clip(σ̃ ε, -c, c), -1, 1),    y = r + γ (1 - terminated) min_i Q̄_i(s', ã)

Both critics descend (Q_i(s, a) - y)²; at every d-th of these steps π ascends Q₁(s, π(s)), and the
target networks move. S. Fujimoto, H. van Hoof and D. Meger 2018, "Addressing function
approximation error in actor-critic methods" (arXiv:1802.09477), algorithm 1.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from semigradient.errors import require
from semigradient.nets import mlp
from semigradient.nets.twin_critic import TwinCritic
from semigradient.training.agent import (
    AgentContext,
    LearningRate,
    Policy,
    generator,
)
from semigradient.training.compiling import maybe_compile
from semigradient.training.off_policy import OffPolicyCollector, OffPolicyConfig, descend
from semigradient.training.replay import Batch
from semigradient.training.returns import td_target
from semigradient.training.targets import move_towards


@dataclass(frozen=True)
class Config(OffPolicyConfig):
    """Hyperparameters; the defaults are those of Fujimoto et al. 2018."""

    batch_size: int = 100
    """Transitions per gradient step."""
    hidden: tuple[int, ...] = (400, 300)
    """Widths of the hidden layers of every network."""
    policy_delay: int = 2
    """Gradient steps of the critics between those of the policy and of the targets, d."""
    exploration_noise: float = 0.1
    """Standard deviation of the noise on actions, in half ranges of the action space."""
    target_noise: float = 0.2
    """Standard deviation of the noise on the target policy's actions, σ̃, in half ranges."""
    target_noise_clip: float = 0.5
    """Largest size of that noise, c, in half ranges."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.policy_delay >= 1, f"policy_delay={self.policy_delay}: must be ≥ 1")
        for name in ("exploration_noise", "target_noise", "target_noise_clip"):
            require(getattr(self, name) >= 0, f"{name}={getattr(self, name)}: must be ≥ 0")


def smoothed(action: Tensor, noise: Tensor, scale: float, limit: float) -> Tensor:
    """Target policy smoothing, eq. 14: actions (m, K) with clipped noise, within [-1, 1].

    Args:
        action: (m, K) of the target policy.
        noise: (m, K) standard normal.
        scale: its standard deviation, σ̃.
        limit: its largest size, c.
    """
    return (action + (scale * noise).clamp(-limit, limit)).clamp(-1, 1)


def clipped_double_q(reward: Tensor, discount: Tensor, values: Tensor) -> Tensor:
    """The target y (m,) of two critics' values (2, m) at the successor, eq. 10."""
    return td_target(reward, discount, torch.minimum(*values.unbind(0)))


def critic_loss(values: Tensor, target: Tensor) -> Tensor:
    """Mean squared errors of both critics' values (2, m), added: 0-dim."""
    return (values - target).square().mean(1).sum()


class TD3:
    """Explores B environments with noise and learns from replayed transitions."""

    STATE = (
        "actor",
        "critics",
        "target_actor",
        "target_critics",
        "optimizers",
        "collector",
        "smoothing",
        "updates",
    )
    POLICY = ("actor",)

    def __init__(self, config: Config, setup: AgentContext) -> None:
        self.config, self.setup, self.timers = config, setup, setup.timers
        self.collector = OffPolicyCollector(config, setup)
        self.progress = self.collector.stepper
        inputs, outputs = self.collector.inputs, self.collector.actions.dimensions
        layers = mlp((inputs, *config.hidden, outputs), config.activation)
        critics = TwinCritic(inputs + outputs, config.hidden, config.activation)
        self.actor = nn.Sequential(layers, nn.Tanh()).to(setup.device)
        self.critics = critics.to(setup.device)
        self.target_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self._learned = {
            "critics": list(self.critics.parameters()),
            "actor": list(self.actor.parameters()),
        }
        self.optimizers = {name: setup.make_optimizer(p) for name, p in self._learned.items()}
        self.rates = [LearningRate(each, config.schedule) for each in self.optimizers.values()]
        self.smoothing = generator(setup.seed, 4, setup.device)
        self.updates = 0
        self._critic_loss = maybe_compile(self._critic_loss_and_value, setup.compile)
        self._actor_loss = maybe_compile(self._negative_value, setup.compile)

    def iterate(self) -> Mapping[str, float | Tensor]:
        """Act until learning is due, then learn."""
        self.collector.collect(lambda obs: self._explore(obs, self.collector.acting))
        for rate in self.rates:
            lr = rate.set(self.progress.steps, self.setup.total_steps)
        scalars: dict[str, float | Tensor] = {}
        with self.timers("learn"):
            for batch in self.collector.minibatches():
                loss, value = self._learn(batch)
                scalars = {"loss": loss, "value": value, "updates": float(self.updates), "lr": lr}
        return scalars

    def policy(self, deterministic: bool = True) -> Policy:
        """The policy, or that of exploration with noise of its own."""
        own = generator(self.setup.seed, 3, self.setup.device)
        return self.collector.policy(
            self.actor if deterministic else lambda obs: self._explore(obs, own)
        )

    def _explore(self, obs: Tensor, random: torch.Generator) -> Tensor:
        noise = self.config.exploration_noise * self.collector.noise(len(obs), random)
        return (self.actor(obs) + noise).clamp(-1, 1)

    def _learn(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """One gradient step of the critics, at every d-th also of the policy and the targets."""
        config, noise = self.config, self.collector.noise(len(batch.obs), self.smoothing)
        loss, value = self._critic_loss(batch, noise)
        descend(self.optimizers["critics"], loss, self._learned["critics"])
        self.updates += 1
        if self.updates % config.policy_delay == 0:
            actor_loss = self._actor_loss(batch.obs)
            descend(self.optimizers["actor"], actor_loss, self._learned["actor"])
            move_towards(self.target_actor, self.actor, config.target_rate)
            move_towards(self.target_critics, self.critics, config.target_rate)
        return loss.detach(), value

    def _critic_loss_and_value(self, batch: Batch, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and mean prediction, 0-dim."""
        config = self.config
        with torch.no_grad():
            scale, limit = config.target_noise, config.target_noise_clip
            action = smoothed(self.target_actor(batch.next_obs), noise, scale, limit)
            ahead = self.target_critics(batch.next_obs, action)
            target = clipped_double_q(batch.reward, batch.discount, ahead)
        values = self.critics(batch.obs, batch.action)
        return critic_loss(values, target), values.detach().mean()

    def _negative_value(self, obs: Tensor) -> Tensor:
        """-Q₁(s, π(s)), mean: 0-dim; its descent is the deterministic policy gradient."""
        return -self.critics.first(obs, self.actor(obs)).mean()
