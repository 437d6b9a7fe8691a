"""REINFORCE (Williams 1992, "Simple statistical gradient-following algorithms").

    ∇J = E[Σ_t G(S_t) ∇ log π(A_t | S_t)]

on whole episodes of the current policy, without a value function or any bootstrap. Each of the B
environments plays the same number of episodes per update: taking those that end first would favour
short episodes and bias the estimate. Steps beyond them, while other environments finish, count as
environment steps but are not learned from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from semigradient.errors import not_stacked, require, unknown
from semigradient.nets import ACTIVATIONS
from semigradient.nets.bricks import TORSOS, tower
from semigradient.nets.distributions import Distribution, distribution
from semigradient.training.action_box import BoxScale
from semigradient.training.agent import (
    AgentContext,
    LearningRate,
    Policy,
    generator,
)
from semigradient.training.draws import Generators, Random
from semigradient.training.gradients import descend
from semigradient.training.returns import discounted_return
from semigradient.training.rollout import rows_at
from semigradient.training.stepping import EnvStepper


@dataclass(frozen=True)
class Config:
    """Hyperparameters; one episode per environment and update, as in the plain algorithm."""

    episodes_per_env: int = 1
    """Episodes that each environment plays for an update."""
    gamma: float = 1.0
    """Discount of one step, in [0, 1]."""
    returns: Literal["to-go", "episode"] = "to-go"
    """Weight of an action: the return to go, or that of its whole episode."""
    entropy_coefficient: float = 1e-4
    """Weight of the entropy bonus."""
    max_grad_norm: float = 0.0
    """Largest norm of the gradient; 0: no clipping."""
    schedule: Literal["constant", "linear"] = "constant"
    """Learning rate over the run: constant, or falling linearly to 0."""
    hidden: tuple[int, ...] = (64,)
    """Widths of the hidden layers (for images: behind the convolutions)."""
    activation: str = "leaky_relu"
    """Nonlinearity of the hidden layers."""
    torso: str = "auto"
    """Convolutions of images: nature, glimpse, or auto, which is glimpse below 36×36 pixels."""
    torso_width: int = 16
    """Channels of the glimpse torso's first layer (later ones have two and four times as many)."""
    torso_depth: int = 0
    """Extra layers of the glimpse torso."""
    log_std_init: float = 0.0
    """Initial log standard deviation of continuous actions."""

    def __post_init__(self) -> None:
        is_valid = self.episodes_per_env >= 1
        require(is_valid, f"episodes_per_env={self.episodes_per_env}: must be ≥ 1")
        require(0 <= self.gamma <= 1, f"gamma={self.gamma}: must be in [0, 1]")
        for name in ("entropy_coefficient", "max_grad_norm"):
            value = getattr(self, name)
            require(value >= 0, f"{name}={value}: must be ≥ 0")
        for name, accepted in (("activation", ACTIVATIONS), ("torso", TORSOS)):
            if getattr(self, name) not in accepted:
                unknown(name, getattr(self, name), accepted)


class PolicyNetwork(nn.Module):
    """Distribution parameters (B, P) of observations; outputs of one torso and perceptron."""

    STACKS = True

    def __init__(self, observation: spaces.Box, action: spaces.Space, config: Config) -> None:
        super().__init__()
        self.distribution: Distribution = distribution(action, config.log_std_init)
        self.outputs = tower(
            observation,
            self.distribution.outputs,
            config.hidden,
            config.activation,
            (config.torso, config.torso_width, config.torso_depth),
        )

    def forward(self, obs: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, *observation), legal actions (B, A) → (B, P)."""
        return self.distribution.parameters_of(self.outputs(obs), mask)


def policy_gradient_loss(log_prob: Tensor, return_: Tensor, episodes: int) -> Tensor:
    """-Σ G log π over the steps (…, m) of some whole episodes, by episode: (…,).

    Its gradient is an unbiased estimate of that of minus the expected return.
    """
    return -(return_ * log_prob).sum(-1) / episodes


def episode_return(return_to_go: Tensor, ended: Tensor) -> Tensor:
    """At every step (T, …) the return from its episode's first step on."""
    begins = torch.ones_like(ended)
    begins[1:] = ended[:-1]
    rows = torch.arange(len(ended), device=ended.device).view(-1, *[1] * (ended.ndim - 1))
    first = torch.where(begins, rows, 0).cummax(0).values
    return return_to_go.gather(0, first)


