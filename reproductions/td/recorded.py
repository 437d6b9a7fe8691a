"""Complete episodes of a fixed policy, for policy evaluation.

Steps are numbered in order of time, 0 to T - 1, all of them in terminated episodes: each has a
return, and each but the last of its episode a next action.

Source: E. Bengio, PhD thesis, section 3.2.2.4 (the buffer of an expert's transitions).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from semigradient.envs import ExactVector, make_vector
from semigradient.errors import UserError, require
from semigradient.reproductions.td import mountain_car
from semigradient.training.agent import Policy
from semigradient.training.loaded_run import load_run
from semigradient.training.replay import Batch, Replay
from semigradient.training.returns import discounted_return, lambda_return
from semigradient.training.stepping import EnvStepper

EPSILON = 0.05
"""Fraction of random actions in recorded episodes."""
AT_ONCE = 1024
"""Observations per forward pass."""
PATIENCE = (50, 20_000)
"""Recording fails after this multiple of the requested steps, and at least this number of steps, if
too few episodes end."""


@dataclass(frozen=True)
class Recorded:
    """T steps of complete episodes.

    Attributes:
        memory: the observations, in a replay of one environment.
        action: (T,) int64.
        reward: (T,) float32.
        terminated: (T,) bool; the next step begins another episode.
        gamma: discount of one step.
        observation: space of one observation.
        actions: number of actions, A.
    """

    memory: Replay
    action: Tensor
    reward: Tensor
    terminated: Tensor
    gamma: float
    observation: spaces.Box
    actions: int

    @property
    def size(self) -> int:
        """T."""
        return len(self.action)

    @property
    def discount(self) -> Tensor:
        """Factor of the next value, (T,): gamma, 0 at the end of an episode."""
        return self.gamma * (~self.terminated).to(self.reward.dtype)

    @property
    def next_action(self) -> Tensor:
        """The next action, (T,); 0 at the end of an episode."""
        return self.action.roll(-1).masked_fill(self.terminated, 0)

    def at(self, index: Tensor) -> Batch:
        """Transitions at the steps `index` (m,)."""
        return self.memory.at(index, self.gamma)

    def returns(self) -> Tensor:
        """Discounted returns (T,)."""
        columns = self.reward[:, None], self.terminated[:, None]
        return discounted_return(*columns, torch.zeros_like(columns[1]), self.gamma)[:, 0]

    def lambda_returns(self, next_values: Tensor, lambda_: float) -> Tensor:
        """Lambda-returns (T,) that bootstrap from the values of successors (T,)."""
        reward, terminated = self.reward[:, None], self.terminated[:, None]
        never = torch.zeros_like(terminated)
        next_values = next_values[:, None]
        return lambda_return(reward, terminated, never, next_values, self.gamma, lambda_)[:, 0]

    @torch.no_grad()
    def evaluate(self, network: Callable[[Tensor], Tensor], successors: bool = False) -> Tensor:
        """Outputs (T, ...) at all observations, or at their successors."""
        parts = []
        for index in torch.arange(self.size, device=self.action.device).split(AT_ONCE):
            batch = self.at(index)
            parts.append(network(batch.next_obs if successors else batch.obs))
        return torch.cat(parts)


def record(
    policy: Policy,
    envs: ExactVector,
    steps: int,
    gamma: float,
    signs: bool = False,
    device: torch.device | None = None,
) -> Recorded:
    """Play until terminated episodes have `steps` steps; `signs`: record the signs of rewards.

    Truncated episodes are discarded because their returns are unknown.
    """
    stepper = EnvStepper(envs)
    running: list[list[_Step]] = [[] for _ in range(envs.num_envs)]
    kept: list[_Step] = []
    while len(kept) < steps:
        if stepper.steps > max(PATIENCE[0] * steps, PATIENCE[1]):
            raise UserError(f"{envs.protocol.get('env')}: hardly any episode terminates")
        obs = stepper.obs
        actions = policy(obs, stepper.mask)
        step = stepper.step(actions)
        reward = np.sign(step.reward) if signs else step.reward
        for i, episode in enumerate(running):
            # Successors are the observations of the next step, except at the end of an episode.
            end = bool(step.terminated[i])
            last = step.next_obs[i].copy() if end else None
            episode.append(_Step(obs[i].copy(), actions[i], float(reward[i]), last))
            if end:
                kept += episode
            if end or step.truncated[i]:
                running[i] = []
    return _keep(kept, envs, gamma, device or torch.device("cpu"))


class _Step(NamedTuple):
    obs: np.ndarray
    action: Any
    reward: float
    last: np.ndarray | None  # the last observation, where the episode ended


def _keep(kept: list[_Step], envs: ExactVector, gamma: float, device: torch.device) -> Recorded:
    """The steps as a `Recorded`."""
    observation, action = envs.single_observation_space, envs.single_action_space
    stacked = envs.stacked_frames
    memory = Replay(len(kept), 1, observation, action, device, stacked=stacked)
    never = np.zeros(1, dtype=bool)
    for number, (obs, action_taken, reward, last) in enumerate(kept):
        following = kept[number + 1].obs if last is None else last
        memory.add(
            obs[None],
            np.array([action_taken]),
            np.array([reward], dtype=np.float32),
            np.array([last is not None]),
            never,
            following[None],
        )
    # With stacked frames, very short episodes displace the oldest steps.
    kept = kept[-memory.times() :]
    assert isinstance(observation, spaces.Box)
    return Recorded(
        memory,
        torch.tensor([int(step.action) for step in kept], device=device),
        torch.tensor([step.reward for step in kept], dtype=torch.float32, device=device),
        torch.tensor([step.last is not None for step in kept], device=device),
        gamma,
        observation,
        int(action.n),  # type: ignore[attr-defined]
    )


def explored(policy: Policy, actions: int, seed: int, epsilon: float = EPSILON) -> Policy:
    """The policy with a fraction `epsilon` of uniformly random actions."""
    rng = np.random.default_rng((seed, 5))

    def act(obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        chosen = policy(obs, mask)
        random = rng.integers(actions, size=len(obs))
        return np.where(rng.random(len(obs)) < epsilon, random, chosen)

    return act


def along_velocity(obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Mountain Car's policy: push left while rolling left, right otherwise."""
    return np.where(obs[:, 1] < 0, 0, 2)


