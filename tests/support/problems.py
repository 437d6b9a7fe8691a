"""Tiny environments whose solution is known, and agents in them."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from semigradient import agents, optim
from semigradient.envs import make_vector
from semigradient.training.agent import AgentContext

CPU = torch.device("cpu")


class Clock(gymnasium.Env):
    """Reward 1 a step for five steps; shows the time only when asked to."""

    action_space = spaces.Discrete(2)
    observation_space = spaces.Box(0, 1, (6,), np.float32)

    def __init__(self, terminates: bool = False, shows_time: bool = False) -> None:
        self.terminates, self.shows_time = terminates, shows_time

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.time = 0
        return self._see(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.time += 1
        over = self.time == 5
        return self._see(), 1.0, over and self.terminates, over and not self.terminates, {}

    def _see(self) -> np.ndarray:
        return np.eye(6, dtype=np.float32)[self.time if self.shows_time else 0]


class Minefield(gymnasium.Env):
    """One to three of four actions are legal; an illegal one is counted, punished and ends it."""

    action_space = spaces.Discrete(4)
    illegal = 0
    taken = 0

    def __init__(self, images: bool = False) -> None:
        self.observation_space = spaces.Box(0, 1, (1,), np.float32)
        if images:
            self.observation_space = spaces.Box(0, 255, (1, 36, 36), np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.time = 0
        return self._see()

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        Minefield.taken += 1
        if not self.legal[action]:
            Minefield.illegal += 1
            return *self._see()[:1], -1000.0, True, False, {"action_mask": self.legal}
        self.time += 1
        obs, info = self._see()
        return obs, float(action == 0), False, self.time == 7, info

    def _see(self) -> tuple[np.ndarray, dict]:
        self.legal = np.zeros(4, dtype=bool)
        count = self.np_random.integers(1, 4)
        self.legal[self.np_random.permutation(4)[:count]] = True
        obs = np.ones(self.observation_space.shape, self.observation_space.dtype)
        return obs, {"action_mask": self.legal.copy()}


class Precise(gymnasium.Env):
    """The wanted action is the sign of an observation in double precision."""

    action_space = spaces.Discrete(2)
    observation_space = spaces.Box(-1, 1, (3,), np.float64)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.shown = self.np_random.uniform(-1, 1, 3)
        return self.shown, {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward = float(action == (self.shown[0] > 0))
        return self.reset()[0], reward, True, False, {}


class Echo(gymnasium.Env):
    """One step: the observation tells the action that is wanted."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.action_space: spaces.Space = spaces.MultiDiscrete([3, 2])
        self.observation_space = spaces.Box(-2, 2, (5,), np.float32)
        if kind == "box":
            self.action_space = spaces.Box(-1, 1, (2,), np.float32)
            self.observation_space = spaces.Box(-2, 2, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return self._ask(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert self.action_space.contains(action)
        if self.kind == "box":
            reward = -float(np.abs(action - self.wanted).mean())
        else:
            reward = float((action == self.wanted).mean())
        return self._ask(), reward, True, False, {}

    def _ask(self) -> np.ndarray:
        if self.kind == "box":
            self.wanted = self.np_random.uniform(-0.8, 0.8, 2).astype(np.float32)
            return self.wanted
        self.wanted = self.np_random.integers([3, 2])
        return np.concatenate(
            [np.eye(n)[w] for n, w in zip([3, 2], self.wanted, strict=True)]
        ).astype(np.float32)


class Contexts(gymnasium.Env):
    """One step in one of three contexts, that share no feature: each wants an action of its own.

    Of four actions three are legal: the wanted one, the one after it, and the last.
    """

    action_space = spaces.Discrete(4)
    observation_space = spaces.Box(0, 1, (3,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.wanted = int(self.np_random.integers(3))
        legal = np.zeros(4, dtype=bool)
        legal[[self.wanted, (self.wanted + 1) % 3, 3]] = True
        return np.eye(3, dtype=np.float32)[self.wanted], {"action_mask": legal}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward = float(action == self.wanted)
        obs, info = self.reset()
        return obs, reward, True, False, info


class TwoSteps(gymnasium.Env):
    """Two cells, shown one-hot: 1 goes on, and from the second is worth 1; 0 ends with nothing."""

    action_space = spaces.Discrete(2)
    observation_space = spaces.Box(0, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.cell = 0
        return np.eye(2, dtype=np.float32)[0], {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        arrived = self.cell == 1 and action == 1
        over = self.cell == 1 or action == 0
        self.cell = 1
        return np.eye(2, dtype=np.float32)[1], float(arrived), over, False, {}


for _kind in (Clock, Minefield, Precise, Echo, Contexts, TwoSteps):
    gymnasium.register(f"test/{_kind.__name__}-v0", _kind)


def build(
    name: str,
    env_id: str,
    config: dict[str, Any],
    *,
    num_envs: int = 4,
    optimizer: str = "adam",
    seed: int = 0,
    total: int = 10_000,
    compile: bool = False,
    rates: dict[str, Any] | None = None,
    **options: Any,
) -> Any:
    torch.manual_seed(seed)
    chosen = optim.config_class(optimizer)(**(rates or {"lr": 1e-2}))
    setup = AgentContext(
        envs=make_vector(env_id, num_envs, seed, **options),
        device=CPU,
        seed=seed,
        total_steps=total,
        optimizer=chosen,
        compile=compile,
    )
    overrides = agents.entry(name).overrides
    return agents.agent_class(name)(agents.config_class(name)(**{**overrides, **config}), setup)


DQN = {
    "gamma": 0.9,
    "target_update_every": 20,
    "buffer_size": 2000,
    "learning_starts": 40,
    "epsilon_end": 1.0,
    "hidden": (16,),
    "loss": "mse",
    "batch_size": 64,
}


PPO = {
    "gamma": 0.9,
    "rollout_steps": 32,
    "batch_size": 128,
    "epochs": 10,
    "max_grad_norm": 0.0,
    "hidden": (16,),
}


A2C = {
    "gamma": 0.9,
    "rollout_steps": 7,
    "max_grad_norm": 0.0,
    "schedule": "constant",
    "hidden": (16,),
}


def parameters(network: nn.Module) -> torch.Tensor:
    """All of them in one vector (P,), as they are now."""
    return torch.cat([p.detach().flatten() for p in network.parameters()]).clone()