def _stacked(masks: Sequence[np.ndarray | None]) -> np.ndarray:
    """Masks (T, B, A); of the steps before the first one everything is legal."""
    free = np.ones_like(masks[-1], dtype=bool)
    return np.stack([free if mask is None else mask for mask in masks])


class Episodes(NamedTuple):
    """The steps (m, …) of the episodes to learn from.

    Of K runs (K, m, …) for the largest m; steps that are there only to fill a row have the return 0
    and are not `counted`.
    """

    obs: Tensor
    mask: Tensor | None
    action: Tensor
    return_: Tensor
    counted: Tensor | None = None

    def mean(self, rows: Tensor) -> Tensor:
        """Mean over the steps."""
        if self.counted is None:
            return rows.mean()
        return (rows * self.counted).sum(-1) / self.counted.sum(-1)


class REINFORCE:
    """Plays whole episodes in B environments, then takes one gradient step."""

    STATE = ("network", "optimizer", "stepper", "generator")
    POLICY = ("network",)

    def __init__(self, config: Config, setup: AgentContext) -> None:
        self.config, self.setup, self.timers = config, setup, setup.timers
        require(not setup.compile, "compile=True: batches of episodes have no fixed shape")
        envs = setup.envs
        self.network = PolicyNetwork(
            envs.single_observation_space, envs.single_action_space, config
        ).to(setup.device)
        self.optimizer = setup.make_optimizer(self.network.parameters())
        self.learning_rate = LearningRate(self.optimizer, config.schedule)
        self.stepper: Any = EnvStepper(envs, setup.timers, notes_episodes=False)
        self.generator: Random = generator(setup.seed, 1, setup.device)
        space = envs.single_action_space
        self._scale = BoxScale(space) if isinstance(space, spaces.Box) else None
        self.bind()

    def bind(self) -> None:
        """Join the parts that this agent has now; those of a stack take K runs at once."""
        if isinstance(self.generator, Generators):
            schedule = self.config.schedule
            if schedule != "constant":
                why = "each seed would have a rate of its own, as their episodes differ"
                not_stacked(len(self.generator.each), f"schedule={schedule!r}", why)
        self.progress = self.stepper
        self.learning_rate = self.learning_rate.of(self.optimizer)
        self._parameters = list(self.network.parameters())

    def iterate(self) -> Mapping[str, float | Tensor]:
        """Play the episodes and take one gradient step."""
        config = self.config
        rate = self.learning_rate.set(self.progress.steps, self.setup.total_steps)
        batch = self._play()
        with self.timers("learn"):
            parameters = self.network(batch.obs, batch.mask)
            log_prob, entropy = self.network.distribution.log_prob_entropy(parameters, batch.action)
            episodes = config.episodes_per_env * self.setup.envs.num_envs
            policy_loss = policy_gradient_loss(log_prob, batch.return_, episodes)
            bonus = batch.mean(entropy)
            self.optimizer.zero_grad()
            loss = policy_loss - config.entropy_coefficient * bonus
            descend(loss, self._parameters, config.max_grad_norm)
            self.optimizer.step()
        counted = batch.counted
        return {
            "policy_loss": policy_loss.detach(),
            "entropy": bonus.detach(),
            "learned_steps": float(len(batch.return_)) if counted is None else counted.sum(-1),
            "lr": rate,
        }

    def policy(self, deterministic: bool = True) -> Policy:
        """The most probable action, or a sample from a generator of its own."""
        own = generator(self.setup.seed, 3, self.setup.device)

        def act(obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
            noise = None if deterministic else self.network.distribution.noise((len(obs),), own)
            return self._to_env(self._act(obs, mask, noise))

        return act

    def _play(self) -> Episodes:
        """Fresh episodes in all environments, until each has finished its share."""
        stepper, share = self.stepper, self.config.episodes_per_env
        stepper.restart()
        runs = () if isinstance(self.generator, torch.Generator) else (len(self.generator.each),)
        finished = np.zeros((*runs, self.setup.envs.num_envs), dtype=np.int64)
        rows: list[tuple[Any, ...]] = []
        while (finished < share).any():
            obs, mask = stepper.obs, stepper.mask
            active = np.asarray((finished < share).any(-1))
            with self.timers("act"):
                action = self._act(obs, mask, self._noise(active))
            actions = self._to_env(action)
            step = stepper.step(actions, active) if runs else stepper.step(actions)
            ends = (step.terminated, step.truncated)
            rows.append((obs, mask, action.cpu(), step.reward, *ends, finished < share))
            finished += step.terminated | step.truncated
        with self.timers("store"):
            return self._episodes(rows)

    def _noise(self, active: np.ndarray) -> Tensor:
        """Noise for the actions (B, …) of one step; of K runs (K, B, …), 0 for those that rest."""
        shape, noise = (self.setup.envs.num_envs,), self.network.distribution.noise
        if isinstance(self.generator, torch.Generator):
            return noise(shape, self.generator)
        each = zip(self.generator.each, active, strict=True)
        drawn = [noise(shape, own) if acts else None for own, acts in each]
        rest = torch.zeros_like(next(part for part in drawn if part is not None))
        return torch.stack([rest if part is None else part for part in drawn])

    def _episodes(self, rows: list[tuple[Any, ...]]) -> Episodes:
        """The rows (obs, mask, action, reward, terminated, truncated, used), one per step."""
        obs, mask, action, *numbers = zip(*rows, strict=True)
        reward, terminated, truncated, used = (
            torch.from_numpy(np.stack(column)) for column in numbers
        )
        reward = reward.float()
        return_ = discounted_return(reward, terminated, truncated, self.config.gamma)
        if self.config.returns == "episode":
            return_ = episode_return(return_, terminated | truncated)
        ended = terminated | truncated
        if used.ndim == 2:
            self._note(self.stepper, reward, ended, used)
        else:
            for index, member in enumerate(self.stepper.members):
                self._note(member, reward[:, index], ended[:, index], used[:, index])
        take, counted = self._chooser(used)
        return Episodes(
            take(torch.from_numpy(np.stack(obs))),
            None if mask[-1] is None else take(torch.from_numpy(_stacked(mask))),
            take(torch.stack(action)),
            take(return_) if counted is None else take(return_) * counted,
            counted,
        )

    def _chooser(self, used: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor | None]:
        """A function that takes the used rows of (T, B, …), on the device.

        Of K runs the used rows of each, filled up with others: (T, K, B, …) → (K, m, …); then also
        which of these count, (K, m).
        """
        device = self.setup.device
        if used.ndim == 2:
            return lambda rows: rows[used].to(device), None
        by_run = used.transpose(0, 1).flatten(1)
        order = torch.argsort(by_run.int(), dim=1, descending=True, stable=True)
        order = order[:, : int(by_run.sum(1).max())]
        index = order + by_run.shape[1] * torch.arange(len(by_run))[:, None]

        def take(rows: Tensor) -> Tensor:
            return rows_at(rows.transpose(0, 1).flatten(1, 2), index).to(device)

        return take, by_run.gather(1, order).to(device)

    @staticmethod
    def _note(stepper: EnvStepper, reward: Tensor, ended: Tensor, used: Tensor) -> None:
        """Note returns and lengths of the episodes that are learned from."""
        nothing = torch.zeros_like(ended)
        total = episode_return(discounted_return(reward, ended, nothing, 1.0), ended)
        steps = episode_return(
            discounted_return(torch.ones_like(reward), ended, nothing, 1.0), ended
        )
        last = ended & used
        pairs = zip(total[last].tolist(), steps[last].tolist(), strict=True)
        stepper.episodes += [(value, int(length)) for value, length in pairs]

    @torch.no_grad()
    def _act(self, obs: np.ndarray, mask: np.ndarray | None, noise: Tensor | None) -> Tensor:
        """Samples, or the most probable actions without noise: (B, *action)."""
        rows = torch.from_numpy(obs).to(self.setup.device)
        legal = None if mask is None else torch.from_numpy(mask).to(self.setup.device)
        distribution, parameters = self.network.distribution, self.network(rows, legal)
        if noise is None:
            return distribution.mode(parameters)
        return distribution.sample(parameters, noise)

    def _to_env(self, action: Tensor) -> np.ndarray:
        chosen = action.cpu().numpy()
        return chosen if self._scale is None else self._scale(chosen)
