"""The environments of K runs, stepped as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from semigradient.envs.classic import ClassicVector
from semigradient.envs.joined import Joined
from semigradient.training.stepping import EnvStepper, Running, Transition, successors


class StackedStepper:
    """K steppers as one whose observations, rewards and ends are (K, B, …).

    Attributes:
        members: the steppers; each keeps its own episodes.
        obs: (K, B, *observation).
        mask: (K, B, A), or None.
    """

    def __init__(self, members: Sequence[EnvStepper]) -> None:
        self.members = list(members)
        for member in members:
            member.timers = members[0].timers
        self._look()

    @staticmethod
    def of(members: Sequence[EnvStepper]) -> StackedStepper:
        """The fastest one: all environments in one array, where they have that form."""
        is_one_array = all(isinstance(member.envs, ClassicVector) for member in members)
        return JoinedStepper(members) if is_one_array else StackedStepper(members)

    @property
    def steps(self) -> int:
        """Environment steps so far of each run."""
        return self.members[0].steps

    @property
    def exact(self) -> bool:
        """Whether all environments could be restored exactly."""
        return all(member.exact for member in self.members)

    def restart(self) -> None:
        """Abandon all running episodes and begin new ones."""
        for member in self.members:
            member.restart()
        self._look()

    def step(self, actions: np.ndarray, active: np.ndarray | None = None) -> Transition:
        """Act once in every environment: (K, B, *action).

        Where `active` (K,) is false a run rests: no reward, no end, the observations it had.
        """
        acts = np.ones(len(self.members), bool) if active is None else active
        steps = [
            member.step(own) if is_active else _rest(member)
            for member, own, is_active in zip(self.members, actions, acts, strict=True)
        ]
        self._look()
        reward, terminated, truncated, next_obs = (
            np.stack(column) for column in list(zip(*steps, strict=True))[:4]
        )
        next_mask = _masks([step.next_mask for step in steps])
        return Transition(reward, terminated, truncated, next_obs, next_mask, {})

    def _look(self) -> None:
        self.obs = np.stack([member.obs for member in self.members])
        self.mask = _masks([member.mask for member in self.members])


class JoinedStepper(StackedStepper):
    """The same for environments that are one array: the work of one step, whatever K is."""

    def __init__(self, members: Sequence[EnvStepper]) -> None:
        super().__init__(members)
        envs: Any = [member.envs for member in members]
        self._envs = Joined(envs)
        self._timers = members[0].timers
        returns = np.stack([member.running.returns for member in members])
        lengths = np.stack([member.running.lengths for member in members])
        self._running = Running(returns, lengths)
        for member, *parts in zip(members, returns, lengths, strict=True):
            member.running = Running(*parts)

    def step(self, actions: np.ndarray, active: np.ndarray | None = None) -> Transition:
        """Act once in every environment: (K, B, *action); one by one where some runs rest."""
        if active is not None and not active.all():
            return super().step(actions, active)
        with self._timers("environment"):
            obs, reward, terminated, truncated, infos = self._envs.step(actions)
            ended = terminated | truncated if "final_obs" in infos else None
            next_obs = successors(obs, ended, infos)
            self.obs = obs
            self._running.add(reward)
            rows = [None] * len(obs) if ended is None else ended
            for member, own, over in zip(self.members, obs, rows, strict=True):
                member.arrive(own, None, over)
        return Transition(reward, terminated, truncated, next_obs, None, infos)


def _rest(member: EnvStepper) -> Transition:
    """What a run gives that rests."""
    nothing = np.zeros(len(member.obs))
    no_end = nothing.astype(bool)
    return Transition(nothing, no_end, no_end, member.obs, member.mask, {})


def _masks(masks: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Masks (K, B, A); where some runs have none yet, everything is legal in them."""
    given = [mask for mask in masks if mask is not None]
    if not given:
        return None
    free = np.ones_like(given[0])
    return np.stack([free if mask is None else mask for mask in masks])
