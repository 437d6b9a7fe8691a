"""Path consistency learning (Nachum et al. 2017, arXiv:1702.08892).

With an entropy bonus of temperature τ the optimal values and the optimal policy satisfy, along
every path of d steps whatever policy took them,

    V(s₀) = Σ_j γʲ (r_j - τ log π(a_j | s_j)) + γᵈ V(s_d)

in expectation over transitions; exactly, where these are deterministic. The squared difference of
both sides is the loss of value and policy together, on paths drawn from a memory. `unified` has
one network for both: V = τ log Σ_a exp(Q / τ) and π ∝ exp(Q / τ), over the legal actions; with
paths of one step that is soft Q-learning's residual.

Old paths need no correction. There is none for stochastic transitions either: there the loss is
biased, as in residual-gradient methods.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from semigradient.errors import UserError, require
from semigradient.nets import ACTIVATIONS
from semigradient.training.actor_critic import actor_critic, check
from semigradient.training.agent import (
    AgentContext,
    LearningRate,
    Policy,
    generator,
)
from semigradient.training.compiling import maybe_compile
from semigradient.training.gradients import clip_gradients
from semigradient.training.ring import Ring
from semigradient.training.stepping import EnvStepper


@dataclass(frozen=True)
class Config:
    """Hyperparameters; temperature and discount are those of a finite task of its own scale."""

    temperature: float = 1.0
    """τ, weight of the entropy against the reward."""
    gamma: float = 1.0
    """Discount of one step, in [0, 1]."""
    path_length: int = 10
    """d, steps of a path; one that reaches the end of its episode is shorter."""
    unified: bool = False
    """One network of action values instead of one for values and one for the policy."""
    rollout_steps: int = 1
    """Steps per environment between phases of learning."""
    gradient_steps: int = 1
    """Gradient steps per phase."""
    batch_size: int = 64
    """Paths per gradient step."""
    buffer_size: int = 10_000
    """Steps in the memory, all environments together."""
    learning_starts: int = 1_000
    """Environment steps before learning."""
    max_grad_norm: float = 10.0
    """Largest norm of the gradient; 0: no clipping."""
    schedule: Literal["constant", "linear"] = "constant"
    """Learning rate over the run: constant, or falling linearly to 0."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of policy and value."""
    activation: str = "tanh"
    """Nonlinearity of the hidden layers."""
    torso: str = "auto"
    """Network: chosen by the observation space (auto), or a registered one, such as coconet."""
    torso_width: int = 32
    """Channels or units per layer of a registered network."""
    torso_depth: int = 2
    """Layers of a registered network (of coconet: beyond six)."""
    torso_weights: str = ""
    """Run folder to take a registered network's weights from."""

    def __post_init__(self) -> None:
        require(self.temperature > 0, f"temperature={self.temperature}: must be > 0")
        require(0 <= self.gamma <= 1, f"gamma={self.gamma}: must be in [0, 1]")
        for name in ("path_length", "rollout_steps", "gradient_steps", "batch_size"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)}: must be ≥ 1")
        require(
            self.buffer_size > self.path_length,
            f"buffer_size={self.buffer_size}: must be > path_length={self.path_length}",
        )
        require(self.learning_starts >= 0, f"learning_starts={self.learning_starts}: must be ≥ 0")
        require(self.max_grad_norm >= 0, f"max_grad_norm={self.max_grad_norm}: must be ≥ 0")
        require(min(self.hidden, default=1) >= 1, f"hidden={self.hidden}: widths must be ≥ 1")
        require(
            self.activation in ACTIVATIONS,
            f"activation={self.activation!r}: accepted are {', '.join(ACTIVATIONS)}",
        )
        check(self)


class Paths(NamedTuple):
    """m paths of up to d steps, and the state behind each."""

    obs: Tensor  # (d + 1, m, *observation)
    mask: Tensor | None  # (d + 1, m, A) bool
    action: Tensor  # (d + 1, m) int64
    reward: Tensor  # (d + 1, m)
    terminated: Tensor  # (d + 1, m) bool
    truncated: Tensor  # (d + 1, m) bool


