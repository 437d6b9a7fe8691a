"""Environments of continuous actions whose solution is known, and minibatches by chance."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from semigradient.training.replay import Batch


class Wide(gymnasium.Env):
    """One step: the observation tells where the wanted action lies between bounds far from 0."""

    action_space = spaces.Box(np.float32([-1, 500]), np.float32([3, 600]))
    observation_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.wanted = self.np_random.uniform(-0.8, 0.8, 2).astype(np.float32)
        return self.wanted, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert self.action_space.contains(action)
        found = (action - [1, 550]) / [2, 50]
        reward = -float(np.square(found - self.wanted).mean())
        return self.reset()[0], reward, True, False, {}


class Payday(gymnasium.Env):
    """Reward 1 a step for five steps, always the same to see; the end is an end or a time limit."""

    action_space = spaces.Box(-1, 1, (1,), np.float32)
    observation_space = spaces.Box(0, 1, (1,), np.float32)

    def __init__(self, terminates: bool = False) -> None:
        self.terminates = terminates

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.time = 0
        return np.ones(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.time += 1
        over = self.time == 5
        return np.ones(1, np.float32), 1.0, over and self.terminates, over, {}


for _kind in (Wide, Payday):
    gymnasium.register(f"test/{_kind.__name__}-v0", _kind)

SMALL = {
    "learning_starts": 64,
    "buffer_size": 10_000,
    "batch_size": 64,
    "hidden": (32,),
    "target_rate": 0.05,
    "train_every": 4,
}
"""Hyperparameters with which such environments are learned in a second."""


def random_batch(count: int = 6) -> Batch:
    """Transitions of Wide's shapes; the third terminates."""
    discount = torch.full((count,), 0.9)
    discount[2] = 0.0
    return Batch(
        obs=torch.randn(count, 2),
        action=2 * torch.rand(count, 2) - 1,
        reward=torch.randn(count),
        discount=discount,
        next_obs=torch.randn(count, 2),
        next_mask=None,
    )


def in_double(agent: Any, *networks: str) -> None:
    """Networks of an agent in double precision, the targets moved away from the others."""
    for name in networks:
        module = getattr(agent, name).double()
        if name.startswith("target"):
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=0.2)


def perceptron(layers: Any, rows: np.ndarray) -> np.ndarray:
    """Outputs of plain (weight, bias) layers, (inputs, outputs) each, with ReLU between them."""
    for number, (weight, bias) in enumerate(layers):
        rows = rows @ weight + bias
        rows = rows if number == len(layers) - 1 else np.maximum(rows, 0)
    return rows


def critic_layers(critics: Any, which: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights and biases of one of twin critics."""
    pairs = zip(critics.weights, critics.biases, strict=True)
    return [(w[which].detach().numpy(), b[which, 0].detach().numpy()) for w, b in pairs]


def actor_layers(actor: torch.nn.Module) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights and biases of a policy's linear layers."""
    linear = [m for m in actor.modules() if isinstance(m, torch.nn.Linear)]
    return [(m.weight.detach().numpy().T, m.bias.detach().numpy()) for m in linear]


def slope(loss: Any, parameter: torch.Tensor, step: float = 1e-6) -> torch.Tensor:
    """Derivatives of a number by every entry of a parameter, from finite differences."""
    flat, found = parameter.data.view(-1), torch.zeros_like(parameter.data).view(-1)
    for index in range(len(flat)):
        kept = flat[index].item()
        flat[index] = kept + step
        above = loss()
        flat[index] = kept - step
        found[index] = (above - loss()) / (2 * step)
        flat[index] = kept
    return found.view_as(parameter)
