"""Scores of a policy: whole episodes, raw rewards, seeds of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from semigradient.envs import ExactVector, make_vector
from semigradient.training.agent import Policy, forget
from semigradient.training.command import Command

SEED_OFFSET = 1_000_003
"""Distance between the root seeds of training and of evaluation."""


UNDECLARED_LIMIT = 10_000
"""Steps of an evaluated episode where neither the environment nor the user sets a limit."""
_FRAMES = "max_num_frames_per_episode"  # of the Atari protocol


@dataclass(frozen=True)
class Scores:
    """Undiscounted returns and lengths of whole episodes, (episodes,) each.

    Attributes:
        returns, lengths: by episode.
        cut: how many of them did not end, and were cut at the limit.
        limit: that limit in steps; 0: none.
        references: expected returns that are known of the environment, by name.
    """

    returns: np.ndarray
    lengths: np.ndarray
    cut: int = 0
    limit: int = 0
    references: Mapping[str, float] = field(default_factory=dict)

    def cut_count(self) -> dict[str, float]:
        """`{"cut": …}` where there is something to say."""
        return {"cut": self.cut} if self.cut else {}


def cut_note(scores: Scores) -> str:
    """What a user should know about episodes that were cut."""
    return (
        f"evaluation: {scores.cut} of {len(scores.returns)} episodes had not ended after "
        f"{scores.limit} steps and were cut there (--eval-max-steps)"
    )


def evaluate(policy: Policy, envs: ExactVector, episodes: int, max_steps: int = 0) -> Scores:
    """Play `episodes` whole episodes from fresh resets.

    Environment i plays its share and no more, so that short episodes are not over-represented
    as they would be if the first ones to finish were taken.

    Args:
        policy: acts.
        envs: B environments.
        episodes: how many, all environments together.
        max_steps: steps after which an episode is cut; 0: never.
    """
    shares = np.full(envs.num_envs, episodes // envs.num_envs)
    shares[: episodes % envs.num_envs] += 1
    tally = _Tally(shares, max_steps)
    while not tally.is_complete():
        obs, infos = envs.reset()
        forget(policy)
        tally.restart()
        while tally.is_playing():
            actions = policy(obs, infos.get("action_mask"))
            obs, reward, terminated, truncated, infos = envs.step(actions)
            ended = terminated | truncated
            forget(policy, ended)
            tally.add(reward, ended)
    return replace(tally.scores(), references=envs.references)


class _Tally:
    """Returns and lengths of each environment's share of the episodes."""

    def __init__(self, shares: np.ndarray, max_steps: int) -> None:
        self.shares, self.max_steps, self.cut = shares, max_steps, 0
        self.returns: list[list[float]] = [[] for _ in shares]
        self.lengths: list[list[int]] = [[] for _ in shares]
        self.restart()

    def restart(self) -> None:
        """All environments begin an episode."""
        self.total = np.zeros(len(self.shares))
        self.length = np.zeros(len(self.shares), dtype=np.int64)
        self.is_cut = np.zeros(len(self.shares), dtype=bool)

    def is_complete(self) -> bool:
        """Whether all shares are done."""
        return not self._unfinished().any()

    def is_playing(self) -> bool:
        """Whether an unfinished environment plays an episode that counts."""
        return bool((self._unfinished() & ~self.is_cut).any())

    def add(self, reward: np.ndarray, ended: np.ndarray) -> None:
        """One step; environments whose episode was cut wait for the next reset of all."""
        self.total += reward
        self.length += 1
        late = (self.length >= self.max_steps) & ~ended if self.max_steps else np.zeros_like(ended)
        for index in np.flatnonzero((ended | late) & ~self.is_cut):
            if len(self.returns[index]) < self.shares[index]:
                self.returns[index].append(float(self.total[index]))
                self.lengths[index].append(int(self.length[index]))
                self.cut += int(late[index])
        self.is_cut |= late
        self.total[ended], self.length[ended] = 0, 0

    def scores(self) -> Scores:
        """All of them, by environment."""
        return Scores(
            np.array([value for values in self.returns for value in values]),
            np.array([value for values in self.lengths for value in values]),
            self.cut,
            self.max_steps,
        )

    def _unfinished(self) -> np.ndarray:
        return np.array([len(r) for r in self.returns]) < self.shares


def step_limit(envs: ExactVector, asked: int) -> int:
    """Steps after which an evaluated episode is cut; 0: never, the environment ends it.

    Args:
        envs: of the evaluation.
        asked: `eval_max_steps`; 0: whatever is sensible.
    """
    if asked:
        return asked
    return 0 if _is_limited(envs) else UNDECLARED_LIMIT


def _is_limited(envs: ExactVector) -> bool:
    """Whether an environment is known to end every episode."""
    if envs.clock is not None:
        return envs.clock.limit > 0
    if envs.spec is None:
        return False
    is_ours = envs.spec.id.startswith("semigradient/")
    return is_ours or bool(envs.spec.max_episode_steps) or _FRAMES in envs.protocol


def score(
    command: Command,
    policy: Policy,
    episodes: int,
    seed: int | None = None,
    max_steps: int | None = None,
) -> Scores:
    """Evaluate a policy on fresh environments with seeds apart from those of training.

    Args:
        command: the run.
        policy: acts.
        episodes: how many.
        seed: root of their seeds; default: that of evaluations during training.
        max_steps: steps after which an episode is cut; default: the run's.
    """
    run = command.run
    root = run.seed + SEED_OFFSET if seed is None else seed
    asked = run.eval_max_steps if max_steps is None else max_steps
    envs = make_vector(run.env, min(episodes, 10), root, **run.evaluation_environment())
    try:
        return evaluate(policy, envs, episodes, step_limit(envs, asked))
    finally:
        envs.close()


def film(policy: Policy, envs: ExactVector, max_steps: int = 10_000) -> list[np.ndarray]:
    """RGB frames (H, W, 3) of one episode of the first environment of `envs`."""
    obs, infos = envs.reset()
    forget(policy)
    frames = [envs.frames()[0]]
    for _ in range(max_steps):
        obs, _, terminated, truncated, infos = envs.step(policy(obs, infos.get("action_mask")))
        if terminated[0] or truncated[0]:
            break
        frames.append(envs.frames()[0])
    return frames