def mountain_car_record(steps: int, seed: int) -> Recorded:
    """Episodes of that policy on Gymnasium's Mountain Car: reward -0.1 per step, gamma 0.95."""
    envs = make_vector(mountain_car.ID, 4, seed)
    policy = explored(along_velocity, 3, seed)
    return record(policy, envs, steps, mountain_car.GAMMA)


def mountain_car_values(recorded: Recorded) -> tuple[Tensor, Tensor]:
    """Exact action values of the policy, (T, A) each: at all states and at their successors.

    Values are those of the policy without random actions.
    """

    def values(states: Tensor) -> Tensor:
        columns = []
        for action in range(recorded.actions):
            following, arrived = mountain_car.step(states, float(action - 1))
            rest = torch.where(arrived, 0.0, mountain_car.value(following))
            columns.append(mountain_car.REWARD + mountain_car.GAMMA * rest)
        return torch.stack(columns, -1).float()

    everything = recorded.at(torch.arange(recorded.size))
    return values(everything.obs.double()), values(everything.next_obs.double())


@dataclass(frozen=True)
class Expert:
    """A trained Q-learner from a run folder.

    Attributes:
        env: the id of its environment.
        policy: its greedy policy.
        network: its action values.
        gamma: its discount.
        device: device of the network.
        envs: creates a number of environments like those of training, from a seed.
    """

    env: str
    policy: Policy
    network: nn.Module
    gamma: float
    device: torch.device
    envs: Callable[[int, int], ExactVector]

    def record(
        self, steps: int, seed: int, num_envs: int = 8, gamma: float | None = None
    ) -> Recorded:
        """Episodes of its policy with some random actions, and the signs of rewards.

        `gamma` replaces its discount.
        """
        envs = self.envs(num_envs, seed)
        actions = int(envs.single_action_space.n)  # type: ignore[attr-defined]
        policy = explored(self.policy, actions, seed)
        gamma = self.gamma if gamma is None else gamma
        return record(policy, envs, steps, gamma, signs=True, device=self.device)


def expert(folder: str, name: str) -> Expert:
    """The trained Q-learner of a run folder; `name` is the requesting reproduction.

    Raises:
        UserError: no folder, no run in it, or a run of another kind of agent.
    """
    require(folder != "", f"{name}: needs --folder with a run of a Q-learner, such as runs/…")
    path = Path(folder).expanduser()
    require((path / "config.toml").exists(), f"--folder {folder!r}: is no run folder of train.py")
    run = load_run(path)
    command, agent = run.command, cast(Any, run.agent)
    require(
        hasattr(agent, "network") and hasattr(agent.config, "gamma") and hasattr(agent, "target"),
        f"--folder {folder!r}: is a run of {command.run.agent}; accepted is a Q-learner",
    )

    def envs(num_envs: int, seed: int) -> ExactVector:
        return make_vector(command.run.env, num_envs, seed, **command.run.environment())

    device = agent.setup.device
    return Expert(
        command.run.env, agent.policy(True), agent.network, agent.config.gamma, device, envs
    )
