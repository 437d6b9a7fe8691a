"""Soft actor-critic for continuous actions, with an automatic temperature.

    y = r + γ (1 - terminated) (min_i Q̄_i(s', a') - α log π(a'|s')),    a' ~ π(·|s')

Both critics descend ½ (Q_i(s, a) - y)², π descends α log π(a|s) - min_i Q_i(s, a) through the
sampled a, and α moves until the entropy of π is the wanted one. π is a normal distribution that
tanh squashes into [-1, 1]. T. Haarnoja et al. 2018, "Soft actor-critic algorithms and applications"
(arXiv:1812.05905), algorithm 1. For discrete actions: `agents/soft_q.py`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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

_LOG_STD = (-20.0, 2.0)  # bounds of the published code


@dataclass(frozen=True)
class Config(OffPolicyConfig):
    """Hyperparameters; the defaults are those of Haarnoja et al. 2018, table 1."""

    temperature: float = 1.0
    """α, weight of the entropy against the reward; its initial value if it is adjusted."""
    adjust_temperature: bool = True
    """Move α until the policy's entropy is the wanted one; otherwise keep it."""
    entropy_per_dimension: float = -1.0
    """Wanted entropy in nats, per dimension of the actions, which are in [-1, 1]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        is_valid = 0 < self.temperature < math.inf
        require(is_valid, f"temperature={self.temperature}: must be positive and finite")
        wanted = self.entropy_per_dimension
        require(
            -math.inf < wanted <= math.log(2),
            f"entropy_per_dimension={wanted}: must be at most log 2, that of the uniform policy",
        )


def squashed(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Actions and their log-densities under tanh of a normal distribution (appendix C, eq. 26).

    log π(a|s) = Σ_k log N(u_k; μ_k, σ_k) - log(1 - tanh² u_k), with u = μ + σ ε and a = tanh u; the
    second term as 2 (log 2 - u - softplus(-2u)), which does not vanish before it is subtracted.

    Args:
        mean, log_std, noise: (m, K), ε standard normal.

    Returns:
        Actions (m, K) in [-1, 1] and log-densities (m,).
    """
    raw = mean + log_std.exp() * noise
    normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    volume = 2 * (math.log(2) - raw - F.softplus(-2 * raw))
    return raw.tanh(), (normal - volume).sum(1)


def soft_target(
    reward: Tensor, discount: Tensor, values: Tensor, log_prob: Tensor, temperature: Tensor
) -> Tensor:
    """The target y (m,), eq. 5, of two critics' values (2, m) of a' and its log-density (m,)."""
    smaller = torch.minimum(*values.unbind(0))
    return td_target(reward, discount, smaller - temperature * log_prob)


def critic_loss(values: Tensor, target: Tensor) -> Tensor:
    """Half the mean squared errors of both critics' values (2, m), added, eq. 5: 0-dim."""
    return 0.5 * (values - target).square().mean(1).sum()


def actor_loss(values: Tensor, log_prob: Tensor, temperature: Tensor) -> Tensor:
    """Mean of α log π(a|s) - min_i Q_i(s, a), eq. 7, of (2, m) values and (m,): 0-dim."""
    return (temperature * log_prob - torch.minimum(*values.unbind(0))).mean()


def temperature_loss(log_temperature: Tensor, log_prob: Tensor, entropy: float) -> Tensor:
    """Eq. 18 with log α in the place of α, as published code has it: rises α below the entropy."""
    return -log_temperature * (log_prob.detach() + entropy).mean()


