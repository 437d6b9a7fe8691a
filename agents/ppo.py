"""Proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347).

    L = -E[min(ρ A, clip(ρ, 1-ε, 1+ε) A)] + c_v E[(V - R)²] - c_e E[H],    ρ = π(a|s) / π_old(a|s)

over several epochs of minibatches of one rollout, with advantages A and returns R from
generalised advantage estimation. Details beyond the paper follow its reference implementation:
advantages are normalised per minibatch, initialisation is orthogonal, the learning rate falls.
docs/ppo.md lists every detail and every deviation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from semigradient.diagnostics.critic import critic_experience
from semigradient.diagnostics.examples import Experience
from semigradient.envs import ExactVector
from semigradient.errors import UserError, not_stacked, require
from semigradient.nets import ACTIVATIONS
from semigradient.nets.actor_critic import explained_variance
from semigradient.optim.temporal_difference import TemporalDifference
from semigradient.training.actor_critic import actor_critic, check
from semigradient.training.agent import (
    AgentContext,
    LearningRate,
    generator,
    remaining,
)
from semigradient.training.collector import Collector, Preprocessing
from semigradient.training.compiling import maybe_compile
from semigradient.training.corrections import critic_difference, show, warn_of_limits
from semigradient.training.draws import Generators, Random
from semigradient.training.gradients import clip_factor, descend
from semigradient.training.returns import gae
from semigradient.training.rollout import minibatches, rows_at


@dataclass(frozen=True)
class Config:
    """Hyperparameters; the defaults are those of Schulman et al. 2017 for continuous control."""

    rollout_steps: int = 2048
    """Steps per environment and iteration."""
    batch_size: int = 64
    """Transitions per gradient step; divides rollout_steps × num_envs."""
    epochs: int = 10
    """Passes over each rollout."""
    gamma: float = 0.99
    """Discount of one step, in [0, 1]."""
    gae_lambda: float = 0.95
    """Trace decay of the advantage estimate, in [0, 1]."""
    clip: float = 0.2
    """Largest change of the probability ratio that is rewarded."""
    clip_value: float = 0.0
    """Largest change of the value that is rewarded; 0: no clipping."""
    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus."""
    value_coefficient: float = 0.5
    """Weight c_v of the squared value error; without a factor ½."""
    max_grad_norm: float = 0.5
    """Largest norm of the gradient; 0: no clipping."""
    normalise_advantages: bool = True
    """Centre and scale advantages in each minibatch."""
    target_kl: float = 0.0
    """Stop the epochs when the policy has moved this far (times 1.5); 0 never stops."""
    schedule: Literal["constant", "linear"] = "constant"
    """Learning rate over the run: constant, or falling linearly to 0."""
    clip_schedule: Literal["constant", "linear"] = "constant"
    """Policy clip over the run: constant, or falling linearly to 0."""
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
        for name in ("rollout_steps", "batch_size", "epochs"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)}: must be ≥ 1")
        for name in ("gamma", "gae_lambda"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"{name}={value}: must be in [0, 1]")
        require(self.clip > 0, f"clip={self.clip}: must be > 0")
        for name in ("clip_value", "entropy_coefficient", "value_coefficient", "max_grad_norm"):
            value = getattr(self, name)
            require(value >= 0, f"{name}={value}: must be ≥ 0")
        require(self.target_kl >= 0, f"target_kl={self.target_kl}: must be ≥ 0")
        require(min(self.hidden, default=1) >= 1, f"hidden={self.hidden}: widths must be ≥ 1")
        require(
            self.activation in ACTIVATIONS,
            f"activation={self.activation!r}: accepted are {', '.join(ACTIVATIONS)}",
        )
        check(self)


def policy_loss(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: Tensor) -> Tensor:
    """Clipped surrogate (eq. 7), negated: (…, m) each → (…)."""
    ratio = torch.exp(log_prob - old_log_prob)
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return -torch.minimum(ratio * advantage, clipped * advantage).mean(-1)


def value_loss(value: Tensor, old_value: Tensor, return_: Tensor, clip: float) -> Tensor:
    """Mean squared error, pessimistic about moves beyond `clip` when clip > 0: (…, m) → (…)."""
    error = (value - return_).square()
    if clip > 0:
        near = old_value + (value - old_value).clamp(-clip, clip)
        error = torch.maximum(error, (near - return_).square())
    return error.mean(-1)


def normalise(advantage: Tensor) -> Tensor:
    """Centre and scale to unit standard deviation: (…, m)."""
    centred = advantage - advantage.mean(-1, keepdim=True)
    return centred / (advantage.std(-1, keepdim=True) + 1e-8)


def approximate_kl(log_ratio: Tensor) -> Tensor:
    """Unbiased, never negative estimate of KL(π_old, π): E[ρ - 1 - log ρ], (…) of (…, m)."""
    return (log_ratio.exp() - 1 - log_ratio).mean(-1)


def clip_fraction(log_ratio: Tensor, clip: Tensor) -> Tensor:
    """Share of samples whose probability ratio lies outside 1 ± clip: (…) of (…, m)."""
    return ((log_ratio.exp() - 1).abs() > clip).float().mean(-1)


_SCALARS = ("policy_loss", "value_loss", "entropy", "kl", "clip_fraction")
_KL = _SCALARS.index("kl")


