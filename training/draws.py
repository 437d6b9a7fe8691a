"""Random numbers of one run, or of several side by side, each from a generator of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Generators:
    """The generators of K runs that learn as one."""

    def __init__(self, each: Sequence[torch.Generator]) -> None:
        self.each = list(each)


Random = torch.Generator | Generators


def draw(random: Random, sample: Callable[[torch.Generator], Tensor], axis: int = 0) -> Tensor:
    """What `sample` draws; of several generators, stacked along a new axis."""
    if isinstance(random, torch.Generator):
        return sample(random)
    return torch.stack([sample(generator) for generator in random.each], axis)
