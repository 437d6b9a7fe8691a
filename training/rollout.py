"""On-policy storage: T steps of B environments, written by the environments, read by learners."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor


class Rollout:
    """Named rows (T, B, …) of one collection, on the learner's device.

    On the CPU rows are written through numpy views of the tensors, which is several times
    cheaper than assigning to a tensor.
    """

    def __init__(self, length: int, num_envs: int, device: torch.device) -> None:
        self.length, self.num_envs, self.device = length, num_envs, device
        self._fields: dict[str, Tensor] = {}
        self._views: dict[str, np.ndarray] = {}

    def field(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> None:
        """Add a field."""
        tensor = torch.zeros((self.length, self.num_envs, *shape), dtype=dtype, device=self.device)
        self._fields[name] = tensor
        if self.device.type == "cpu":
            self._views[name] = tensor.numpy()

    def write(self, time: int, **rows: np.ndarray | Tensor) -> None:
        """Write the rows (B, …) of one step."""
        for name, row in rows.items():
            if isinstance(row, np.ndarray):
                if name in self._views:
                    self._views[name][time] = row
                else:
                    self._fields[name][time] = torch.from_numpy(row)
            else:
                self._fields[name][time] = row

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    def __getitem__(self, name: str) -> Tensor:
        """Rows (T, B, …)."""
        return self._fields[name]

    def flat(self, name: str) -> Tensor:
        """Rows (T·B, …)."""
        return self._fields[name].flatten(0, 1)


def minibatches(
    count: int, size: int, generator: torch.Generator, device: torch.device
) -> Iterator[Tensor]:
    """Index tensors (size,) of one random pass over `count` samples; `size` divides `count`."""
    order = torch.randperm(count, generator=generator).to(device)
    yield from order.split(size)
