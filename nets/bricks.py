"""Network bricks that more than one agent uses."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from torch import Tensor, nn

from semigradient.errors import UserError, unknown
from semigradient.nets.glimpse import GlimpseCNN, glorot
from semigradient.nets.images import PartsTorso, Prepared, SmallCNN, layout, uniform_bounds

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "silu": nn.SiLU,
}


_LEAST_SIDES = {"nature": 64, "halved": 36, "glimpse": 13, "small": 0}
"""Shorter side of pictures from which on `auto` takes a torso."""
TORSOS = ("auto", *_LEAST_SIDES)


def activation(name: str) -> nn.Module:
    """Make an activation by name; `UserError` for an unknown one."""
    if name not in ACTIVATIONS:
        unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]()


def mlp(
    sizes: Sequence[int],
    nonlinearity: str = "relu",
    last: bool = False,
    layer_norm: bool = False,
) -> nn.Sequential:
    """Linear layers of the given sizes with a nonlinearity between them.

    Args:
        sizes: input, hidden and output widths.
        nonlinearity: a key of `ACTIVATIONS`.
        last: also put the nonlinearity after the last layer.
        layer_norm: normalise before every nonlinearity.
    """
    layers: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        layers.append(nn.Linear(inputs, outputs))
        if last or index < len(sizes) - 2:
            if layer_norm:
                layers.append(nn.LayerNorm(outputs))
            layers.append(activation(nonlinearity))
    return nn.Sequential(*layers)


def orthogonal(module: nn.Module, gain: float) -> nn.Module:
    """Initialise every linear and convolutional weight orthogonally, every bias with zero."""
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            # LAPACK wants rows in order, which channels-last weights are not.
            rows = torch.empty_like(layer.weight, memory_format=torch.contiguous_format)
            layer.weight.data.copy_(nn.init.orthogonal_(rows, gain))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module


class NatureCNN(nn.Module):
    """The convolutional torso of Mnih et al. 2015: (B, C, H, W) → (B, width).

    Bytes are scaled to [0, 1] here, so replay and rollouts can keep them. Images are worked on
    in channels-last order, in which the convolutions of both CPU and GPU run faster.
    """

    LAYERS: ClassVar[tuple[tuple[int, int, int], ...]] = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
    """Channels, side of the kernel and stride of each convolution."""
    LEAST = 36
    """The shortest side that the kernels fit into."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.transpose = self.turns(shape)
        channels, height, width = (shape[-1], *shape[:2]) if self.transpose else shape
        least = self.LEAST
        if min(height, width) < least:
            raise UserError(
                f"observation {tuple(shape)}: images need at least {least}×{least} pixels"
            )
        layers: list[nn.Module] = []
        for outputs, kernel, stride in self.LAYERS:
            layers += [nn.Conv2d(channels, outputs, kernel, stride), nn.ReLU(inplace=True)]
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
            channels = outputs
        self.convolutions = nn.Sequential(*layers)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.width = channels * height * width

    @staticmethod
    def turns(shape: Sequence[int]) -> bool:
        """Whether images of a shape are (H, W, C)."""
        return shape[0] > 16 >= shape[-1]

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, width) of images (B, C, H, W) or (B, H, W, C), bytes or floats."""
        if self.transpose:
            images = images.movedim(-1, -3)
        if images.dtype == torch.uint8:
            images = _floats(images).mul_(1 / 255)
        return self.convolutions(images).flatten(1)


class HalvedCNN(NatureCNN):
    """The torso of Mnih et al. 2013 for images of half the side: 42×42 pixels → 2,592 numbers.

    The first kernel and its stride are halved, so what it sees of the screen is as published, and
    9×9 places remain. The Nature CNN leaves a single place of 42×42 pixels, in whose 64 numbers
    agents on Pong found too little.
    """

    LAYERS = ((16, 4, 2), (32, 4, 2))
    LEAST = 10


def _floats(images: Tensor) -> Tensor:
    """Floats in channels-last order of bytes (B, C, H, W)."""
    if images.device.type == "cpu":
        # A third of the time of the conversion below, which goes through memory in strides.
        return torch.stack(images.unbind(1), -1).float().permute(0, 3, 1, 2)
    # Not by the name of the order, which does not know the axis that vmap adds.
    rows = images.movedim(-3, -1).to(torch.float32, memory_format=torch.contiguous_format)
    return rows.movedim(-1, -3)


class Flat(nn.Module):
    """Observations of any shape as float vectors (…, width); `scale` multiplies them."""

    STACKS = True
    precision: Tensor

    def __init__(self, shape: Sequence[int], scale: float = 1.0) -> None:
        super().__init__()
        self.width, self.axes, self.scale = prod(shape), len(shape), scale
        # Follows the module through `.double()`, as the parameters behind it do.
        self.register_buffer("precision", torch.empty(0), persistent=False)

    def forward(self, observations: Tensor) -> Tensor:
        """(…, *shape) of any type → (…, width) of the type of the network's parameters."""
        observations = observations.to(self.precision.dtype)
        if self.scale != 1:
            observations = observations * self.scale
        return observations.flatten(-self.axes) if self.axes > 1 else observations


