"""Target networks that follow by averaging."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def move_towards(
    targets: nn.Module | tuple[Tensor, ...], networks: nn.Module | tuple[Tensor, ...], rate: float
) -> None:
    """Targets take in a share `rate` of the networks' parameters, given or listed already."""
    old, new = (
        tuple(part.parameters()) if isinstance(part, nn.Module) else part
        for part in (targets, networks)
    )
    torch._foreach_lerp_(old, new, rate)