class PPO:
    """Alternates rollouts of B environments and epochs of minibatch updates."""

    STATE = ("network", "optimizer", "collector", "shuffling")
    POLICY = ("network", "collector")

    def __init__(self, config: Config, setup: AgentContext) -> None:
        self.config, self.setup, self.timers = config, setup, setup.timers
        self.samples = config.rollout_steps * setup.envs.num_envs
        if self.samples % config.batch_size:
            raise UserError(
                f"batch_size={config.batch_size}: must divide rollout_steps × num_envs = "
                f"{config.rollout_steps} × {setup.envs.num_envs} = {self.samples}"
            )
        require(
            config.batch_size > 1 or not config.normalise_advantages,
            "batch_size=1: normalise_advantages needs at least 2",
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
        self.shuffling: Random = generator(setup.seed, 2)
        self.learning_rate = LearningRate(self.optimizer, config.schedule)
        self.bind()

    def bind(self) -> None:
        """Join the parts that this agent has now; those of a stack take K runs at once."""
        if isinstance(self.shuffling, Generators) and self.config.target_kl > 0:
            why = "it ends the epochs of each seed at another time"
            not_stacked(len(self.shuffling.each), f"target_kl={self.config.target_kl}", why)
        self.learning_rate = self.learning_rate.of(self.optimizer)
        self.progress, self.policy, self._parameters = self.collector.joined(self.network)
        self._loss = maybe_compile(self._losses, self.setup.compile)

    def iterate(self) -> Mapping[str, float | Tensor]:
        """Collect one rollout and learn from it."""
        config = self.config
        now = (self.progress.steps, self.setup.total_steps)
        rate = self.learning_rate.set(*now)
        clip = config.clip * (remaining(*now) if config.clip_schedule == "linear" else 1.0)
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
            data = {
                "obs": rollout.flat("obs"),
                "action": rollout.flat("action"),
                "log_prob": rollout.flat("log_prob"),
                "value": rollout.flat("value"),
                "advantage": rollout.flattened(advantage),
                "return_": rollout.flattened(return_),
            }
            if "mask" in rollout:
                data["mask"] = rollout.flat("mask")
            scalars = self._epochs(data, torch.full((), clip, device=self.setup.device))
            scalars["explained_variance"] = explained_variance(data["value"], data["return_"])
        return {**scalars, "lr": rate, "clip": clip}

    def _epochs(self, data: dict[str, Tensor], clip: Tensor) -> dict[str, float | Tensor]:
        """All updates on one rollout; scalars are means over its minibatches."""
        config = self.config
        seen: list[Tensor] = []
        has_moved_far = False
        for batch in self._passes(data):
            loss, scalars = self._loss(batch, clip)
            seen.append(scalars)
            has_moved_far = config.target_kl > 0 and scalars[_KL].item() > 1.5 * config.target_kl
            if has_moved_far:
                break
            self.optimizer.zero_grad()
            norm = descend(loss, self._parameters, config.max_grad_norm)
            show(self.optimizer, partial(self._critic, batch, norm))
            self.optimizer.step()
        means = dict(zip(_SCALARS, torch.stack(seen).mean(0), strict=True))
        return {**means, "updates": float(len(seen) - has_moved_far)}

    @torch.no_grad()
    def _critic(self, batch: dict[str, Tensor], norm: Tensor) -> list[TemporalDifference]:
        """The critic's part of the loss, whose gradient was clipped at a norm."""
        config, return_ = self.config, batch["return_"]
        weight = 2 * config.value_coefficient * clip_factor(norm, config.max_grad_norm)
        weight = weight.expand_as(return_)
        if config.clip_value > 0:
            value, old = self.network.value(batch["obs"]), batch["value"]
            near = old + (value - old).clamp(-config.clip_value, config.clip_value)
            # Beyond the clip, where the pessimistic error is constant, nothing is learned.
            weight = weight * ((value - return_).abs() >= (near - return_).abs())
        return [critic_difference(self.network, batch["obs"], return_, weight)]

    def _passes(self, data: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """The minibatches, epoch after epoch; their order is nothing where each is everything."""
        size, epochs = self.config.batch_size, range(self.config.epochs)
        if size == self.samples:
            data = self._prepared(data)
            yield from (data for _ in epochs)
            return
        for _ in epochs:
            for index in minibatches(self.samples, size, self.shuffling, self.setup.device):
                yield self._prepared({key: rows_at(rows, index) for key, rows in data.items()})

    def _prepared(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A minibatch with advantages as the loss takes them."""
        if not self.config.normalise_advantages:
            return batch
        return {**batch, "advantage": normalise(batch["advantage"])}

    def _losses(self, batch: dict[str, Tensor], clip: Tensor) -> tuple[Tensor, Tensor]:
        """Total loss of a minibatch, and its `_SCALARS`, detached."""
        config = self.config
        parameters, value = self.network(batch["obs"], batch.get("mask"))
        log_prob, entropy = self.network.distribution.log_prob_entropy(parameters, batch["action"])
        surrogate = policy_loss(log_prob, batch["log_prob"], batch["advantage"], clip)
        squared = value_loss(value, batch["value"], batch["return_"], config.clip_value)
        bonus = entropy.mean(-1)
        loss = surrogate + config.value_coefficient * squared
        if config.entropy_coefficient > 0:  # its gradient costs a fifth of all
            loss = loss - config.entropy_coefficient * bonus
        with torch.no_grad():
            log_ratio = log_prob - batch["log_prob"]
            kl, clipped = approximate_kl(log_ratio), clip_fraction(log_ratio, clip)
            scalars = torch.stack([surrogate, squared, bonus, kl, clipped])
        return loss, scalars

    def experience(
        self, envs: ExactVector | None = None, steps: int = 0, seed: int = 0
    ) -> Experience:
        """For observers: the critic on the last rollout, or on `steps` instants in `envs`."""
        return critic_experience(self, self.config.batch_size, envs, steps, seed)