def inconsistency(
    value: Tensor,
    log_prob: Tensor,
    reward: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float,
    temperature: float,
) -> Tensor:
    """Difference of the two sides: (m,).

        -V(s₀) + Σ_j γʲ (r_j - τ log π_j) + γᵏ V(s_k)

    over the k ≤ d steps of the path that belong to its first episode; V is 0 behind a termination.
    What follows a truncation is not in the rows, so a path ends before it.

    Args:
        value: V(s_j), (d + 1, m).
        log_prob: log π(a_j | s_j), (d + 1, m), of which the last row is not used; so with the rest.
        reward: (d + 1, m).
        terminated: (d + 1, m) bool.
        truncated: (d + 1, m) bool.
        gamma: discount.
        temperature: τ.
    """
    steps = len(value) - 1
    stops = terminated | truncated
    open_ = torch.ones_like(stops)
    open_[1:] = (~stops[:-1]).cumprod(0).bool()  # no end before this row
    on_path = (open_ & ~(truncated & ~terminated))[:steps]
    discount = gamma ** torch.arange(steps + 1, device=value.device, dtype=value.dtype)[:, None]
    gained = (discount[:-1] * (reward - temperature * log_prob)[:steps]).where(on_path, 0.0).sum(0)
    length = on_path.sum(0, keepdim=True)
    over = (on_path & terminated[:steps]).any(0)
    after = (discount * value).gather(0, length).squeeze(0).masked_fill(over, 0.0)
    return gained + after - value[0]


