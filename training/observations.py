"""Storage of observations in a replay memory: whole, or each frame of a stack of images once.

Both write into rows of the memory's `Ring` and return the observations of flat row indices.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from semigradient.training.ring import Ring, torch_dtype


class Observations(Protocol):
    """Observations of the transitions of a ring."""

    @property
    def tail(self) -> int:
        """Number of the oldest addition whose observations are all stored."""
        ...

    def rows(self, obs: np.ndarray, next_obs: np.ndarray, ended: np.ndarray) -> dict[str, Any]:
        """Take in one step (B, *observation); returns the rows that the ring is to store."""
        ...

    def committed(self) -> None:
        """Called after the ring has stored the rows."""
        ...

    def before(self, row: Tensor) -> Tensor:
        """Observations (m, *observation) at flat row indices (m,)."""
        ...

    def after(self, row: Tensor) -> Tensor:
        """Their successors."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """State outside the ring."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a saved state; the ring is loaded before."""
        ...


class WholeObservations:
    """Every observation and its successor, for observations that are small."""

    def __init__(self, ring: Ring, observation: spaces.Box) -> None:
        self.ring = ring
        for name in ("obs", "next_obs"):
            ring.field(name, observation.shape, torch_dtype(observation.dtype))

    @staticmethod
    def bytes_needed(capacity: int, observation: spaces.Box) -> int:
        """Bytes that `capacity` transitions take."""
        return capacity * (2 * int(np.prod(observation.shape)) * observation.dtype.itemsize + 16)

    @property
    def tail(self) -> int:
        """Number of the oldest addition."""
        return self.ring.added - self.ring.size

    def rows(self, obs: np.ndarray, next_obs: np.ndarray, ended: np.ndarray) -> dict[str, Any]:
        """Both observations."""
        return {"obs": obs, "next_obs": next_obs}

    def committed(self) -> None:
        """Nothing to do."""

    def before(self, row: Tensor) -> Tensor:
        """Observations (m, *observation) at flat row indices (m,)."""
        return self.ring.rows("obs", row)

    def after(self, row: Tensor) -> Tensor:
        """Their successors."""
        return self.ring.rows("next_obs", row)

    def state_dict(self) -> dict[str, Any]:
        """None: the ring holds everything."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a saved state."""


class StackedFrames:
    """Each frame of stacks (stack, H, W) of bytes once: a million Atari steps in 7 GB, not in 56.

    Every environment has its own ring of frames. An episode begins by writing its whole first
    stack, each step writes the newest frame, and a transition remembers where its newest frame
    and its successor's are. A transition can be sampled as long as its oldest frame is stored.
    """

    def __init__(self, ring: Ring, observation: spaces.Box) -> None:
        self.ring = ring
        self.stack, *self.frame_shape = observation.shape
        # Absolute numbers of the newest frame of the observation and of its successor.
        ring.field("frame", (), torch.int64)
        ring.field("next_frame", (), torch.int64)
        self.frame_length = ring.length + ring.length // 16 + 8 * self.stack
        self.pixels = torch.zeros(
            (ring.num_envs, self.frame_length, *self.frame_shape),
            dtype=torch_dtype(observation.dtype),
            device=ring.device,
        )
        self.frames = [Ring(self.frame_length, 1, ring.device) for _ in range(ring.num_envs)]
        for frames, pixels in zip(self.frames, self.pixels, strict=True):
            frames.adopt("pixels", pixels[:, None])
        self.tail = 0
        self._fresh = np.ones(ring.num_envs, dtype=bool)
        self._newest = np.zeros((ring.length, ring.num_envs), np.int64)  # "frame", on the host

    @staticmethod
    def bytes_needed(capacity: int, observation: spaces.Box) -> int:
        """Bytes that `capacity` transitions take."""
        frame = int(np.prod(observation.shape[1:])) * observation.dtype.itemsize
        return int(capacity * (frame * 17 / 16 + 32))

    def rows(self, obs: np.ndarray, next_obs: np.ndarray, ended: np.ndarray) -> dict[str, Any]:
        """Write the new frames; returns their numbers."""
        frame = np.empty(self.ring.num_envs, dtype=np.int64)
        for index, frames in enumerate(self.frames):
            if self._fresh[index]:
                for image in obs[index]:
                    frames.add(pixels=image[None])
            frame[index] = frames.added - 1
            frames.add(pixels=next_obs[index, -1][None])
        self._fresh = ended
        self._newest[self.ring.added % self.ring.length] = frame
        return {"frame": frame, "next_frame": frame + 1}

    def committed(self) -> None:
        """Move the tail past transitions whose oldest frame is gone."""
        self.tail = max(self.tail, self.ring.added - self.ring.length)
        oldest = np.array([frames.added - self.frame_length for frames in self.frames])
        while (self._newest[self.tail % self.ring.length] - self.stack + 1 < oldest).any():
            self.tail += 1

    def before(self, row: Tensor) -> Tensor:
        """Observations (m, stack, H, W) at flat row indices (m,)."""
        return self._stacks(self.ring.rows("frame", row), row % self.ring.num_envs)

    def after(self, row: Tensor) -> Tensor:
        """Their successors."""
        return self._stacks(self.ring.rows("next_frame", row), row % self.ring.num_envs)

    def _stacks(self, newest: Tensor, env: Tensor) -> Tensor:
        """(m, stack, H, W) of the observations whose newest frames have these numbers."""
        offsets = torch.arange(1 - self.stack, 1, device=self.ring.device)
        slot = (newest[:, None] + offsets) % self.frame_length
        position = slot + env[:, None] * self.frame_length
        stacks = self.pixels.flatten(0, 1).index_select(0, position.flatten())
        return stacks.view(len(newest), self.stack, *self.frame_shape)

    def state_dict(self) -> dict[str, Any]:
        """All frames."""
        return {
            "frames": {str(i): frames.state_dict() for i, frames in enumerate(self.frames)},
            "tail": self.tail,
            "fresh": self._fresh.copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load saved frames; the ring is loaded before."""
        for index, frames in enumerate(self.frames):
            frames.load_state_dict(state["frames"][str(index)])
        self.tail, self._fresh = state["tail"], state["fresh"].copy()
        self._newest = self.ring.fields["frame"].cpu().numpy().copy()
