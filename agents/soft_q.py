"""Soft Q-learning and soft actor-critic for discrete actions: reward and entropy in one return.

    Q(s, a) → r + γ V(s'),    V(s') = E_π[min_i Q̄_i(s', ·) - α log π],    π ∝ exp(Q / α)

With π the softmax itself V is α log Σ exp(Q̄ / α), which is soft Q-learning (Haarnoja et al. 2017,
"Reinforcement learning with deep energy-based policies"). With a network for π, and α adjusted
until the entropy is a given share of its maximum, it is soft actor-critic (Haarnoja et al. 2018;
Christodoulou 2019, arXiv:1910.07207, algorithm 1). Actor and temperature learn at the sampled
state s. Illegal actions have probability 0 and no part in V.

The sum over actions is exact, so only transitions are sampled.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from semigradient.errors import UserError, require
from semigradient.nets import ACTIVATIONS
from semigradient.nets.bricks import tower
from semigradient.optim.temporal_difference import TemporalDifference
from semigradient.training.agent import (
    AgentContext,
    LearningRate,
    Policy,
    generator,
)
from semigradient.training.corrections import show, warn_of_limits
from semigradient.training.gradients import clip_factor, clip_gradients
from semigradient.training.replay import Batch, Replay
from semigradient.training.returns import td_target
from semigradient.training.stepping import EnvStepper
from semigradient.training.targets import move_towards

_ILLEGAL = -1e9  # finite, so that p log p of an illegal action is 0 and not NaN


@dataclass(frozen=True)
class Config:
    """Hyperparameters; the defaults are those of Christodoulou 2019 where they fit vectors."""

    gamma: float = 0.99
    """Discount of one step, in [0, 1]."""
    temperature: float = 1.0
    """α, weight of the entropy against the reward; its initial value if entropy_share > 0."""
    entropy_share: float = 0.0
    """Adjust α until the entropy is this share of log(legal actions), in [0, 1); 0 keeps α."""
    actor: Literal["softmax", "network"] = "softmax"
    """The policy: the softmax of the values, or a network that follows it."""
    twins: bool = True
    """Bootstrap from the smaller of two estimates."""
    target_rate: float = 0.005
    """Share of the online network that the averaged target takes in per gradient step."""
    buffer_size: int = 1_000_000
    """Transitions in the replay memory."""
    batch_size: int = 64
    """Transitions per gradient step."""
    learning_starts: int = 1000
    """Environment steps before learning; their actions are uniform."""
    train_every: int = 4
    """Environment steps between learning phases (at least one step of all environments)."""
    gradient_steps: int = 1
    """Gradient steps per learning phase."""
    schedule: Literal["constant", "linear"] = "constant"
    """Learning rate over the run: constant, or falling linearly to 0."""
    max_grad_norm: float = 0.0
    """Largest norm of the gradient; 0: no clipping."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers."""
    activation: str = "relu"
    """Nonlinearity of the hidden layers."""

    def __post_init__(self) -> None:
        require(0 <= self.gamma <= 1, f"gamma={self.gamma}: must be in [0, 1]")
        is_valid = 0 < self.temperature < math.inf
        require(is_valid, f"temperature={self.temperature}: must be positive and finite")
        share = self.entropy_share
        require(0 <= share < 1, f"entropy_share={share}: must be in [0, 1)")
        require(0 < self.target_rate <= 1, f"target_rate={self.target_rate}: must be in (0, 1]")
        for name in ("batch_size", "train_every", "gradient_steps"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)}: must be ≥ 1")
        size = self.buffer_size
        require(size >= self.batch_size, f"buffer_size={size}: must be ≥ batch_size")
        require(self.learning_starts >= 0, f"learning_starts={self.learning_starts}: must be ≥ 0")
        require(self.max_grad_norm >= 0, f"max_grad_norm={self.max_grad_norm}: must be ≥ 0")
        require(min(self.hidden, default=1) >= 1, f"hidden={self.hidden}: widths must be ≥ 1")
        kinds = get_args(Literal["softmax", "network"])
        require(self.actor in kinds, f"actor={self.actor!r}: accepted are {', '.join(kinds)}")
        require(
            self.activation in ACTIVATIONS,
            f"activation={self.activation!r}: accepted are {', '.join(ACTIVATIONS)}",
        )


def soft_value(values: Tensor, log_policy: Tensor, temperature: Tensor) -> Tensor:
    """V = Σ π (Q - α log π): (m, A), (m, A), 0-dim → (m,); illegal actions have π = 0."""
    return (log_policy.exp() * (values - temperature * log_policy)).sum(1)


