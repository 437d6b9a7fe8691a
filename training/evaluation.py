"""Scores of a policy: whole episodes, raw rewards, seeds of their own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from semigradient.envs import ExactVector, make_vector
from semigradient.training.agent import Policy
from semigradient.training.command import Command

SEED_OFFSET = 1_000_003
"""Distance between the root seeds of training and of evaluation."""


@dataclass(frozen=True)
class Scores:
    """Undiscounted returns and lengths of whole episodes, (episodes,) each."""

    returns: np.ndarray
    lengths: np.ndarray


def evaluate(policy: Policy, envs: ExactVector, episodes: int) -> Scores:
    """Play `episodes` whole episodes from fresh resets.

    Environment i plays its share and no more, so that short episodes are not over-represented
    as they would be if the first ones to finish were taken.
    """
    shares = np.full(envs.num_envs, episodes // envs.num_envs)
    shares[: episodes % envs.num_envs] += 1
    obs, infos = envs.reset()
    mask = infos.get("action_mask")
    returns: list[list[float]] = [[] for _ in range(envs.num_envs)]
    lengths: list[list[int]] = [[] for _ in range(envs.num_envs)]
    total = np.zeros(envs.num_envs)
    length = np.zeros(envs.num_envs, dtype=np.int64)
    while any(len(done) < share for done, share in zip(returns, shares, strict=True)):
        obs, reward, terminated, truncated, infos = envs.step(policy(obs, mask))
        mask = infos.get("action_mask")
        total += reward
        length += 1
        for index in np.flatnonzero(terminated | truncated):
            if len(returns[index]) < shares[index]:
                returns[index].append(float(total[index]))
                lengths[index].append(int(length[index]))
            total[index], length[index] = 0, 0
    return Scores(
        np.array([value for values in returns for value in values]),
        np.array([value for values in lengths for value in values]),
    )


def score(command: Command, policy: Policy, episodes: int, seed: int | None = None) -> Scores:
    """Evaluate a policy on fresh environments with seeds apart from those of training."""
    run = command.run
    root = run.seed + SEED_OFFSET if seed is None else seed
    envs = make_vector(run.env, min(episodes, 10), root, **run.evaluation_environment())
    try:
        return evaluate(policy, envs, episodes)
    finally:
        envs.close()


def film(policy: Policy, envs: ExactVector, max_steps: int = 10_000) -> list[np.ndarray]:
    """RGB frames (H, W, 3) of one episode of the first environment of `envs`."""
    obs, infos = envs.reset()
    frames = [envs.frames()[0]]
    for _ in range(max_steps):
        obs, _, terminated, truncated, infos = envs.step(policy(obs, infos.get("action_mask")))
        if terminated[0] or truncated[0]:
            break
        frames.append(envs.frames()[0])
    return frames
