"""On-policy storage: T steps of B environments, written by the environments, read by learners.

Of K runs that learn as one it holds T steps of K × B environments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from semigradient.training.draws import Random, draw


class Rollout:
    """Named rows (T, B, …), or (T, K, B, …) of K runs, of one collection, on the learner's device.

    On the CPU rows are written through numpy views of the tensors, which is several times
    cheaper than assigning to a tensor.

    Args:
        length: T.
        batch: (B,) or (K, B).
        device: of the learner.
    """

    def __init__(self, length: int, batch: tuple[int, ...], device: torch.device) -> None:
        self.length, self.batch, self.num_envs, self.device = length, batch, batch[-1], device
        self._fields: dict[str, Tensor] = {}
        self._views: dict[str, np.ndarray] = {}

    def field(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> None:
        """Add a field."""
        size = (self.length, *self.batch, *shape)
        self._adopt(name, torch.zeros(size, dtype=dtype, device=self.device))

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
        """Rows (T·B, …), or (K, T·B, …)."""
        return self.flattened(self._fields[name])

    def flattened(self, rows: Tensor) -> Tensor:
        """Rows (T, B, …) as (T·B, …), or (T, K, B, …) as (K, T·B, …)."""
        return rows.flatten(0, 1) if len(self.batch) == 1 else rows.transpose(0, 1).flatten(1, 2)

    def fill(self, name: str, flat: Tensor) -> None:
        """Write rows that lie as `flat` gives them."""
        rows = self._fields[name]
        if len(self.batch) == 1:
            rows.copy_(flat.view_as(rows))
        else:
            rows.copy_(flat.unflatten(1, (self.length, self.num_envs)).transpose(0, 1))

    def part(self, index: int) -> Rollout:
        """The rows of one run of K, in the same memory."""
        part = Rollout(self.length, self.batch[1:], self.device)
        for name, tensor in self._fields.items():
            part._adopt(name, tensor[:, index])
        return part

    def _adopt(self, name: str, tensor: Tensor) -> None:
        self._fields[name] = tensor
        if self.device.type == "cpu":
            self._views[name] = tensor.numpy()


def minibatches(count: int, size: int, random: Random, device: torch.device) -> Iterator[Tensor]:
    """Index tensors (size,) of one random pass over `count` samples; `size` divides `count`.

    Of K runs (K, size), for `rows_at`.
    """
    order = draw(random, lambda generator: torch.randperm(count, generator=generator))
    if order.ndim > 1:
        order += count * torch.arange(len(order))[:, None]
    yield from order.to(device, non_blocking=True).split(size, -1)


def rows_at(rows: Tensor, index: Tensor) -> Tensor:
    """Rows (size, …) of (count, …) at the indices of a minibatch; (K, size, …) of (K, count, …)."""
    if index.ndim == 1:
        return rows.index_select(0, index)
    chosen = rows.flatten(0, 1).index_select(0, index.flatten())
    return chosen.view(*index.shape, *rows.shape[2:])
