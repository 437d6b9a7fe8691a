"""The environments of K runs, stepped as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from semigradient.training.stepping import EnvStepper, Transition


class StackedStepper:
    """K steppers as one whose observations, rewards and ends are (K, B, …).

    Attributes:
        members: the steppers; each keeps its own episodes.
        obs: (K, B, *observation).
        mask: (K, B, A), or None.
    """

    def __init__(self, members: Sequence[EnvStepper]) -> None:
        self.members = list(members)
        self._look()

    @property
    def steps(self) -> int:
        """Environment steps so far of each run."""
        return self.members[0].steps

    @property
    def exact(self) -> bool:
        """Whether all environments could be restored exactly."""
        return all(member.exact for member in self.members)

    def step(self, actions: np.ndarray) -> Transition:
        """Act once in every environment: (K, B, *action)."""
        steps = [member.step(own) for member, own in zip(self.members, actions, strict=True)]
        self._look()
        reward, terminated, truncated, next_obs = (
            np.stack(column) for column in list(zip(*steps, strict=True))[:4]
        )
        return Transition(reward, terminated, truncated, next_obs, _masks(
            [step.next_mask for step in steps], next_obs.shape[:2]), {})

    def _look(self) -> None:
        self.obs = np.stack([member.obs for member in self.members])
        self.mask = _masks([member.mask for member in self.members], self.obs.shape[:2])


def _masks(masks: Sequence[np.ndarray | None], shape: tuple[int, ...]) -> np.ndarray | None:
    """Masks (K, B, A); where some runs have none yet, everything is legal in them."""
    given = [mask for mask in masks if mask is not None]
    if not given:
        return None
    free = np.ones_like(given[0])
    return np.stack([free if mask is None else mask for mask in masks])
