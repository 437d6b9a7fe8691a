"""Random numbers of one run, or of several side by side, each from a generator of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Generators:
    """The generators, torch's or numpy's, of K runs that learn as one."""

    def __init__(self, each: Sequence[Any]) -> None:
        self.each = list(each)


Random = torch.Generator | Generators
NumpyRandom = np.random.Generator | Generators


def draw(random: Random, sample: Callable[[torch.Generator], Tensor], axis: int = 0) -> Tensor:
    """What `sample` draws; of several generators, stacked along a new axis."""
    if isinstance(random, torch.Generator):
        return sample(random)
    return torch.stack([sample(generator) for generator in random.each], axis)


def draw_arrays(
    random: NumpyRandom,
    sample: Callable[[np.random.Generator, np.ndarray | None], Sequence[np.ndarray]],
    rows: np.ndarray | None,
) -> list[np.ndarray]:
    """What `sample` draws for `rows`; each of several generators has rows of its own, (K, …)."""
    if isinstance(random, np.random.Generator):
        return list(sample(random, rows))
    each = [None] * len(random.each) if rows is None else rows
    drawn = [sample(own, row) for own, row in zip(random.each, each, strict=True)]
    return [np.array(column) for column in zip(*drawn, strict=True)]
