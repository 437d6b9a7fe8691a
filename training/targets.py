"""Target networks that follow by averaging."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def move_towards(targets: nn.Module, networks: nn.Module, rate: float) -> None:
    """Targets take in a share `rate` of the networks' parameters."""
    pairs = zip(targets.parameters(), networks.parameters(), strict=True)
    old, new = zip(*pairs, strict=True)
    torch._foreach_lerp_(old, new, rate)
