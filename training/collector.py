"""Collects rollouts for actor-critic agents, with everything their losses need."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from semigradient.envs import ExactVector
from semigradient.errors import UserError
from semigradient.nets.bricks import is_image
from semigradient.training import parts
from semigradient.training.action_box import BoxScale
from semigradient.training.actor_critic import Network
from semigradient.training.agent import AgentContext, Policy, generator
from semigradient.training.draws import draw
from semigradient.training.normalise import ObservationNormaliser, RewardNormaliser
from semigradient.training.rollout import Rollout
from semigradient.training.stepping import EnvStepper
from semigradient.training.timers import Timers


@dataclass(frozen=True)
class Preprocessing:
    """What happens to observations and rewards before they are learned from."""

    normalise_observations: bool
    normalise_rewards: bool
    clip_rewards: bool
    gamma: float


class Collector:
    """T steps of B environments at a time, under the current policy.

    After `collect`, `rollout` holds `obs`, `action`, `parameters` (of the distribution),
    `log_prob`, `reward`, `terminated`, `truncated`, `value`, and `next_value`: the value of each
    true successor, the last observation of an episode where it ended.
    """

    STATE = ("stepper", "generator", "obs_normaliser", "reward_normaliser", "obs")
    POLICY = ("obs_normaliser",)

    def __init__(
        self,
        network: Network,
        setup: AgentContext,
        length: int,
        preprocessing: Preprocessing,
    ) -> None:
        self.network, self.setup, self.length = network, setup, length
        self.timers = setup.timers
        self.preprocessing = preprocessing
        self.stepper = EnvStepper(setup.envs, setup.timers)
        self.generator = generator(setup.seed, 1, setup.device)
        observation = setup.envs.single_observation_space
        self.obs_normaliser: ObservationNormaliser | None = None
        if preprocessing.normalise_observations:
            if is_image(observation):
                raise UserError("normalise_observations=True: images are scaled by the network")
            self.obs_normaliser = ObservationNormaliser(observation.shape)
        self.reward_normaliser: RewardNormaliser | None = None
        if preprocessing.normalise_rewards:
            self.reward_normaliser = RewardNormaliser(setup.envs.num_envs, preprocessing.gamma)
        action = setup.envs.single_action_space
        self._scale = BoxScale(action) if isinstance(action, spaces.Box) else None
        self.obs = self._normalise(self.stepper.obs, update=True)
        self.bind()

    def bind(self) -> None:
        """Make room for the observations that there are now: (B, …), or (K, B, …) of K runs."""
        self.rollout = self._make_rollout()

    def joined(
        self, network: Any
    ) -> tuple[EnvStepper, Callable[[bool], Policy], list[nn.Parameter]]:
        """Progress, policy and parameters of the learner of a network, which acts from now on."""
        self.network = network
        return self.stepper, self.policy, list(network.parameters())

    @torch.no_grad()
    def collect(self) -> Rollout:
        """Fill and return the rollout."""
        rollout, network = self.rollout, self.network
        with self.timers("act"):
            shape = (self.length, self.setup.envs.num_envs)
            sample = network.distribution.noise
            noise = draw(self.generator, lambda own: sample(shape, own), axis=1)
        last_obs: list[tuple[int, np.ndarray]] = []
        for time in range(self.length):
            with self.timers("act"):
                obs, mask = self._tensor(self.obs), self._tensor(self.stepper.mask)
                if network.shared:
                    parameters, value = network(obs, mask)
                    rollout.write(time, value=value)
                else:
                    parameters = network.policy(obs, mask)
                action = network.distribution.sample(parameters, noise[time])
                actions = action.cpu().numpy()
                rollout.write(time, obs=self.obs, parameters=parameters, action=action)
                if mask is not None:
                    self._write_mask(time, mask)
            step = self.stepper.step(self._to_env(actions))
            with self.timers("store"):
                if step.truncated.any():
                    last_obs.append((time, step.next_obs))
                rollout.write(
                    time,
                    reward=self._reward(step.reward, step.terminated | step.truncated),
                    terminated=step.terminated,
                    truncated=step.truncated,
                )
                self.obs = self._normalise(self.stepper.obs, update=True)
        with self.timers("act"):
            self._finish(last_obs)
        return rollout

    def policy(self, deterministic: bool = True) -> Policy:
        """The most probable action, or a sample from a generator of its own."""
        own = generator(self.setup.seed, 3, self.setup.device)
        distribution = self.network.distribution

        @torch.no_grad()
        def act(obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
            normalised = self._tensor(self._normalise(obs, update=False))
            parameters = self.network.policy(normalised, self._tensor(mask))
            if deterministic:
                action = distribution.mode(parameters)
            else:
                noise = distribution.noise(parameters.shape[:1], own)
                action = distribution.sample(parameters, noise)
            return self._to_env(action.cpu().numpy())

        return act

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore a saved state; where episodes start afresh, so do the observations."""
        parts.restore(self, self.STATE, saved)
        if not self.stepper.exact:
            self.obs = self._normalise(self.stepper.obs, update=False)

    def beside(self, envs: ExactVector, length: int, seed: int) -> Collector:
        """The same policy in other environments, with a copy of the statistics."""
        setup = replace(self.setup, envs=envs, seed=seed, timers=Timers())
        other = Collector(self.network, setup, length, self.preprocessing)
        other.obs_normaliser = copy.deepcopy(self.obs_normaliser)
        if self.reward_normaliser is not None:
            other.reward_normaliser = copy.deepcopy(self.reward_normaliser)
            other.reward_normaliser.returns = np.zeros(envs.num_envs)
        other.obs = other._normalise(other.stepper.obs, update=False)
        return other

    def _finish(self, last_obs: list[tuple[int, np.ndarray]]) -> None:
        """Values and log-probabilities, in batches over the whole rollout."""
        rollout, network = self.rollout, self.network
        final = network.value(self._tensor(self.obs))
        if not network.shared:
            rollout.fill("value", network.value(rollout.flat("obs")))
        next_value = rollout["next_value"]
        next_value[:-1] = rollout["value"][1:]
        next_value[-1] = final
        for time, obs in last_obs:
            values = network.value(self._tensor(self._normalise(obs, update=False)))
            cut = rollout["truncated"][time]
            next_value[time] = torch.where(cut, values, next_value[time])
        rollout["log_prob"].copy_(
            network.distribution.log_prob(rollout["parameters"], rollout["action"])
        )

    def _make_rollout(self) -> Rollout:
        distribution = self.network.distribution
        space = self.setup.envs.single_observation_space
        batch = self.obs.shape[: self.obs.ndim - len(space.shape)]
        rollout = Rollout(self.length, batch, self.setup.device)
        rollout.field("obs", space.shape, torch.from_numpy(self.obs[:0]).dtype)
        rollout.field("action", distribution.action_shape, distribution.action_dtype)
        outputs = distribution.outputs
        if not isinstance(self.setup.envs.single_action_space, spaces.Box):
            rollout.field("parameters", (outputs,), torch.float32)
        else:
            rollout.field("parameters", (2 * outputs,), torch.float32)
        for name in ("reward", "value", "next_value", "log_prob"):
            rollout.field(name, (), torch.float32)
        for name in ("terminated", "truncated"):
            rollout.field(name, (), torch.bool)
        return rollout

    def _write_mask(self, time: int, mask: torch.Tensor) -> None:
        """Legal actions (B, A) of one step; of the steps before the first mask, all."""
        if "mask" not in self.rollout:
            self.rollout.field("mask", mask.shape[-1:], torch.bool)
            self.rollout["mask"].fill_(True)
        self.rollout.write(time, mask=mask)

    def _reward(self, reward: np.ndarray, ended: np.ndarray) -> np.ndarray:
        """Rewards (B,) to learn from: clipped, then normalised, each if configured."""
        if self.preprocessing.clip_rewards:
            reward = np.clip(reward, -1, 1)
        if self.reward_normaliser is not None:
            reward = self.reward_normaliser(reward, ended)
        return reward

    def _normalise(self, obs: np.ndarray, update: bool) -> np.ndarray:
        if self.obs_normaliser is None:
            return obs
        return self.obs_normaliser(obs, update)

    def _to_env(self, actions: np.ndarray) -> np.ndarray:
        """Continuous actions mapped onto the space; discrete ones as they are."""
        return actions if self._scale is None else self._scale(actions)

    def _tensor(self, array: np.ndarray | None) -> Any:
        return None if array is None else torch.from_numpy(array).to(self.setup.device)