def log_softmax(preferences: Tensor, legal: Tensor | None) -> Tensor:
    """Log π (m, A) of preferences, over legal actions."""
    if legal is not None:
        preferences = preferences.masked_fill(~legal, _ILLEGAL)
    return preferences.log_softmax(1)


def q_loss(values: Tensor, action: Tensor, target: Tensor) -> Tensor:
    """½ (Q(s, a) - y)², mean over (m, A) values, (m,) actions and (m,) constant targets: 0-dim."""
    chosen = values.gather(1, action[:, None]).squeeze(1)
    return 0.5 * (chosen - target).square().mean()


def actor_loss(values: Tensor, log_policy: Tensor, temperature: Tensor) -> Tensor:
    """KL(π ‖ softmax(Q / α)) times α, up to a constant, (m, A) each → (m,); Q and α are fixed."""
    return -soft_value(values.detach(), log_policy, temperature.detach())


def temperature_loss(log_temperature: Tensor, entropy: Tensor, target: Tensor) -> Tensor:
    """Its gradient raises log α where the entropy (m,) is below the target (m,): (m,)."""
    return log_temperature * (entropy - target).detach()


class SoftQ:
    """Samples its soft policy in B environments and learns from replayed transitions."""

    STATE = (
        "networks",
        "log_temperature",
        "targets",
        "optimizer",
        "memory",
        "stepper",
        "acting",
        "sampling",
        "updates",
        "_phases",
    )
    POLICY = ("networks", "log_temperature")

    def __init__(self, config: Config, setup: AgentContext) -> None:
        self.config, self.setup, self.timers = config, setup, setup.timers
        envs = setup.envs
        action = envs.single_action_space
        if not isinstance(action, spaces.Discrete) or action.start != 0:
            raise UserError(f"action space {action}: soft Q-learning accepts Discrete (from 0)")
        self.actions = int(action.n)
        self.progress = self.stepper = EnvStepper(envs, setup.timers)
        self.networks = nn.ModuleDict(self._towers(envs.single_observation_space))
        self.networks.to(setup.device)
        self.targets = copy.deepcopy(self._critics()).requires_grad_(False)
        start = math.log(config.temperature)
        self.log_temperature = nn.Parameter(torch.tensor(start, device=setup.device))
        self._learned = [*self.networks.parameters(), self.log_temperature]
        self.optimizer = setup.make_optimizer(self._learned, temporal_differences=True)
        if setup.learning:
            warn_of_limits(self.optimizer, frozen=True)
        self.learning_rate = LearningRate(self.optimizer, config.schedule)
        count = envs.num_envs
        capacity = config.buffer_size if setup.learning else count
        space = envs.single_observation_space
        self.memory = Replay(capacity, count, space, action, setup.device)
        self.acting, self.sampling = (
            generator(setup.seed, 1, setup.device),
            generator(setup.seed, 2),
        )
        self.updates, self._phases = 0, 0

    def iterate(self) -> Mapping[str, float | Tensor]:
        """One step of all environments, then the phases of learning that are due."""
        self._collect()
        config, scalars = self.config, {}
        due = self.stepper.steps // config.train_every
        if self.stepper.steps > config.learning_starts:
            rate = self.learning_rate.set(self.stepper.steps, self.setup.total_steps)
            with self.timers("learn"):
                for _ in range((due - self._phases) * config.gradient_steps):
                    batch = self.memory.sample(config.batch_size, self.sampling, config.gamma)
                    scalars = self._learn(batch)
            scalars |= {"updates": float(self.updates), "lr": rate}
        self._phases = due
        return {**scalars, "temperature": self.log_temperature.detach().exp()}

    def policy(self, deterministic: bool = True) -> Policy:
        """The most probable action, or a sample from a generator of its own."""
        own = generator(self.setup.seed, 3, self.setup.device)

        def act(obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
            log_policy = self.log_policy(obs, mask)
            if deterministic:
                return log_policy.argmax(1).cpu().numpy()
            return torch.multinomial(log_policy.exp(), 1, generator=own)[:, 0].cpu().numpy()

        return act

    @torch.no_grad()
    def log_policy(self, obs: np.ndarray, mask: np.ndarray | None = None) -> Tensor:
        """Log π (B, A) at observations (B, *observation)."""
        device = self.setup.device
        legal = None if mask is None else torch.from_numpy(mask).to(device)
        return self._log_policy(torch.from_numpy(obs).to(device), legal)

    def _collect(self) -> None:
        stepper = self.stepper
        obs, mask = stepper.obs, stepper.mask
        with self.timers("act"):
            if self.stepper.steps < self.config.learning_starts:
                legal = np.ones((len(obs), self.actions)) if mask is None else mask
                weights = torch.from_numpy(np.asarray(legal, np.float32)).to(self.setup.device)
            else:
                weights = self.log_policy(obs, mask).exp()
            drawn = torch.multinomial(weights, 1, generator=self.acting)
            actions = drawn[:, 0].cpu().numpy()
        step = stepper.step(actions)
        with self.timers("store"):
            ended = (step.terminated, step.truncated)
            self.memory.add(obs, actions, step.reward, *ended, step.next_obs, step.next_mask, mask)

    def _learn(self, batch: Batch) -> dict[str, float | Tensor]:
        """One gradient step of critics, actor and temperature, all from the same parameters."""
        config = self.config
        alpha = self.log_temperature.detach().exp()
        target = self._target(batch, alpha)
        estimates = [critic(batch.obs) for critic in self._critics()]
        critic_loss = sum((q_loss(q, batch.action, target) for q in estimates), alpha * 0)
        here = _smallest(estimates).detach()
        log_policy = self._log_policy(batch.obs, batch.mask, here)
        entropy = -(log_policy.exp() * log_policy).sum(1)
        loss = critic_loss
        if config.actor == "network":
            loss = loss + actor_loss(here, log_policy, alpha).mean()
        if config.entropy_share > 0:
            wanted = config.entropy_share * self._most_entropy(batch)
            loss = loss + temperature_loss(self.log_temperature, entropy, wanted).mean()
        self.optimizer.zero_grad()
        loss.backward()
        limit = config.max_grad_norm
        norm = clip_gradients(self._learned, limit) if limit > 0 else loss.new_zeros(())
        show(self.optimizer, lambda: self._shown(batch, target, norm))
        self.optimizer.step()
        move_towards(self.targets, self._critics(), config.target_rate)
        self.updates += 1
        mean_entropy = entropy.detach().mean()
        return {"loss": critic_loss.detach(), "value": target.mean(), "entropy": mean_entropy}

    def _shown(self, batch: Batch, target: Tensor, norm: Tensor) -> list[TemporalDifference]:
        """Each critic's regression, with fixed targets; actor and temperature have none.

        `norm` is that of the gradient, before it was clipped.
        """
        weight = clip_factor(norm, self.config.max_grad_norm).expand_as(target)
        samples = {"obs": batch.obs, "action": batch.action}
        return [
            TemporalDifference(
                critic,
                samples,
                lambda call, s: call(s["obs"]).gather(0, s["action"]),
                target=target,
                weight=weight,
            )
            for critic in self._critics()
        ]

    @torch.no_grad()
    def _target(self, batch: Batch, alpha: Tensor) -> Tensor:
        """R + γ (1 - terminated) V(s') (m,), V under the present policy at s'."""
        ahead = self._smaller(self.targets, batch.next_obs)
        following = self._log_policy(batch.next_obs, batch.next_mask, ahead)
        return td_target(batch.reward, batch.discount, soft_value(ahead, following, alpha))

    def _most_entropy(self, batch: Batch) -> Tensor:
        """Log of the number of legal actions (m,)."""
        if batch.mask is None:
            return torch.full_like(batch.reward, math.log(self.actions))
        return batch.mask.sum(1).clamp(min=1).log()

    def _log_policy(
        self, obs: Tensor, legal: Tensor | None, values: Tensor | None = None
    ) -> Tensor:
        """Log π (m, A); `values` (m, A) replace the critics' in the softmax."""
        if self.config.actor == "network":
            return log_softmax(self.networks["actor"](obs), legal)
        if values is None:
            values = self._smaller(self._critics(), obs)
        return log_softmax(values / self.log_temperature.detach().exp(), legal)

    def _critics(self) -> nn.ModuleList:
        critics = self.networks["critics"]
        assert isinstance(critics, nn.ModuleList)
        return critics

    def _smaller(self, critics: nn.ModuleList, obs: Tensor) -> Tensor:
        """The smallest of the estimates (m, A)."""
        return _smallest([critic(obs) for critic in critics])

    def _towers(self, space: spaces.Box) -> dict[str, nn.Module]:
        config = self.config

        def one() -> nn.Module:
            return tower(space, self.actions, config.hidden, config.activation)

        towers: dict[str, nn.Module] = {
            "critics": nn.ModuleList(one() for _ in range(1 + config.twins))
        }
        if config.actor == "network":
            towers["actor"] = one()
        return towers


def _smallest(estimates: list[Tensor]) -> Tensor:
    """The smaller of one or two estimates (m, A)."""
    return estimates[0] if len(estimates) == 1 else torch.minimum(*estimates)
