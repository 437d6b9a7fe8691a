"""What learners of continuous actions from replayed transitions share.

Their actions are in [-1, 1] in every dimension, the environment's box mapped onto it; observations
are vectors of float32. Everything is counted in environment steps, all environments together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from semigradient.errors import require, unknown
from semigradient.nets import ACTIVATIONS
from semigradient.nets.bricks import is_image
from semigradient.training.action_box import ActionBox
from semigradient.training.agent import AgentContext, Policy, generator
from semigradient.training.replay import Batch, Replay
from semigradient.training.stepping import EnvStepper

Act = Callable[[Tensor], Tensor]
"""Actions (B, K) in [-1, 1] for observations (B, D)."""


@dataclass(frozen=True)
class OffPolicyConfig:
    """Hyperparameters of all learners of continuous actions from replayed transitions."""

    gamma: float = 0.99
    """Discount of one step, in [0, 1]."""
    target_rate: float = 0.005
    """Share of the networks that the averaged targets take in when they move."""
    buffer_size: int = 1_000_000
    """Transitions in the replay memory."""
    batch_size: int = 256
    """Transitions per gradient step."""
    learning_starts: int = 1000
    """Environment steps before learning; their actions are uniform."""
    train_every: int = 1
    """Environment steps between learning phases (at least one step of all environments)."""
    gradient_steps: int = 1
    """Gradient steps per learning phase."""
    scale_gradient_steps: bool = True
    """Hold all phases that the steps of B environments make due, so that gradient steps per
    environment step do not depend on B; otherwise one phase at most per step of all of them."""
    schedule: Literal["constant", "linear"] = "constant"
    """Learning rate over the run: constant, or falling linearly to 0."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of every network."""
    activation: str = "relu"
    """Nonlinearity of the hidden layers."""

    def __post_init__(self) -> None:
        require(0 <= self.gamma <= 1, f"gamma={self.gamma}: must be in [0, 1]")
        require(0 < self.target_rate <= 1, f"target_rate={self.target_rate}: must be in (0, 1]")
        for name in ("batch_size", "train_every", "gradient_steps"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)}: must be ≥ 1")
        require(
            self.buffer_size >= self.batch_size,
            f"buffer_size={self.buffer_size}: must be ≥ batch_size={self.batch_size}",
        )
        require(self.learning_starts >= 0, f"learning_starts={self.learning_starts}: must be ≥ 0")
        require(min(self.hidden, default=1) >= 1, f"hidden={self.hidden}: widths must be ≥ 1")
        if self.activation not in ACTIVATIONS:
            unknown("activation", self.activation, ACTIVATIONS)


class OffPolicyCollector:
    """Acts in B environments, stores transitions, and draws the minibatches that are due.

    Attributes:
        inputs: D, numbers in an observation.
        actions: the map of actions; `actions.dimensions` is K.

    Args:
        config: hyperparameters.
        setup: environments with vector observations and bounded continuous actions.

    Raises:
        UserError: other spaces, or a memory that does not fit.
    """

    STATE = ("stepper", "memory", "acting", "sampling", "phases")

    def __init__(self, config: OffPolicyConfig, setup: AgentContext) -> None:
        self.config, self.setup, self.timers = config, setup, setup.timers
        envs, device = setup.envs, setup.device
        space = envs.single_observation_space
        is_vector = isinstance(space, spaces.Box) and not is_image(space)
        require(is_vector, f"observation space {space}: accepted is Box, but not images")
        self.actions, self.inputs = ActionBox(envs.single_action_space), prod(space.shape)
        self.stepper = EnvStepper(envs, setup.timers)
        capacity = config.buffer_size if setup.learning else envs.num_envs
        rows = spaces.Box(-np.inf, np.inf, (self.inputs,), np.float32)
        self.memory = Replay(capacity, envs.num_envs, rows, self.actions.learned, device)
        self.acting, self.sampling = generator(setup.seed, 1, device), generator(setup.seed, 2)
        self.phases = 0

    @torch.no_grad()
    def collect(self, act: Act) -> None:
        """Step every environment until a learning phase is due."""
        while self.stepper.steps // self.config.train_every == self.phases:
            self._step(act)

    def minibatches(self) -> Iterator[Batch]:
        """The minibatches that are due since the last call; none before learning starts."""
        config, steps = self.config, self.stepper.steps
        due = steps // config.train_every - self.phases
        self.phases += due
        if steps <= config.learning_starts:
            return
        phases = due if config.scale_gradient_steps else min(due, 1)
        count, size = phases * config.gradient_steps, config.batch_size
        for drawn in self.memory.samples(count, size, self.sampling, config.gamma):
            yield from drawn.split(size)

    def policy(self, act: Act) -> Policy:
        """The policy of `act` on arrays."""

        @torch.no_grad()
        def on_arrays(obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
            return self.actions.to_env(act(self._tensor(obs)))

        return on_arrays

    def noise(self, count: int, random: torch.Generator) -> Tensor:
        """Standard normal numbers (count, K)."""
        shape = (count, self.actions.dimensions)
        return torch.randn(shape, generator=random, device=random.device)

    def _step(self, act: Act) -> None:
        """One step of every environment, by `act` or, before learning starts, uniformly."""
        stepper, random = self.stepper, self.acting
        obs = stepper.obs
        with self.timers("act"):
            if stepper.steps < self.config.learning_starts:
                shape = (len(obs), self.actions.dimensions)
                chosen = 2 * torch.rand(shape, generator=random, device=random.device) - 1
            else:
                chosen = act(self._tensor(obs))
            actions = self.actions.to_env(chosen)
        step = stepper.step(actions)
        with self.timers("store"):
            ended = (step.terminated, step.truncated)
            self.memory.add(
                _rows(obs), chosen.cpu().numpy(), step.reward, *ended, _rows(step.next_obs)
            )

    def _tensor(self, obs: np.ndarray) -> Tensor:
        return torch.from_numpy(_rows(obs)).to(self.setup.device)


def _rows(obs: np.ndarray) -> np.ndarray:
    """Observations (B, *observation) as rows (B, D) of float32."""
    return obs.reshape(len(obs), -1).astype(np.float32, copy=False)


def descend(
    optimizer: torch.optim.Optimizer, loss: Tensor, parameters: Sequence[nn.Parameter]
) -> None:
    """One step on the gradient by these parameters alone; no other gradient is computed."""
    optimizer.zero_grad()
    loss.backward(inputs=parameters)
    optimizer.step()
