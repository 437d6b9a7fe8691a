"""Rows over time in a ring buffer on a device, the storage of replay memories.

A ring saves itself in shards, so that a checkpoint writes only what is new.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semigradient.errors import UserError
from semigradient.optim.memory import available_memory
from semigradient.training.state import Shard

_SHARD_BYTES = 64 * 2**20


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
        self._late: set[str] = set()

    def field(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> None:
        """Add a field."""
        rows = (self.length, self.num_envs, *shape)
        self.adopt(name, torch.zeros(rows, dtype=dtype, device=self.device))

    def adopt(self, name: str, tensor: Tensor) -> None:
        """Add a field stored in the given tensor (T, B, …)."""
        self.fields[name] = tensor
        self._views[name] = tensor.numpy() if self.device.type == "cpu" else tensor

    def masks(self, name: str, masks: np.ndarray) -> None:
        """Add a field for masks (B, A) that came for the first time; before, all was legal."""
        if name not in self.fields:
            self.field(name, masks.shape[-1:], torch.bool)
            self.fields[name].fill_(True)
            self._late.add(name)

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

    def places(self, draw: Tensor, time: int) -> Tensor:
        """Flat indices (m,) of numbers (m,): additions after number `time`, times B, plus env."""
        return (draw + time * self.num_envs) % (self.length * self.num_envs)

    def flat(self, name: str) -> Tensor:
        """Rows as (T·B, …)."""
        return self.fields[name].flatten(0, 1)

    def rows(self, name: str, index: Tensor) -> Tensor:
        """Rows (m, …) at flat indices (m,), or (n, m, …) at (n, m)."""
        if index.ndim == 1:
            return self.flat(name).index_select(0, index)
        return self.flat(name).index_select(0, index.flatten()).unflatten(0, index.shape)

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
        """Load saved rows."""
        self.added = int(state["added"])
        for name in state.keys() - self.fields.keys() - {"added"}:  # masks that came late
            saved = state[name]
            part = next(iter(saved.values())) if isinstance(saved, dict) else saved
            self.masks(name, np.empty((self.num_envs, *part.shape[2:])))
        for name, tensor in self.fields.items():
            if name in self._late - state.keys():
                tensor.fill_(True)
                continue
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


def check_memory(capacity: int, needed: int, device: torch.device) -> None:
    """Refuse a memory that would not fit, before anything is allocated."""
    available = available_memory(device)
    if needed > 0.9 * available:
        fits = int(capacity * 0.9 * available / needed)
        raise UserError(
            f"buffer_size={capacity}: needs {needed / 2**30:.1f} GiB, {available / 2**30:.1f} GiB "
            f"are free on {device.type}; accepted up to {fits}"
        )


def torch_dtype(dtype: Any) -> torch.dtype:
    """Torch's name of a type of numpy's."""
    kind = np.dtype(dtype)
    return torch.from_numpy(np.zeros((), dtype=kind)).dtype
