"""Common parts of learners in physical time: hyperparameters, acting with noise, and replay.

Environments have a clock (`envs.clock`) and rewards per second. A learner in physical time takes
the discount γ^dt, rewards r·h, learning rates coefficient·h and averages that decay at rate h,
where h = dt ("scaled", what Deep Advantage Updating needs) or a constant h = `reference_step`
("unscaled", as if the step had never changed). C. Tallec, PhD thesis, 2019, chapter 8 and
appendix A.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from semigradient.envs.clock import clock_of
from semigradient.errors import UserError, require
from semigradient.nets import ACTIVATIONS
from semigradient.nets.bricks import is_image
from semigradient.optim.physical_time import per_second
from semigradient.training.action_box import ActionBox
from semigradient.training.agent import AgentContext, Policy, generator
from semigradient.training.conditions import only_with
from semigradient.training.draws import Random
from semigradient.training.exploration import Kind, Noise, NoiseConfig
from semigradient.training.normalise import ObservationNormaliser
from semigradient.training.replay import Batch, Replay
from semigradient.training.stepping import EnvStepper

Time = Literal["scaled", "unscaled"]
_BUFFER_STEP = 0.01  # at which buffer_scaling="physical" leaves buffer_size unchanged


@dataclass(frozen=True)
class PhysicalConfig:
    """Hyperparameters of every learner in physical time; the defaults are the published ones."""

    gamma: float = 0.8
    """Discount of one second, in (0, 1]."""
    time: Time = "scaled"
    """Rewards and rates times dt (scaled), or times reference_step (unscaled)."""
    reference_step: float = 0.01
    """Seconds per step that unscaled learners assume (the published code has 0.02)."""
    lr_policy: float = 0.02
    """Learning rate of the policy, per second; 0: that of the critic, as in the published code."""
    exploration: Kind = "ou"
    """Coherent noise (ou), noise drawn anew at every step (white), or uniform actions (epsilon)."""
    kappa: float = field(default=7.5, metadata=only_with(exploration=("ou", "white")))
    """Rate at which coherent noise returns to 0, per second."""
    sigma: float = field(default=1.5, metadata=only_with(exploration=("ou", "white")))
    """Diffusion of coherent noise, per square root of a second."""
    epsilon: float = field(default=0.1, metadata=only_with(exploration=("epsilon",)))
    """Probability of a uniform action, with exploration=epsilon."""
    noise_dt: Literal["physical", "reference"] = "physical"
    """Step of the noise: dt, or reference_step as the published code has it when unscaled."""
    rollout_steps: int = 10
    """Steps of every environment between learning phases."""
    gradient_steps: int = 50
    """Gradient steps per learning phase."""
    warm_up: int = 10
    """Steps of every environment before the first learning phase."""
    batch_size: int = 256
    """Transitions per gradient step."""
    buffer_size: int = 1_000_000
    """Transitions in the replay memory."""
    buffer_scaling: Literal["fixed", "physical"] = "fixed"
    """Constant number of transitions at every dt, or (times 0.01 / dt) of seconds."""
    truncation_as_terminal: bool = False
    """Count a time limit as an end, as the published code does."""
    normalise_observations: bool = False
    """Centre and scale observations by running statistics."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of every network."""
    layer_norm: bool = True
    """Normalise the layers before every nonlinearity."""
    activation: str = "relu"
    """Nonlinearity of the hidden layers."""

    def __post_init__(self) -> None:
        require(0 < self.gamma <= 1, f"gamma={self.gamma}: must be in (0, 1]")
        step = self.reference_step
        require(0 < step <= 1, f"reference_step={step}: must be in (0, 1] seconds")
        require(self.lr_policy >= 0, f"lr_policy={self.lr_policy}: must be ≥ 0")
        for name in ("rollout_steps", "gradient_steps", "batch_size"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)}: must be ≥ 1")
        require(self.warm_up >= 0, f"warm_up={self.warm_up}: must be ≥ 0")
        require(
            self.buffer_size >= self.batch_size,
            f"buffer_size={self.buffer_size}: must be ≥ batch_size={self.batch_size}",
        )
        require(min(self.hidden, default=0) >= 1, f"hidden={self.hidden}: widths must be ≥ 1")
        accepted = ", ".join(ACTIVATIONS)
        is_valid = self.activation in ACTIVATIONS
        require(is_valid, f"activation={self.activation!r}: accepted are {accepted}")
        self.noise()

    def noise(self) -> NoiseConfig:
        """How actions are perturbed."""
        return NoiseConfig(self.exploration, self.kappa, self.sigma, self.epsilon)


class Scale(NamedTuple):
    """Physical quantities per step."""

    discount: float
    """γ^dt"""
    step: float
    """h: seconds that rewards and rates are multiplied by."""


def scale(time: Time, dt: float, gamma: float, reference_step: float) -> Scale:
    """Discount and step of a setting; the discount is physical in both."""
    return Scale(gamma**dt, dt if time == "scaled" else reference_step)


