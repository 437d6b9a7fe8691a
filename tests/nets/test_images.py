"""Pictures: their layout, the network that their size asks for, and their scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from semigradient.envs.forms import Features, Parts
from semigradient.errors import UserError
from semigradient.nets.bricks import Flat, HalvedCNN, NatureCNN, is_image, torso
from semigradient.nets.glimpse import GlimpseCNN
from semigradient.nets.images import Prepared, SmallCNN, layout


def box(*shape: int, high: float = 255, dtype: Any = np.uint8, low: float = 0) -> spaces.Box:
    return spaces.Box(low, high, shape, dtype)


@pytest.mark.parametrize(
    ("space", "shape", "kind"),
    [
        (box(84, 84), (1, 84, 84), NatureCNN),
        (box(4, 84, 84), (4, 84, 84), NatureCNN),
        (box(210, 160, 3), (3, 210, 160), NatureCNN),
        (box(84, 84, 84), (84, 84, 84), NatureCNN),
        (box(4, 84, 84, 3), (12, 84, 84), NatureCNN),
        (box(4, 3, 84, 84), (12, 84, 84), NatureCNN),
        (box(96, 96, 3, dtype=np.float32), (3, 96, 96), NatureCNN),
        (box(64, 64, 1, high=1, dtype=np.float32), (1, 64, 64), NatureCNN),
        (box(64, 64, 3, low=-1, high=1, dtype=np.float64), (3, 64, 64), NatureCNN),
        (box(64, 64, 3, dtype=np.int32), (3, 64, 64), NatureCNN),
        (box(4, 42, 42), (4, 42, 42), HalvedCNN),
        (box(42, 50, 3), (3, 42, 50), HalvedCNN),
        (box(40, 40, 1, high=1, dtype=np.float32), (1, 40, 40), HalvedCNN),
        (box(3, 32, 32), (3, 32, 32), GlimpseCNN),
        (box(32, 32, 3), (3, 32, 32), GlimpseCNN),
        (box(15, 15, 1), (1, 15, 15), GlimpseCNN),
        (box(20, 30), (1, 20, 30), GlimpseCNN),
        (box(7, 7, 3), (3, 7, 7), SmallCNN),
        (box(3, 7, 7), (3, 7, 7), SmallCNN),
        (box(8, 8, 12), (12, 8, 8), SmallCNN),
        (box(12, 8, 8), (12, 8, 8), SmallCNN),
        (box(10, 10, 4, high=1, dtype=np.float32), (4, 10, 10), SmallCNN),
        (box(10, 10, high=6), (1, 10, 10), SmallCNN),
        (box(3, 3, 2, high=1), (2, 3, 3), SmallCNN),
        (box(5, 100, 3), (3, 5, 100), SmallCNN),
    ],
)
def test_a_picture_gets_the_convolutions_of_its_size(
    space: spaces.Box, shape: tuple[int, ...], kind: type
) -> None:
    found = layout(space)
    assert found is not None
    assert found.shape == shape
    assert is_image(space)
    network = torso(space)
    inner = network.inner if isinstance(network, Prepared) else network
    assert type(inner) is kind
    batch = torch.from_numpy(np.stack([space.sample() for _ in range(2)]))
    assert network(batch).shape == (2, network.width)


@pytest.mark.parametrize(
    "space",
    [
        box(4, high=1, low=-1, dtype=np.float32),
        box(128),
        box(4, 4),
        box(2, 2, 5),
        box(4, 128, high=46),
        box(6, 3, 3, high=1, dtype=np.float32),
        box(9, 9, 3, high=np.inf, dtype=np.float32),
        box(8, 30, high=1, dtype=np.float32),
        box(20, 20, 3, high=1000, dtype=np.int32),
        Features(0, 1, (8, 32, 46), np.float32),
        spaces.Box(np.zeros((9, 9, 3)), np.arange(243).reshape(9, 9, 3) + 1.0, dtype=np.float64),
    ],
)
def test_what_is_no_picture_is_flattened(space: spaces.Box) -> None:
    assert not is_image(space)
    assert isinstance(torso(space), Flat)


def _seen(network: Any, batch: Tensor) -> Tensor:
    """What the convolutions are given."""
    given: list[Tensor] = []
    network.inner.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    network(batch)
    return given[0]


@pytest.mark.parametrize(
    ("space", "value", "scaled"),
    [
        (box(9, 9, 3, dtype=np.float32), 51.0, 0.2),
        (box(9, 9, 3, high=10), 4, 0.4),
        (box(9, 9, 3, high=1, dtype=np.float32), 0.25, 0.25),
        (box(9, 9, 3, low=-1, high=1, dtype=np.float32), -0.5, -0.5),
        (box(9, 9, 3, low=-2, high=2, dtype=np.float32), 1.0, 0.75),
    ],
)
def test_values_are_scaled_by_the_declared_bounds(
    space: spaces.Box, value: float, scaled: float
) -> None:
    batch = torch.from_numpy(np.full((1, *space.shape), value, space.dtype))
    seen = _seen(torso(space), batch)
    torch.testing.assert_close(seen, torch.full((1, 3, 9, 9), scaled))


def test_bytes_are_scaled_once() -> None:
    space = box(9, 9, 3)
    network = torso(space)
    bytes_ = torch.randint(256, (2, 9, 9, 3), dtype=torch.uint8)
    direct = network.inner.convolutions(bytes_.float().permute(0, 3, 1, 2) / 255).flatten(1)
    torch.testing.assert_close(network(bytes_), direct)
    torch.testing.assert_close(
        torso(box(128))(torch.full((1, 128), 51.0)), torch.full((1, 128), 0.2)
    )


def test_axes_keep_their_meaning() -> None:
    stack = box(2, 9, 9, 3)
    batch = torch.arange(2 * 243, dtype=torch.float32).view(1, 2, 9, 9, 3) % 200
    seen = _seen(torso(stack), batch) * 255
    torch.testing.assert_close(seen[0, 4], batch[0, 1, :, :, 1])
    grey = _seen(torso(box(9, 11)), torch.zeros(1, 9, 11, dtype=torch.uint8))
    assert grey.shape == (1, 1, 9, 11)


def test_pictures_among_other_numbers_get_convolutions_of_their_own() -> None:
    parts = [box(3, high=1, low=-1, dtype=np.float32), box(7, 7, 3), box(2, high=1)]
    space = Parts(parts, np.float32)
    assert is_image(space)
    network = torso(space)
    kinds = [type(part) for part in network.torsos]
    assert kinds == [Flat, Prepared, Flat]
    assert network.width == 3 + network.torsos[1].width + 2
    picture = torch.randint(256, (4, 7, 7, 3), dtype=torch.uint8)
    numbers = torch.randn(4, 5)
    rows = torch.cat([numbers[:, :3], picture.flatten(1).float(), numbers[:, 3:]], 1)
    alone = network.torsos[1](picture)
    wanted = torch.cat([numbers[:, :3], alone, numbers[:, 3:]], 1)
    torch.testing.assert_close(network(rows), wanted)
    assert isinstance(torso(Parts(parts[::2], np.float32)), Flat)


def test_convolutions_that_are_asked_for_must_fit() -> None:
    assert isinstance(torso(box(40, 40, 3), "small").inner, SmallCNN)
    for kind, words in (("nature", "36×36"), ("halved", "10×10"), ("glimpse", "13×13")):
        with pytest.raises(UserError, match=words):
            torso(box(7, 7, 3), kind)