def torso(space: spaces.Space, kind: str = "auto", channels: int = 16, depth: int = 0) -> Any:
    """The first layers for an observation space: a module whose `.width` is its output size.

    Pictures (`nets.images.layout`) get convolutions, vectors with pictures in them (an attribute
    `parts`) convolutions for each, everything else is flattened; what is declared in [0, 255] is
    scaled to [0, 1].

    Args:
        space: one observation's.
        kind: for images, a key of `TORSOS`; auto takes by the shorter side the Nature CNN from 64
            pixels on, the one of half its first kernel from 36, the glimpse torso from 13 and a
            small one below.
        channels: capacity of the glimpse torso.
        depth: extra layers of the glimpse torso.
    """
    if kind not in TORSOS:
        unknown("torso", kind, TORSOS)
    if not isinstance(space, spaces.Box) or space.shape is None:
        raise UserError(f"observation space {space}: accepted is Box")
    parts = getattr(space, "parts", ())
    if any(map(is_image, parts)):
        torsos = [_one(part, kind, channels, depth, wrap=True) for part in parts]
        return PartsTorso(torsos, [part.shape for part in parts])
    return _one(space, kind, channels, depth)


def _one(space: spaces.Box, kind: str, channels: int, depth: int, wrap: bool = False) -> Any:
    """The torso of an undivided box; `wrap` where its values may come as floats."""
    picture = layout(space)
    if picture is None:
        return Flat(space.shape, 1 / 255 if uniform_bounds(space) == (0, 255) else 1.0)
    shorter = min(picture.shape[1:])
    if kind == "auto":
        kind = next(name for name, least in _LEAST_SIDES.items() if shorter >= least)
    is_native = picture.axes == "CHW" or (len(space.shape) == 3 and NatureCNN.turns(space.shape))
    makers: dict[str, Callable[[Sequence[int]], nn.Module]] = {
        "nature": NatureCNN,
        "halved": HalvedCNN,
        "glimpse": lambda shape: GlimpseCNN(shape, channels, depth),
        "small": SmallCNN,
    }
    make = makers[kind]
    if kind in ("nature", "halved") and picture.is_bytes and is_native and not wrap:
        return make(space.shape)
    inner = make(picture.shape)
    is_ready = picture.is_bytes and picture.axes == "CHW" and not wrap
    return inner if is_ready else Prepared(inner, picture)


def is_glimpse(torso: nn.Module) -> bool:
    """Whether the convolutions of a torso are those of the glimpse experiments."""
    return isinstance(torso.inner if isinstance(torso, Prepared) else torso, GlimpseCNN)


def tower(
    space: spaces.Space,
    outputs: int,
    hidden: Sequence[int],
    nonlinearity: str,
    convolutions: tuple[str, int, int] = ("auto", 16, 0),
) -> nn.Sequential:
    """(B, *observation) → (B, outputs): a torso of some kind, channels and depth, then an MLP."""
    beginning = torso(space, *convolutions)
    network = nn.Sequential(beginning, mlp((beginning.width, *hidden, outputs), nonlinearity))
    if is_glimpse(beginning):
        glorot(network)
    return network


def is_image(space: spaces.Space) -> bool:
    """Whether observations are images, or have images in them."""
    return layout(space) is not None or any(map(is_image, getattr(space, "parts", ())))
