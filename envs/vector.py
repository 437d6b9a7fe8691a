"""A vector environment whose state can be saved exactly, without touching the simulator.

An environment is deterministic in its seed and actions, so the seed of the last reset and the
actions since restore any state: reset with that seed, replay the actions. That holds for every
Gymnasium id and for C++ simulators that offer no state at all, and it includes what state
snapshots miss (a saved ALE state loses the pending sticky action).

The price is time proportional to the running episode when a run resumes, nothing before.
Whether it worked is checked: the observation after the replay must be the saved one, and what was
returned on the way must have the saved digest. Forms whose whole state is arrays save those instead
(`envs.adapters`, `envs.classic`).
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, cast

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from semigradient.envs.clock import Clock
from semigradient.envs.forms import Acted, Seen
from semigradient.validate import Count, conform

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]


class ExactVector(VectorEnv):
    """Common interface of the vector environments that agents see.

    Subclasses step B environments with SAME_STEP autoreset, choose every seed through
    `next_seed`, keep `last_obs` (B, *observation), and have a state and frames of their own.

    Attributes:
        seed: root of all episode seeds.
        resets: (B,) how many seeded resets each environment has had.
        last_obs: (B, *observation) what the latest `reset` or `step` returned.
        stacked_frames: whether observations are stacks of frames, of which a step adds one, so
            that a replay memory may store each frame once.
        protocol: how scores are to be interpreted (for Atari: the protocol card).
        clock: seconds and steps, of environments whose time step can be chosen.
        forms: what agents see of an environment's own observations, and what it receives of their
            actions, where its spaces are not the agents' (`envs.forms`).
        references: expected returns of an episode that are known exactly, by name, such as that
            of the optimum; reported beside scores.
        is_repeatable: false for simulators that seed and actions do not determine.
    """

    single_observation_space: spaces.Box
    observation_space: spaces.Box
    stacked_frames = False
    clock: Clock | None = None
    forms: tuple[Seen, Acted] | None = None
    is_repeatable = True

    def __init__(self, num_envs: int, seed: int) -> None:
        self.num_envs = conform("num_envs", num_envs, Count)
        self.seed = seed
        self.resets = np.zeros(num_envs, dtype=np.int64)
        self.last_obs: np.ndarray = np.zeros(0)
        self.protocol: dict[str, Any] = {}
        self.references: dict[str, float] = {}
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def show(self, seen: Seen, acted: Acted) -> None:
        """Have the spaces that agents see, of one environment and of all."""
        self.forms = (seen, acted)
        self.single_observation_space = seen.space
        self.single_action_space = acted.space
        self.observation_space = cast(spaces.Box, batch_space(seen.space, self.num_envs))
        self.action_space = batch_space(acted.space, self.num_envs)

    def reseed(self, seed: int | None) -> None:
        """Replace the root of all episode seeds, unless it is None."""
        if seed is not None:
            self.seed = seed
            self.resets[:] = 0

    def next_seed(self, index: int) -> int:
        """Seed of the next reset of environment `index`: a hash of (seed, index, count)."""
        count = int(self.resets[index])
        self.resets[index] += 1
        return self.seed_of(index, count)

    def seed_of(self, index: int, count: int) -> int:
        """Seed of the `count`-th reset of environment `index`, in [0, 2³¹)."""
        words: Any = (self.seed, index, count)
        if 0 <= self.seed < 2**32:  # an array of its words is the same to NumPy, and quicker
            words = np.array(words, np.uint32)
        return int(np.random.SeedSequence(words).generate_state(1)[0] >> 1)

    def state_dict(self) -> dict[str, Any]:
        """The complete state, from which `load_state_dict` resumes exactly."""
        raise NotImplementedError

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Restore a saved state; false where only a fresh episode could be started."""
        raise NotImplementedError

    def frames(self) -> list[np.ndarray]:
        """RGB frames (H, W, 3) uint8 of each environment; needs `render=True`."""
        raise NotImplementedError


_BYTES = struct.Struct("d").pack


def digest(before: int, obs: np.ndarray, reward: float) -> int:
    """CRC-32 of what an episode has returned, by that of what it had returned a step before."""
    row = obs if obs.flags.c_contiguous else np.ascontiguousarray(obs)
    return zlib.crc32(_BYTES(reward), zlib.crc32(row.data, before))
