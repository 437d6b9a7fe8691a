"""Policy evaluation on Acrobot and CartPole: buffers of n-step transitions, and true values.

The policies are hand-written, so nothing has to be downloaded:

- Acrobot: the torque has the sign of the second joint's velocity, which always adds energy.
  Policy and dynamics are deterministic, so the discounted return of a state is its exact value.
- CartPole: a linear controller; every fifth action on average is random. Observations have the
  time over 500 as fifth feature: with it, the value under the limit of 500 steps is a function
  of the observation, and the limit counts as the end. The value is the mean return of many
  episodes continued from a state.

Rewards are a tenth of Gymnasium's, gamma is 0.99.

Source: E. Bengio, PhD thesis, sections 4.3.2.1 and 4.3.3.12; reward scale, discount, fifth feature
and share of random actions from its published code.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from numpy.typing import NDArray

from semigradient import envs

Array = NDArray[Any]

GAMMA = 0.99
REWARD_SCALE = 0.1
LIMIT = 500
"""Time limit of both environments, in steps."""
RANDOM = 0.2
"""Fraction of random actions on CartPole."""
GAINS = np.array([0.0, 0.0, 1.0, 1.0])
"""Gains of CartPole's controller, which pushes right if their inner product with the observation is
positive. It balances the pole but lets the cart drift: episodes last 120 to 500 steps."""


class Episode(NamedTuple):
    """One episode of T steps."""

    observations: Array
    """(T + 1, d)"""
    rewards: Array
    """(T,), scaled"""
    ended: bool
    """Whether the last observation is terminal."""


def acrobot_policy(observations: Array) -> Array:
    """Torque 0 or 2 (of -1, 0, +1) for observations (B, 6)."""
    return np.where(observations[:, 5] >= 0, 2, 0)


def cartpole_policy(observations: Array, rng: np.random.Generator) -> Array:
    """Push 0 or 1 for observations (B, >= 4)."""
    chosen = (observations[:, :4] @ GAINS > 0).astype(np.int64)
    count = len(chosen)
    return np.where(rng.random(count) < RANDOM, rng.integers(2, size=count), chosen)


def episodes(name: str, seed: int, copies: int = 16) -> Iterator[Episode]:
    """Yield finished episodes of `acrobot` or `cartpole` under its policy, without end."""
    rng = np.random.default_rng(seed)
    env = envs.make_vector({"acrobot": "Acrobot-v1", "cartpole": "CartPole-v1"}[name], copies, seed)
    seen, _ = env.reset()
    running: list[list[Array]] = [[row.copy()] for row in seen]
    rewards: list[list[float]] = [[] for _ in range(copies)]
    while True:
        actions = acrobot_policy(seen) if name == "acrobot" else cartpole_policy(seen, rng)
        seen, reward, terminated, truncated, infos = env.step(actions)
        for i in range(copies):
            done = bool(terminated[i] or truncated[i])
            rewards[i].append(REWARD_SCALE * float(reward[i]))
            running[i].append((infos["final_obs"][i] if done else seen[i]).copy())
            if done:
                # CartPole's observations include the time, so its time limit is a termination.
                ended = bool(terminated[i]) or name == "cartpole"
                yield Episode(_observed(name, running[i]), np.array(rewards[i]), ended)
                running[i], rewards[i] = [seen[i].copy()], []


def _observed(name: str, rows: list[Array]) -> Array:
    observations = np.stack(rows)
    if name == "acrobot":
        return observations
    return np.column_stack([observations, np.arange(len(rows)) / LIMIT])


def n_step(episode: Episode, n: int) -> tuple[Array, Array, Array, Array]:
    """Inputs (T, d), rewards, discounts (T,) and next inputs (T, d) of n-step transitions.

    Transitions of the last n steps stop at the end of the episode. After a truncation they
    bootstrap there, with fewer than n steps.
    """
    steps = len(episode.rewards)
    ahead = np.minimum(np.arange(steps) + n, steps)
    counts = ahead - np.arange(steps)
    rewards = np.zeros(steps)
    for k in range(n):
        inside = np.flatnonzero(k < counts)
        rewards[inside] += GAMMA**k * episode.rewards[inside + k]
    discounts = GAMMA**counts * ~((ahead == steps) & episode.ended)
    return episode.observations[:-1], rewards, discounts, episode.observations[ahead]


def buffer(name: str, n: int, size: int, seed: int = 0) -> dict[str, Array]:
    """Collect complete episodes until there are `size` transitions, by field of the batch."""
    parts: list[tuple[Array, ...]] = []
    for episode in episodes(name, seed):
        parts.append(n_step(episode, n))
        if sum(len(part[0]) for part in parts) >= size:
            break
    names = ("inputs", "reward", "discount", "next_inputs")
    return {k: np.concatenate(v) for k, v in zip(names, zip(*parts, strict=True), strict=True)}


def answers(name: str, count: int, seed: int = 1) -> dict[str, Array]:
    """States (count, d) of episodes outside the buffer, `inputs`, and their `values`."""
    rng = np.random.default_rng(seed)
    states, returns, collected = [], [], 0
    for episode in episodes(name, seed):
        if not episode.ended:
            continue
        states.append(episode.observations[:-1])
        returns.append(discounted(episode.rewards))
        collected += len(episode.rewards)
        if collected >= 4 * count:
            break
    chosen = rng.choice(collected, count, replace=False)
    inputs = np.concatenate(states)[chosen]
    if name == "acrobot":
        return {"inputs": inputs, "values": np.concatenate(returns)[chosen]}
    return {"inputs": inputs, "values": cartpole_values(inputs, rng)}


def discounted(rewards: Array) -> Array:
    """The return (T,) from each step of an episode."""
    total, returns = 0.0, np.zeros(len(rewards))
    for t in range(len(rewards) - 1, -1, -1):
        total = rewards[t] + GAMMA * total
        returns[t] = total
    return returns


def cartpole_values(inputs: Array, rng: np.random.Generator, repeats: int = 64) -> Array:
    """Mean discounted return of `repeats` episodes continued from each of inputs (N, 5)."""
    count = len(inputs) * repeats
    env: Any = gymnasium.make_vec("CartPole-v1", count, vectorization_mode="vector_entry_point")
    env.reset(seed=0)
    core = env.unwrapped
    core.state = np.repeat(inputs[:, :4], repeats, axis=0).T.astype(core.state.dtype)
    core.steps[:] = np.repeat(np.rint(inputs[:, 4] * LIMIT), repeats)
    seen = core.state.T
    alive, total, factor = np.ones(count, bool), np.zeros(count), REWARD_SCALE
    while alive.any():
        seen, _, terminated, truncated, _ = env.step(cartpole_policy(seen, rng))
        # Every step is rewarded, including the last one.
        total += factor * alive
        alive &= ~(terminated | truncated)
        factor *= GAMMA
    return total.reshape(len(inputs), repeats).mean(1)
