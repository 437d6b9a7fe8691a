"""Random vectors of covariance I, which estimators project along."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from semigradient.errors import require

NOISES = ("signs", "normal")


def draws(
    kind: str, generator: torch.Generator | None, like: Tensor
) -> Callable[[tuple[int, ...]], Tensor]:
    """What draws independent numbers of a shape, of variance 1, in the place and type of `like`.

    Args:
        kind: signs (−1 and 1 with probability ½) or normal.
        generator: its state is the caller's to keep; none is torch's own.
    """
    require(kind in NOISES, f"noise={kind!r}: must be signs or normal")
    device = like.device if generator is None else generator.device

    def signs(shape: tuple[int, ...]) -> Tensor:
        return (2 * torch.randint(0, 2, shape, generator=generator, device=device) - 1).to(like)

    def normal(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=like.dtype).to(like)

    return signs if kind == "signs" else normal