class SAC:
    """Samples its policy in B environments and learns from replayed transitions."""

    STATE = (
        "actor",
        "critics",
        "target_critics",
        "log_temperature",
        "optimizers",
        "collector",
        "sampling",
        "updates",
    )
    POLICY = ("actor",)

    def __init__(self, config: Config, setup: AgentContext) -> None:
        self.config, self.setup, self.timers = config, setup, setup.timers
        self.collector = OffPolicyCollector(config, setup)
        self.progress = self.collector.stepper
        device, inputs, outputs = setup.device, self.collector.inputs, self.dimensions
        self.actor = mlp((inputs, *config.hidden, 2 * outputs), config.activation).to(device)
        critics = TwinCritic(inputs + outputs, config.hidden, config.activation)
        self.critics = critics.to(device)
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        start = torch.tensor(math.log(config.temperature), device=device)
        self.log_temperature = nn.Parameter(start, requires_grad=config.adjust_temperature)
        self._learned = {
            "critics": list(self.critics.parameters()),
            "actor": list(self.actor.parameters()),
        }
        if config.adjust_temperature:
            self._learned["temperature"] = [self.log_temperature]
        self.optimizers = {name: setup.make_optimizer(p) for name, p in self._learned.items()}
        self.rates = [LearningRate(each, config.schedule) for each in self.optimizers.values()]
        self.sampling = generator(setup.seed, 4, device)
        self.updates = 0
        self._critic_loss = maybe_compile(self._critic_loss_and_value, setup.compile)
        self._actor_loss = maybe_compile(self._actor_loss_and_log_prob, setup.compile)

    @property
    def dimensions(self) -> int:
        """K, of the actions."""
        return self.collector.actions.dimensions

    def iterate(self) -> Mapping[str, float | Tensor]:
        """Act until learning is due, then learn."""
        self.collector.collect(lambda obs: self._sample(obs, self.collector.acting)[0])
        for rate in self.rates:
            lr = rate.set(self.progress.steps, self.setup.total_steps)
        scalars: dict[str, float | Tensor] = {}
        with self.timers("learn"):
            for batch in self.collector.minibatches():
                scalars = self._learn(batch)
        return {**scalars, "updates": float(self.updates), "lr": lr} if scalars else {}

    def policy(self, deterministic: bool = True) -> Policy:
        """The policy's most probable action before tanh, or a sample."""
        if deterministic:
            return self.collector.policy(lambda obs: self._distribution(obs)[0].tanh())
        own = generator(self.setup.seed, 3, self.setup.device)
        return self.collector.policy(lambda obs: self._sample(obs, own)[0])

    def _distribution(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation (m, K) before tanh."""
        mean, log_std = self.actor(obs).chunk(2, 1)
        return mean, log_std.clamp(*_LOG_STD)

    def _sample(self, obs: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Actions (m, K) and their log-densities (m,)."""
        return squashed(*self._distribution(obs), self.collector.noise(len(obs), random))

    def _learn(self, batch: Batch) -> dict[str, float | Tensor]:
        """One gradient step of critics, policy and temperature; the targets follow."""
        config, count = self.config, len(batch.obs)
        alpha = self.log_temperature.detach().exp()
        noise = (self.collector.noise(count, self.sampling) for _ in range(2))
        loss, value = self._critic_loss(batch, next(noise), alpha)
        descend(self.optimizers["critics"], loss, self._learned["critics"])
        policy_loss, log_prob = self._actor_loss(batch.obs, next(noise), alpha)
        descend(self.optimizers["actor"], policy_loss, self._learned["actor"])
        if config.adjust_temperature:
            wanted = config.entropy_per_dimension * self.dimensions
            excess = temperature_loss(self.log_temperature, log_prob, wanted)
            descend(self.optimizers["temperature"], excess, self._learned["temperature"])
        move_towards(self.target_critics, self.critics, config.target_rate)
        self.updates += 1
        scalars = {"loss": loss.detach(), "value": value, "entropy": -log_prob.mean()}
        return {**scalars, "temperature": alpha}

    def _critic_loss_and_value(
        self, batch: Batch, noise: Tensor, alpha: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Loss and mean prediction, 0-dim."""
        with torch.no_grad():
            action, log_prob = squashed(*self._distribution(batch.next_obs), noise)
            ahead = self.target_critics(batch.next_obs, action)
            target = soft_target(batch.reward, batch.discount, ahead, log_prob, alpha)
        values = self.critics(batch.obs, batch.action)
        return critic_loss(values, target), values.detach().mean()

    def _actor_loss_and_log_prob(
        self, obs: Tensor, noise: Tensor, alpha: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Loss, 0-dim, and the log-densities (m,) of the actions."""
        action, log_prob = squashed(*self._distribution(obs), noise)
        return actor_loss(self.critics(obs, action), log_prob, alpha), log_prob.detach()
