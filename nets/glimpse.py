"""The convolutional torso of the glimpse experiments (Bengio 2022, section 3.2.4.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from semigradient.errors import UserError, require

_SLOPE = 0.01


class GlimpseCNN(nn.Module):
    """Convolutions for images of about 32×32 pixels: (B, C, H, W) → (B, features).

        5×5 stride 2 → n, 3×3 → 2n, 3×3 → 4n, then `depth` of 3×3 padded → 4n

    each followed by a leaky rectifier. Bytes are scaled to [0, 1] here. Attribute `width` is the
    number of features, as for every torso.

    Args:
        shape: (C, H, W), at least 13×13.
        channels: n, the capacity.
        depth: extra layers.

    Raises:
        UserError: images too small, no capacity.
    """

    def __init__(self, shape: Sequence[int], channels: int = 16, depth: int = 0) -> None:
        super().__init__()
        require(channels >= 1, f"torso_width={channels}: must be ≥ 1")
        require(depth >= 0, f"torso_depth={depth}: must be ≥ 0")
        inputs, height, width = shape
        if min(height, width) < 13:
            raise UserError(f"observation {tuple(shape)}: images need at least 13×13 pixels")
        layers = [
            nn.Conv2d(inputs, channels, 5, stride=2),
            nn.Conv2d(channels, 2 * channels, 3),
            nn.Conv2d(2 * channels, 4 * channels, 3),
            *(nn.Conv2d(4 * channels, 4 * channels, 3, padding=1) for _ in range(depth)),
        ]
        self.convolutions = nn.Sequential(
            *(module for layer in layers for module in (layer, nn.LeakyReLU(_SLOPE)))
        )
        glorot(self)
        height, width = ((side - 5) // 2 + 1 - 4 for side in (height, width))
        self.width = 4 * channels * height * width

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, width) of images (B, C, H, W), bytes or floats."""
        if images.dtype == torch.uint8:
            images = images.float().mul_(1 / 255)
        return self.convolutions(images).flatten(1)


def glorot(module: nn.Module) -> None:
    """Weights uniform within √(6 / (inputs + outputs)), biases zero (Glorot & Bengio 2010)."""
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
