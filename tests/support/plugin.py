"""A package of somebody else, as files: an environment, an agent, an optimizer, a diagnostic."""

from __future__ import annotations

from pathlib import Path

_FILES = {
    "crafted/__init__.py": """
import gymnasium

gymnasium.register("Corridor-v0", entry_point="crafted.corridor:Corridor", max_episode_steps=9)
""",
    "crafted/corridor.py": '''
import gymnasium
import numpy as np


class Corridor(gymnasium.Env):
    """Walk to the right end; every step costs 1."""

    def __init__(self, length=4, render_mode=None):
        self.length = length
        self.observation_space = gymnasium.spaces.Box(0, 1, (2,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(self.length))
        return self._observe(), {}

    def step(self, action):
        self.place = max(0, self.place + (1 if action else -1))
        return self._observe(), -1.0, self.place >= self.length, False, {}

    def _observe(self):
        share = self.place / self.length
        return np.array([share, 1 - share], np.float32)
''',
    "crafted/parts.py": '''
from dataclasses import dataclass

from semigradient.diagnostics.derivatives import errors
from semigradient.diagnostics.observer import Findings


@dataclass(frozen=True)
class Adagrad:
    """Adagrad (Duchi et al. 2011)."""

    lr: float = 0.05
    """Learning rate."""

    def build(self, params):
        import torch

        return torch.optim.Adagrad(params, lr=self.lr)


def measure(view):
    """Mean size of the errors."""
    return Findings({"error": errors(view.train).abs().mean()})
''',
    "crafted/learner.py": '''
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from semigradient.training.agent import generator
from semigradient.training.stepping import EnvStepper


@dataclass(frozen=True)
class Config:
    """One-step Q-learning with linear values."""

    gamma: float = 0.9
    """Discount."""
    epsilon: float = 0.2
    """Share of random actions."""


class Learner:
    """Linear Q-learning."""

    STATE = ("values", "optimizer", "progress", "random")
    POLICY = ("values",)

    def __init__(self, config, setup):
        self.config, self.setup, self.timers = config, setup, setup.timers
        space = setup.envs.single_observation_space
        self.values = nn.Linear(space.shape[0], int(setup.envs.single_action_space.n))
        self.optimizer = setup.make_optimizer(self.values.parameters())
        self.progress = EnvStepper(setup.envs, setup.timers)
        self.random = generator(setup.seed, 1)

    def iterate(self):
        obs = torch.as_tensor(self.progress.obs)
        values = self.values(obs)
        count = len(obs)
        anything = torch.randint(values.shape[1], (count,), generator=self.random)
        explore = torch.rand(count, generator=self.random) < self.config.epsilon
        actions = torch.where(explore, anything, values.argmax(1))
        step = self.progress.step(actions.numpy())
        with torch.no_grad():
            later = self.values(torch.as_tensor(step.next_obs)).amax(1)
        alive = torch.as_tensor(~step.terminated).float()
        target = torch.as_tensor(step.reward).float() + self.config.gamma * alive * later
        loss = (values[torch.arange(count), actions] - target).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.detach()}

    def policy(self, deterministic):
        def act(obs, mask):
            with torch.no_grad():
                return self.values(torch.as_tensor(np.asarray(obs))).argmax(1).numpy()

        return act
''',
    "crafted-1.0.dist-info/METADATA": """
Metadata-Version: 2.1
Name: crafted
Version: 1.0
""",
    "crafted-1.0.dist-info/entry_points.txt": """
[semigradient.environments]
Corridor-v0 = crafted

[semigradient.agents]
linear-q = crafted.learner:Learner

[semigradient.optimizers]
adagrad = crafted.parts:Adagrad

[semigradient.diagnostics]
size-of-errors = crafted.parts:measure
""",
}


def write_package(folder: Path) -> Path:
    """Write the package into a folder, which an installer would have put on the path."""
    for name, content in _FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content.lstrip())
    return folder
