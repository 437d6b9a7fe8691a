"""Vector environments played at random, and what they returned."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from semigradient.envs import ExactVector


def random_actions(envs: ExactVector, count: int, seed: int = 0) -> list[np.ndarray]:
    rng, space, batch = np.random.default_rng(seed), envs.single_action_space, envs.num_envs
    if isinstance(space, spaces.Discrete):
        return [rng.integers(space.n, size=batch) for _ in range(count)]
    shape = (batch, *space.shape)
    return [rng.uniform(space.low, space.high, shape).astype(np.float32) for _ in range(count)]


def play(envs: ExactVector, actions: list[np.ndarray]) -> list[tuple[np.ndarray, ...]]:
    """Copies of all that each step returned, with the final observations where any."""
    rows = []
    for action in actions:
        obs, reward, terminated, truncated, infos = envs.step(action)
        ended = terminated | truncated
        final = infos["final_obs"][ended] if ended.any() else np.zeros(0)
        mask = infos.get("action_mask", np.zeros(0))
        rows.append(tuple(map(np.copy, (obs, reward, terminated, truncated, final, mask))))
    return rows