class Explorer:
    """Acts in B environments with noise, stores transitions, and draws minibatches.

    Policies and action values are functions of observations that are normalised here, as tensors
    on the device. Continuous actions are in [-1, 1], the environment's box mapped onto it.

    Args:
        setup: environments with a clock, device and seed.
        config: of acting and the replay memory.
    """

    STATE = ("stepper", "memory", "noise", "sampling", "normaliser")
    POLICY = ("normaliser",)

    def __init__(self, setup: AgentContext, config: PhysicalConfig) -> None:
        self.setup, self.config, self.timers = setup, config, setup.timers
        envs = setup.envs
        require(not setup.compile, "compile=True: the gradient by actions cannot be compiled")
        self.clock = clock_of(envs)
        dt = self.clock.dt
        self.scale = scale(config.time, dt, config.gamma, config.reference_step)
        observation = envs.single_observation_space
        require(not is_image(observation), f"observation space {observation}: images not accepted")
        self.actions = ActionMap(envs.single_action_space)
        self.normaliser: ObservationNormaliser | None = None
        if config.normalise_observations:
            self.normaliser = ObservationNormaliser(observation.shape, clip=np.inf, floor=1e-2)
        noise_dt = dt if config.noise_dt == "physical" else config.reference_step
        self.noise = self._make_noise(envs.num_envs, noise_dt, stream=1)
        self.stepper = EnvStepper(envs, setup.timers)
        capacity = config.buffer_size
        if config.buffer_scaling == "physical":
            capacity = round(capacity * _BUFFER_STEP / dt)
        if not setup.learning:
            capacity = envs.num_envs
        device = setup.device
        self.memory = Replay(capacity, envs.num_envs, observation, self.actions.learned, device)
        self.sampling: Random = generator(setup.seed, 2)

    @property
    def warm(self) -> bool:
        """Whether the warm-up is over."""
        return self.stepper.steps > self.config.warm_up * self.setup.envs.num_envs

    @torch.no_grad()
    def collect(self, outputs: Callable[[Tensor], Tensor]) -> None:
        """One phase of acting; `outputs` gives means of actions, or action values, (B, K)."""
        stepper, config = self.stepper, self.config
        for _ in range(config.rollout_steps):
            obs = stepper.obs
            with self.timers("act"):
                seen = self.observe(obs, update=True)
                chosen = self.actions.explored(outputs(seen), self.noise)
            step = stepper.step(self.actions.to_env(chosen))
            with self.timers("store"):
                ended = step.terminated
                if config.truncation_as_terminal:
                    ended = ended | step.truncated
                self.memory.add(
                    obs, chosen.cpu().numpy(), step.reward, ended, step.truncated, step.next_obs
                )

    def minibatches(self) -> Iterator[Batch]:
        """The minibatches of one learning phase: rewards times h, observations normalised."""
        config = self.config
        count = config.gradient_steps * config.batch_size
        drawn = self.memory.sample(count, self.sampling, self.scale.discount)
        drawn = drawn._replace(
            obs=self._normalised(drawn.obs),
            next_obs=self._normalised(drawn.next_obs),
            reward=drawn.reward * self.scale.step,
        )
        yield from drawn.split(config.batch_size)

    def observe(self, obs: np.ndarray, update: bool = False) -> Tensor:
        """Normalised observations (B, *observation) float32 on the device.

        `update` learns the statistics from them first.
        """
        if self.normaliser is not None:
            obs = self.normaliser(obs, update)
        return torch.from_numpy(obs).to(self.setup.device, torch.float32)

    def policy(self, outputs: Callable[[Tensor], Tensor], deterministic: bool) -> Policy:
        """Acts greedily, or with noise of its own."""
        noise: list[Noise] = []

        @torch.no_grad()
        def act(obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
            values = outputs(self.observe(obs))
            if deterministic:
                return self.actions.to_env(self.actions.greedy(values))
            if not noise:
                noise.append(self._make_noise(len(obs), self.noise.dt, stream=3))
            return self.actions.to_env(self.actions.explored(values, noise[0]))

        return act

    def optimizer(self, parameters: Iterable[nn.Parameter], lr: float = 0.0) -> Any:
        """The chosen optimizer with its options per second; `lr`, if any, replaces its own."""
        made = self.setup.make_optimizer(parameters, temporal_differences=True)
        if lr > 0:
            for group in made.param_groups:
                group["lr"] = lr
        return per_second(made, self.scale.step)

    def _make_noise(self, count: int, dt: float, stream: int) -> Noise:
        random = generator(self.setup.seed, stream, self.setup.device)
        return Noise(self.config.noise(), (count, self.actions.outputs), dt, random)

    def _normalised(self, obs: Tensor) -> Tensor:
        if self.normaliser is None:
            return obs.to(torch.float32)
        return self.observe(obs.cpu().numpy())


class ActionMap:
    """Map between an action space and the learner's actions: [-1, 1]^K, or indices.

    Attributes:
        discrete: whether actions are indices.
        outputs: K, dimensions or number of actions.
        learned: space of the stored actions.
    """

    def __init__(self, space: spaces.Space) -> None:
        self.discrete = isinstance(space, spaces.Discrete)
        if isinstance(space, spaces.Discrete) and space.start == 0:
            self.outputs = int(space.n)
            self.learned: spaces.Space = space
            return
        if not (isinstance(space, spaces.Box) and len(space.shape) == 1 and space.is_bounded()):
            raise UserError(
                f"action space {space}: accepted are Discrete (from 0), bounded Box with one axis"
            )
        self.box = ActionBox(space)
        self.outputs, self.learned = self.box.dimensions, self.box.learned

    def greedy(self, outputs: Tensor) -> Tensor:
        """Actions without noise."""
        return outputs.argmax(-1) if self.discrete else outputs

    def explored(self, outputs: Tensor, noise: Noise) -> Tensor:
        """Actions with noise."""
        return noise.discrete(outputs) if self.discrete else noise.continuous(outputs)

    def to_env(self, actions: Tensor) -> np.ndarray:
        """Actions of the environment."""
        return actions.cpu().numpy() if self.discrete else self.box.to_env(actions)
