"""Replay memories of K runs as one, of which every run keeps its own part."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from semigradient.errors import not_stacked, require
from semigradient.training.observations import WholeObservations
from semigradient.training.replay import Replay
from semigradient.training.ring import Ring


class StackedRing(Ring):
    """K rings as one: rows (K, T, B, …) in one piece, of which each ring's fields are a part.

    Indices are (K, m), those of ring k in row k; what is added is (K, B, …).

    Args:
        members: of one size, with equally many rows.
    """

    def __init__(self, members: Sequence[Ring]) -> None:
        first = members[0]
        super().__init__(first.length, first.num_envs, first.device)
        self.members, self.added = list(members), first.added
        rows = first.length * first.num_envs
        self._first_row = rows * torch.arange(len(members), device=first.device)[:, None]
        fields = {name: field for member in members for name, field in member.fields.items()}
        for name, field in fields.items():
            for member in members:
                member.masks(name, np.empty(field.shape[2:]))  # that came late, and not to all
            self.field(name, field.shape[2:], field.dtype)
        self._late = set(first._late)

    def field(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> None:
        """Add a field."""
        size = (len(self.members), self.length, self.num_envs, *shape)
        self.adopt(name, torch.zeros(size, dtype=dtype, device=self.device))

    def adopt(self, name: str, tensor: Tensor) -> None:
        """Add a field stored in the given tensor (K, T, B, …), with the rows that there are."""
        super().adopt(name, tensor)
        self._views[name] = self._views[name].swapaxes(0, 1)
        for member, part in zip(self.members, tensor, strict=True):
            if name in member.fields:
                part[: member.size] = member.fields[name][: member.size]
            member.adopt(name, part)

    def masks(self, name: str, masks: np.ndarray) -> None:
        """Add a field for masks (K, B, A) that came for the first time; before, all was legal."""
        super().masks(name, masks)
        for member in self.members:
            member._late |= self._late

    def places(self, draw: Tensor, time: int) -> Tensor:
        """Indices (K, m) in memory of numbers (K, m)."""
        return super().places(draw, time) + self._first_row

    def flat(self, name: str) -> Tensor:
        """Rows as (K·T·B, …)."""
        return self.fields[name].flatten(0, 2)


def stacked(memories: Sequence[Replay]) -> Replay:
    """One memory whose batches are (K, m, …); the members' storage becomes a part of its own.

    Raises:
        UserError: a kind that has no stacked form, or memories at different steps.
    """
    first, runs = memories[0], len(memories)
    if type(first) is not Replay or first.is_stacked:
        kind = "a memory of frames" if first.is_stacked else type(first).__name__
        not_stacked(runs, kind)
    is_even = len({memory.ring.added for memory in memories}) == 1
    require(is_even, f"seeds={runs}: the memories are at different steps")
    whole = copy.copy(first)
    whole.ring = StackedRing([memory.ring for memory in memories])
    whole.observations = copy.copy(first.observations)
    assert isinstance(whole.observations, WholeObservations)
    whole.observations.ring = whole.ring
    return whole


def settle(memory: Replay, whole: Replay) -> None:
    """Bring the memory of a run up to date, whose rows are in the whole's."""
    memory.ring.added = whole.ring.added