class PathMemory:
    """The last steps of B environments, in order, from which whole paths are drawn.

    Args:
        config: of the agent.
        stepper: whose steps are stored.
        device: of the memory.
    """

    def __init__(self, config: Config, stepper: EnvStepper, device: torch.device) -> None:
        self.device, self.num_envs = device, len(stepper.obs)
        length = max(config.path_length + 1, config.buffer_size // self.num_envs)
        self.ring = Ring(length, self.num_envs, device)
        obs = torch.from_numpy(stepper.obs[:0])
        self.ring.field("obs", obs.shape[1:], obs.dtype)
        self.ring.field("action", (), torch.int64)
        self.ring.field("reward", (), torch.float32)
        self.ring.field("terminated", (), torch.bool)
        self.ring.field("truncated", (), torch.bool)

    def sample(self, count: int, length: int, random: torch.Generator) -> Paths:
        """`count` paths of `length` steps that begin anywhere; the ring needs one row more."""
        ring = self.ring
        starts = ring.size - length
        draw = torch.randint(starts * self.num_envs, (count,), generator=random).to(self.device)
        age = draw // self.num_envs + torch.arange(length + 1, device=self.device)[:, None]
        row = (ring.added - ring.size + age) % ring.length
        index = (row * self.num_envs + draw % self.num_envs).flatten()

        def rows(name: str) -> Tensor:
            return ring.rows(name, index).unflatten(0, (length + 1, count))

        return Paths(
            rows("obs"),
            rows("mask") if "mask" in ring.fields else None,
            rows("action"),
            rows("reward"),
            rows("terminated"),
            rows("truncated"),
        )


class PCL:
    """Acts by its policy in B environments and makes stored paths consistent."""

    STATE = ("network", "optimizer", "memory.ring", "stepper", "acting", "sampling", "updates")
    POLICY = ("network",)

    def __init__(self, config: Config, setup: AgentContext) -> None:
        self.config, self.setup, self.timers = config, setup, setup.timers
        space = setup.envs.single_action_space
        if not isinstance(space, spaces.Discrete) or space.start != 0:
            raise UserError(f"action space {space}: pcl accepts Discrete (from 0)")
        self.network = actor_critic(setup, config)
        self.optimizer = setup.make_optimizer(self.network.parameters())
        self.learning_rate = LearningRate(self.optimizer, config.schedule)
        self.progress = self.stepper = EnvStepper(setup.envs, setup.timers)
        self.memory = PathMemory(config, self.stepper, setup.device)
        self.acting = generator(setup.seed, 1, setup.device)
        self.sampling = generator(setup.seed, 2)
        self.updates = 0
        self._loss = maybe_compile(self._losses, setup.compile)

    def iterate(self) -> Mapping[str, float | Tensor]:
        """A few steps of all environments, then, after `learning_starts`, a few gradient steps."""
        config = self.config
        for _ in range(config.rollout_steps):
            self._collect()
        if (
            self.stepper.steps < config.learning_starts
            or self.memory.ring.size <= config.path_length
        ):
            return {"updates": float(self.updates)}
        rate = self.learning_rate.set(self.stepper.steps, self.setup.total_steps)
        with self.timers("learn"):
            for _ in range(config.gradient_steps):
                paths = self.memory.sample(config.batch_size, config.path_length, self.sampling)
                loss, value, entropy = self._loss(paths)
                self.optimizer.zero_grad()
                loss.backward()
                if config.max_grad_norm > 0:
                    clip_gradients(list(self.network.parameters()), config.max_grad_norm)
                self.optimizer.step()
                self.updates += 1
        return {
            "loss": loss.detach(),
            "value": value,
            "entropy": entropy,
            "updates": float(self.updates),
            "lr": rate,
        }

    def evaluate(self, obs: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Log-probabilities (B, A) of the policy and values (B,) of observations."""
        logits, value = self.network(obs, mask)
        if not self.config.unified:
            return logits.log_softmax(-1), value
        scaled = logits / self.config.temperature
        return scaled.log_softmax(-1), self.config.temperature * scaled.logsumexp(-1)

    def policy(self, deterministic: bool = True) -> Policy:
        """The most probable action, or a sample from a generator of its own."""
        own = generator(self.setup.seed, 3, self.setup.device)

        def act(obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
            return self._act(obs, mask, None if deterministic else own)

        return act

    def _collect(self) -> None:
        obs, mask = self.stepper.obs, self.stepper.mask
        with self.timers("act"):
            action = self._act(obs, mask, self.acting)
        step = self.stepper.step(action)
        with self.timers("store"):
            rows = {"obs": obs, "action": action, "reward": step.reward}
            rows |= {"terminated": step.terminated, "truncated": step.truncated}
            if mask is not None:
                self.memory.ring.masks("mask", mask)
                rows["mask"] = mask
            self.memory.ring.add(**rows)

    @torch.no_grad()
    def _act(
        self, obs: np.ndarray, mask: np.ndarray | None, random: torch.Generator | None
    ) -> np.ndarray:
        device, distribution = self.setup.device, self.network.distribution
        legal = None if mask is None else torch.from_numpy(mask).to(device)
        log_probs, _ = self.evaluate(torch.from_numpy(obs).to(device), legal)
        if random is None:
            return distribution.mode(log_probs).cpu().numpy()
        noise = distribution.noise(log_probs.shape[:1], random)
        return distribution.sample(log_probs, noise).cpu().numpy()

    def _losses(self, paths: Paths) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, mean value and mean entropy, the last two detached: 0-dim."""
        config, shape = self.config, paths.reward.shape
        flat = None if paths.mask is None else paths.mask.flatten(0, 1)
        log_probs, value = self.evaluate(paths.obs.flatten(0, 1), flat)
        log_prob = log_probs.gather(1, paths.action.flatten()[:, None]).view(shape)
        error = inconsistency(
            value.view(shape),
            log_prob,
            paths.reward,
            paths.terminated,
            paths.truncated,
            config.gamma,
            config.temperature,
        )
        entropy = -(log_probs.exp() * log_probs).sum(1).mean()
        return 0.5 * error.square().mean(), value.detach().mean(), entropy.detach()
