"""Convolutional value networks of published policy-evaluation experiments on Atari frames.

Unlike `bricks.NatureCNN` they pad, so that 84x84 pixels end as 12x12, and have leaky rectifiers.

Source: E. Bengio, PhD thesis, section 4.3.3.8; section 3.2.4.2 has the same network at width 32.
"""

from __future__ import annotations

from torch import Tensor, nn

from semigradient.errors import require


class Scaled(nn.Module):
    """Bytes (B, C, H, W) as floats in [0, 1]."""

    def forward(self, images: Tensor) -> Tensor:
        """Divide by 255."""
        return images.float() / 255


def padded_cnn(outputs: int, width: int = 32, channels: int = 4) -> nn.Sequential:
    """Images (B, channels, 84, 84) to (B, outputs); 4 801 705 parameters for 9 outputs."""
    require(width >= 1, f"width={width}: must be at least 1")
    return nn.Sequential(
        Scaled(),
        nn.Conv2d(channels, width, 8, stride=4, padding=4),
        nn.LeakyReLU(),
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=2),
        nn.LeakyReLU(),
        nn.Conv2d(2 * width, 2 * width, 3, padding=1),
        nn.LeakyReLU(),
        nn.Flatten(),
        nn.Linear(2 * width * 12 * 12, 16 * width),
        nn.LeakyReLU(),
        nn.Linear(16 * width, outputs),
    )


def small_cnn(outputs: int, width: int = 16, channels: int = 4) -> nn.Sequential:
    """Images (B, channels, 84, 84) to (B, outputs); 12 745 parameters for 9 outputs."""
    require(width >= 1, f"width={width}: must be at least 1")
    layers: list[nn.Module] = [Scaled()]
    for index in range(4):
        layers += [nn.Conv2d(width if index else channels, width, 3, 2, 1), nn.LeakyReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, outputs, 6), nn.Flatten())
