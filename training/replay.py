"""Replay memories that live on the device they are sampled to.

`Replay` keeps every transition whole. `FrameReplay` is for stacks of images: it keeps each frame
once and stacks when sampling, a million Atari steps in 7 GB instead of 56.
Both are time-major rings over B environments, sample n-step transitions uniformly with their own
generator, and save themselves in shards so that a checkpoint writes only what is new.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from gymnasium import spaces
from torch import Tensor

from semigradient.errors import UserError
from semigradient.training.state import Shard

_SHARD_BYTES = 64 * 2**20


class Batch(NamedTuple):
    """m sampled (n-step) transitions, on the device of the memory."""

    obs: Tensor  # (m, *observation)
    action: Tensor  # (m, *action)
    reward: Tensor  # (m,) float32, discounted sum of up to n rewards
    discount: Tensor  # (m,) float32, γᵏ, or 0 where the episode terminated
    next_obs: Tensor  # (m, *observation), k ≤ n steps later
    next_mask: Tensor | None  # (m, A) bool, legal actions at next_obs


class Ring:
    """Named rows (T, B, …) in one ring over time, saved in shards.

    Writing on the CPU goes through numpy views of the same memory, which costs a tenth of
    assigning to a tensor.
    """

    def __init__(self, length: int, num_envs: int, device: torch.device) -> None:
        self.length, self.num_envs, self.device = length, num_envs, device
        self.fields: dict[str, Tensor] = {}
        self.added = 0
        self._views: dict[str, Any] = {}

    def field(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> None:
        """Add rows of one more kind."""
        rows = (self.length, self.num_envs, *shape)
        self.adopt(name, torch.zeros(rows, dtype=dtype, device=self.device))

    def adopt(self, name: str, tensor: Tensor) -> None:
        """Add rows of one more kind that stand in the given memory (T, B, …)."""
        self.fields[name] = tensor
        self._views[name] = tensor.numpy() if self.device.type == "cpu" else tensor

    @property
    def size(self) -> int:
        """Rows that hold data."""
        return min(self.added, self.length)

    def add(self, **rows: np.ndarray) -> None:
        """Write one row (B, …) of every kind over the oldest one."""
        at = self.added % self.length
        for name, row in rows.items():
            view = self._views[name]
            view[at] = row if isinstance(view, np.ndarray) else torch.from_numpy(row)
        self.added += 1

    def flat(self, name: str) -> Tensor:
        """Rows as (T·B, …)."""
        return self.fields[name].flatten(0, 1)

    def rows(self, name: str, index: Tensor) -> Tensor:
        """Rows (m, …) at flat indices (m,)."""
        return self.flat(name).index_select(0, index)

    def state_dict(self) -> dict[str, Any]:
        """Counters and the rows that hold data; large fields in shards with a revision each."""
        state: dict[str, Any] = {"added": self.added}
        for name, tensor in self.fields.items():
            rows = self._rows_per_shard(tensor)
            if rows >= self.length:
                state[name] = tensor[: self.size]
                continue
            state[name] = {
                f"{first:010d}": Shard(tensor[first:last], self._last_write(first, last))
                for first in range(0, self.size, rows)
                if (last := min(first + rows, self.size))
            }
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take saved rows back."""
        self.added = int(state["added"])
        for name, tensor in self.fields.items():
            saved = state[name]
            parts = saved.items() if isinstance(saved, dict) else [("0", saved)]
            for first, part in parts:
                tensor[int(first) : int(first) + len(part)].copy_(part)

    def _rows_per_shard(self, tensor: Tensor) -> int:
        row_bytes = tensor[0].numel() * tensor.element_size()
        return max(1, _SHARD_BYTES // row_bytes)

    def _last_write(self, first: int, last: int) -> int:
        """Number of the newest addition among the rows first … last - 1: their revision."""
        at = (self.added - 1) % self.length
        if first <= at < last:
            return self.added
        behind = at - (last - 1) if at >= last else at + self.length - (last - 1)
        return self.added - behind


class Replay:
    """Uniform replay of whole transitions, for observations that are small.

    Args:
        capacity: transitions to keep, all environments together.
        num_envs: B.
        observation: space of one observation.
        action: space of one action.
        device: where the memory lives.
        actions_masked: also keep the legal actions of successors.

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
        actions_masked: bool = False,
    ) -> None:
        self.num_envs, self.device = num_envs, device
        shape, dtype = observation.shape, _torch_dtype(observation.dtype)
        length = max(1, capacity // num_envs)
        check_memory(capacity, self.bytes_needed(length * num_envs, observation), device)
        self.ring = Ring(length, num_envs, device)
        self.ring.field("obs", shape, dtype)
        self.ring.field("next_obs", shape, dtype)
        self.ring.field("action", action.shape or (), _torch_dtype(action.dtype))
        self.ring.field("reward", (), torch.float32)
        self.ring.field("terminated", (), torch.bool)
        self.ring.field("truncated", (), torch.bool)
        if actions_masked:
            self.ring.field("next_mask", (int(action.n),), torch.bool)  # type: ignore[attr-defined]

    @staticmethod
    def bytes_needed(capacity: int, observation: spaces.Box) -> int:
        """Bytes that `capacity` transitions take."""
        return capacity * (2 * int(np.prod(observation.shape)) * observation.dtype.itemsize + 16)

    def __len__(self) -> int:
        return self.ring.size * self.num_envs

    def add(
        self,
        obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        next_obs: np.ndarray,
        next_mask: np.ndarray | None = None,
    ) -> None:
        """Keep one step of B environments."""
        rows = {
            "obs": obs,
            "action": action,
            "reward": reward,
            "terminated": terminated,
            "truncated": truncated,
            "next_obs": next_obs,
        }
        if "next_mask" in self.ring.fields:
            rows["next_mask"] = np.ones(1, dtype=bool) if next_mask is None else next_mask
        self.ring.add(**rows)

    def sample(self, batch: int, generator: torch.Generator, gamma: float, n: int = 1) -> Batch:
        """Draw `batch` transitions of up to n steps, uniformly with replacement."""
        n = min(n, self.ring.size)
        draw = torch.randint(self.times(n) * self.num_envs, (batch,), generator=generator)
        return self.at(draw.to(self.device), gamma, n)

    def times(self, n: int = 1) -> int:
        """Instants at which n steps can begin."""
        return max(0, self.ring.size - n + 1)

    def ended(self, draw: Tensor) -> Tensor:
        """Whether an episode ended (bool) with the transitions that `at` gives for `draw`."""
        return _ended(self.ring, draw, self.ring.added - self.ring.size)

    def at(self, draw: Tensor, gamma: float, n: int = 1) -> Batch:
        """Transitions of up to n steps at (m,) numbers: age from the oldest, times B, plus env."""
        ring = self.ring
        first, last, reward, discount = n_step(ring, draw, ring.added - ring.size, gamma, n)
        masked = "next_mask" in ring.fields
        return Batch(
            ring.rows("obs", first),
            ring.rows("action", first),
            reward,
            discount,
            ring.rows("next_obs", last),
            ring.rows("next_mask", last) if masked else None,
        )

    def state_dict(self) -> dict[str, Any]:
        """All transitions."""
        return self.ring.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take saved transitions back."""
        self.ring.load_state_dict(state)


class FrameReplay:
    """Uniform replay for stacks of images that keeps each frame once.

    Every environment has its own ring of frames. An episode begins by writing its whole first
    stack, each step writes the newest frame, and a transition remembers where its newest frame
    and its successor's are. A transition can be sampled as long as its oldest frame stands.

    Args and errors: as `Replay`; observations are (stack, H, W) bytes.
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        observation: spaces.Box,
        action: spaces.Space,
        device: torch.device,
        actions_masked: bool = False,
    ) -> None:
        self.num_envs, self.device = num_envs, device
        self.stack, *self.frame_shape = observation.shape
        length = max(1, capacity // num_envs)
        self.frame_length = length + length // 16 + 8 * self.stack
        check_memory(capacity, self.bytes_needed(length * num_envs, observation), device)
        self.ring = Ring(length, num_envs, device)
        self.ring.field("action", action.shape or (), _torch_dtype(action.dtype))
        self.ring.field("reward", (), torch.float32)
        self.ring.field("terminated", (), torch.bool)
        self.ring.field("truncated", (), torch.bool)
        if actions_masked:
            self.ring.field("next_mask", (int(action.n),), torch.bool)  # type: ignore[attr-defined]
        # Absolute numbers of the newest frame of the observation and of its successor.
        self.ring.field("frame", (), torch.int64)
        self.ring.field("next_frame", (), torch.int64)
        self.pixels = torch.zeros(
            (num_envs, self.frame_length, *self.frame_shape),
            dtype=_torch_dtype(observation.dtype),
            device=device,
        )
        self.frames = [Ring(self.frame_length, 1, device) for _ in range(num_envs)]
        for frames, pixels in zip(self.frames, self.pixels, strict=True):
            frames.adopt("pixels", pixels[:, None])
        self._tail = 0
        self._fresh = np.ones(num_envs, dtype=bool)
        self._rows = np.zeros((length, num_envs), dtype=np.int64)  # host copy of "frame"

    @staticmethod
    def bytes_needed(capacity: int, observation: spaces.Box) -> int:
        """Bytes that `capacity` transitions take."""
        frame = int(np.prod(observation.shape[1:])) * observation.dtype.itemsize
        return int(capacity * (frame * 17 / 16 + 32))

    def __len__(self) -> int:
        return (self.ring.added - self._tail) * self.num_envs

    def add(
        self,
        obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        next_obs: np.ndarray,
        next_mask: np.ndarray | None = None,
    ) -> None:
        """Keep one step of B environments."""
        frame = np.empty(self.num_envs, dtype=np.int64)
        for index, frames in enumerate(self.frames):
            if self._fresh[index]:
                for image in obs[index]:
                    frames.add(pixels=image[None])
            frame[index] = frames.added - 1
            frames.add(pixels=next_obs[index, -1][None])
        self._fresh = terminated | truncated
        self._rows[self.ring.added % self.ring.length] = frame
        rows = {
            "action": action,
            "reward": reward,
            "terminated": terminated,
            "truncated": truncated,
            "frame": frame,
            "next_frame": frame + 1,
        }
        if "next_mask" in self.ring.fields:
            rows["next_mask"] = np.ones(1, dtype=bool) if next_mask is None else next_mask
        self.ring.add(**rows)
        self._drop_overwritten()

    def sample(self, batch: int, generator: torch.Generator, gamma: float, n: int = 1) -> Batch:
        """Draw `batch` transitions of up to n steps, uniformly with replacement."""
        n = min(n, self.ring.added - self._tail)
        draw = torch.randint(self.times(n) * self.num_envs, (batch,), generator=generator)
        return self.at(draw.to(self.device), gamma, n)

    def times(self, n: int = 1) -> int:
        """Instants at which n steps can begin."""
        return max(0, self.ring.added - self._tail - n + 1)

    def ended(self, draw: Tensor) -> Tensor:
        """Whether an episode ended (bool) with the transitions that `at` gives for `draw`."""
        return _ended(self.ring, draw, self._tail)

    def at(self, draw: Tensor, gamma: float, n: int = 1) -> Batch:
        """Transitions of up to n steps at (m,) numbers: age from the oldest, times B, plus env."""
        first, last, reward, discount = n_step(self.ring, draw, self._tail, gamma, n)
        env = first % self.num_envs
        masked = "next_mask" in self.ring.fields
        return Batch(
            self._stacks(self.ring.rows("frame", first), env),
            self.ring.rows("action", first),
            reward,
            discount,
            self._stacks(self.ring.rows("next_frame", last), env),
            self.ring.rows("next_mask", last) if masked else None,
        )

    def state_dict(self) -> dict[str, Any]:
        """All transitions and frames."""
        return {
            "ring": self.ring.state_dict(),
            "frames": {str(i): frames.state_dict() for i, frames in enumerate(self.frames)},
            "tail": self._tail,
            "fresh": self._fresh.copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take saved transitions and frames back."""
        self.ring.load_state_dict(state["ring"])
        for index, frames in enumerate(self.frames):
            frames.load_state_dict(state["frames"][str(index)])
        self._tail, self._fresh = state["tail"], state["fresh"].copy()
        self._rows = self.ring.fields["frame"].cpu().numpy().copy()

    def _stacks(self, newest: Tensor, env: Tensor) -> Tensor:
        """(m, stack, H, W) of the observations whose newest frames have these numbers."""
        offsets = torch.arange(1 - self.stack, 1, device=self.device)
        position = (newest[:, None] + offsets) % self.frame_length + env[
            :, None
        ] * self.frame_length
        stacks = self.pixels.flatten(0, 1).index_select(0, position.flatten())
        return stacks.view(len(newest), self.stack, *self.frame_shape)

    def _drop_overwritten(self) -> None:
        """Move the tail past transitions whose oldest frame is gone."""
        self._tail = max(self._tail, self.ring.added - self.ring.length)
        oldest = np.array([frames.added - self.frame_length for frames in self.frames])
        while (self._rows[self._tail % self.ring.length] - self.stack + 1 < oldest).any():
            self._tail += 1


def n_step(
    ring: Ring, draw: Tensor, oldest: int, gamma: float, n: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """First and last rows, summed reward and remaining discount of up to n steps.

    Args:
        ring: rows with `reward`, `terminated` and `truncated`.
        draw: (m,) in [0, times·B): age from the oldest row, times B, plus environment.
        oldest: number of the oldest usable addition.
        gamma: discount of one step.
        n: most steps; fewer where the episode ends, and only termination sets the discount to 0.

    Returns:
        Flat row indices of the first and last transition, reward (m,), discount (m,).
    """
    count = ring.num_envs
    first = (draw + oldest * count) % (ring.length * count)
    rewards, terminated = ring.flat("reward"), ring.flat("terminated")
    if n == 1:
        going_on = terminated.index_select(0, first).logical_not_()
        return first, first, rewards.index_select(0, first), going_on * gamma
    time, env = draw // count + oldest, draw % count
    truncated = ring.flat("truncated")
    last = first.clone()
    reward, discount = torch.zeros_like(rewards[first]), torch.ones_like(rewards[first])
    running = torch.ones_like(first, dtype=torch.bool)
    for step in range(n):
        row = (time + step) % ring.length * count + env
        last = torch.where(running, row, last)
        reward += torch.where(running, discount * rewards[row], 0.0)
        discount = torch.where(running, discount * gamma, discount)
        running = running & ~(terminated[row] | truncated[row])
    return first, last, reward, discount * ~terminated[last]


def _ended(ring: Ring, draw: Tensor, oldest: int) -> Tensor:
    """Ends of episodes at numbers of any shape, as `n_step` counts them."""
    row = (draw + oldest * ring.num_envs) % (ring.length * ring.num_envs)
    return ring.flat("terminated")[row] | ring.flat("truncated")[row]


def check_memory(capacity: int, needed: int, device: torch.device) -> None:
    """Refuse a memory that would not fit, before anything is allocated."""
    if device.type == "cuda":
        available = torch.cuda.mem_get_info(device)[0]
    else:
        available = psutil.virtual_memory().available
    if needed > 0.9 * available:
        fits = int(capacity * 0.9 * available / needed)
        raise UserError(
            f"buffer_size={capacity}: needs {needed / 2**30:.1f} GiB, {available / 2**30:.1f} GiB "
            f"are free on {device.type}; accepted up to {fits}"
        )


def _torch_dtype(dtype: Any) -> torch.dtype:
    kind = np.dtype(dtype)
    return torch.from_numpy(np.zeros((), dtype=kind)).dtype
