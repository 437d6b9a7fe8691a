"""Uniform replay of n-step transitions, stored on the device of the learner.

A time-major ring over B environments; observations are kept whole or, for stacks of images, frame
by frame (`training/observations.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from semigradient.training.draws import Random, draw
from semigradient.training.observations import Observations, StackedFrames, WholeObservations
from semigradient.training.ring import Ring, check_memory, torch_dtype

_DRAWN_BYTES = 16 * 2**20  # of observations that are sampled at once


class Batch(NamedTuple):
    """m sampled (n-step) transitions, on the device of the memory.

    Of K runs that learn as one (K, m, …).
    """

    obs: Tensor  # (m, *observation)
    action: Tensor  # (m, *action)
    reward: Tensor  # (m,) float32, discounted sum of up to n rewards
    discount: Tensor  # (m,) float32, γᵏ, or 0 where the episode terminated
    next_obs: Tensor  # (m, *observation), k ≤ n steps later
    next_mask: Tensor | None  # (m, A) bool, legal actions at next_obs
    mask: Tensor | None = None  # (m, A) bool, legal actions at obs, where the memory keeps them
    weight: Tensor | None = None  # (m,) float32, importance weights of draws that are not uniform
    row: Tensor | None = None  # (m,) int64, where the memory keeps their priorities

    def split(self, size: int) -> Iterator[Batch]:
        """Minibatches of `size` transitions each."""
        axis = self.reward.ndim - 1
        count = self.reward.shape[axis] // size
        columns = [[None] * count if rows is None else rows.split(size, axis) for rows in self]
        return (Batch(*rows) for rows in zip(*columns, strict=True))


class Replay:
    """Uniform replay of transitions.

    Args:
        capacity: transitions to keep, all environments together.
        num_envs: B.
        observation: space of one observation.
        action: space of one action.
        device: of the memory.
        stacked: observations are stacks (stack, H, W) of frames: keep each frame once.

    Raises:
        UserError: the memory would not fit; the message names the bytes.
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        observation: spaces.Box,
        action: spaces.Space,
        device: torch.device,
        stacked: bool = False,
    ) -> None:
        self.num_envs, self.device = num_envs, device
        length = max(1, capacity // num_envs)
        storage: type[StackedFrames | WholeObservations]
        storage = StackedFrames if stacked else WholeObservations
        check_memory(capacity, storage.bytes_needed(length * num_envs, observation), device)
        self.ring = ring = Ring(length, num_envs, device)
        ring.field("action", action.shape or (), torch_dtype(action.dtype))
        ring.field("reward", (), torch.float32)
        ring.field("terminated", (), torch.bool)
        ring.field("truncated", (), torch.bool)
        self.observations: Observations = storage(ring, observation)
        self._transition_bytes = 2 * observation.dtype.itemsize * prod(observation.shape)

    @property
    def is_stacked(self) -> bool:
        """Whether frames are kept once, and stacked when sampled."""
        return isinstance(self.observations, StackedFrames)

    @property
    def is_continuous(self) -> bool:
        """Whether observations are real numbers."""
        return not self.is_stacked and self.ring.fields["obs"].is_floating_point()

    def __len__(self) -> int:
        return self.times() * self.num_envs

    def add(
        self,
        obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        next_obs: np.ndarray,
        next_mask: np.ndarray | None = None,
        mask: np.ndarray | None = None,
    ) -> None:
        """Keep one step of B environments; legal actions (B, A) where given, from then on."""
        rows = {
            "action": action,
            "reward": reward,
            "terminated": terminated,
            "truncated": truncated,
            **self.observations.rows(obs, next_obs, terminated | truncated),
        }
        for name, legal in (("next_mask", next_mask), ("mask", mask)):
            if legal is not None:
                self.ring.masks(name, legal)
            if name in self.ring.fields:
                rows[name] = np.ones(1, dtype=bool) if legal is None else legal
        self.ring.add(**rows)
        self.observations.committed()

    def sample(self, batch: int, random: Random, gamma: float, n: int = 1) -> Batch:
        """Draw `batch` transitions of up to n steps, uniformly with replacement."""
        n = min(n, self.times())
        count = self.times(n) * self.num_envs
        drawn = draw(random, lambda own: torch.randint(count, (batch,), generator=own))
        return self.at(drawn.to(self.device, non_blocking=True), gamma, n)

    def samples(
        self, count: int, size: int, random: Random, gamma: float, n: int = 1
    ) -> Iterator[Batch]:
        """Draw `count` minibatches of `size`, as many at once as fit a bounded piece of memory."""
        at_once = max(1, _DRAWN_BYTES // (self._transition_bytes * size))
        for first in range(0, count, at_once):
            yield self.sample(min(at_once, count - first) * size, random, gamma, n)

    def times(self, n: int = 1) -> int:
        """Instants at which n steps can begin."""
        return max(0, self.ring.added - self.observations.tail - n + 1)

    def ended(self, drawn: Tensor) -> Tensor:
        """Whether an episode ended (bool) with the transitions that `at` gives for `drawn`."""
        row = self.ring.places(drawn, self.observations.tail)
        return self.ring.rows("terminated", row) | self.ring.rows("truncated", row)

    def at(self, drawn: Tensor, gamma: float, n: int = 1) -> Batch:
        """Transitions of up to n steps at (m,) numbers: age from the oldest, times B, plus env."""
        ring, tail = self.ring, self.observations.tail
        first, last, reward, discount = n_step(ring, drawn, tail, gamma, n)
        return Batch(
            self.observations.before(first),
            ring.rows("action", first),
            reward,
            discount,
            self.observations.after(last),
            ring.rows("next_mask", last) if "next_mask" in ring.fields else None,
            ring.rows("mask", first) if "mask" in ring.fields else None,
        )

    def state_dict(self) -> dict[str, Any]:
        """All transitions."""
        return {"ring": self.ring.state_dict(), "observations": self.observations.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load saved transitions."""
        self.ring.load_state_dict(state["ring"])
        self.observations.load_state_dict(state["observations"])


def n_step(
    ring: Ring, draw: Tensor, oldest: int, gamma: float, n: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """First and last rows, summed reward and remaining discount of up to n steps.

    Args:
        ring: rows with `reward`, `terminated` and `truncated`.
        draw: (m,) in [0, times·B): age from the oldest row, times B, plus environment; (K, m) of
            K rings that are one.
        oldest: number of the oldest usable addition.
        gamma: discount of one step.
        n: most steps; fewer where the episode ends, and only termination sets the discount to 0.

    Returns:
        Flat row indices of the first and last transition, reward (m,), discount (m,).
    """
    first = ring.places(draw, oldest)
    if n == 1:
        going_on = ring.rows("terminated", first).logical_not_()
        return first, first, ring.rows("reward", first), going_on * gamma
    rows = torch.stack([first, *(ring.places(draw, oldest + step) for step in range(1, n))])
    rewards, terminated = ring.rows("reward", rows), ring.rows("terminated", rows)
    going_on = (terminated | ring.rows("truncated", rows)).logical_not_()
    last, reward, final = first, rewards[0], terminated[0]
    discount, running = torch.full_like(reward, gamma), going_on[0]
    for step in range(1, n):
        last = torch.where(running, rows[step], last)
        final = torch.where(running, terminated[step], final)
        reward = reward + discount * rewards[step] * running
        discount = torch.where(running, discount * gamma, discount)
        running = running & going_on[step]
    return first, last, reward, discount * final.logical_not()
