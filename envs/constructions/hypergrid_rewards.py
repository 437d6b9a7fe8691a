"""Rewards of hyper-grids: functions of cells (m, n) int64, each coordinate in [0, H).

`corners` is the published one (Bengio 2022, section 5.4.1) and `cosine` that of its experiment on
fixed data. The others are kinds of landscape that later work trains on (deceptive, sparse,
compositional, irregular); their formulas are the ones written here.

Coordinates are compared with fractions of the grid in integers: for H = 6, 11, 16, …
the boundaries fall on cells, and rounding would put those on the wrong side.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from semigradient.errors import require


@dataclass(frozen=True)
class Landscape:
    """Parameters of a reward.

    Attributes:
        height: H.
        dimensions: n.
        r0: reward everywhere.
        r1: added on the wide plateaus.
        r2: added in the modes.
        seed: of the random landscapes.
    """

    height: int
    dimensions: int
    r0: float
    r1: float
    r2: float
    seed: int


Reward = Callable[[Tensor, Landscape], Tensor]


def offset(cells: Tensor, height: int) -> Tensor:
    """10 (H-1) |x_i| for x_i = -1 + 2 s_i / (H-1): integers of the shape of `cells`."""
    return 10 * (2 * cells - (height - 1)).abs()


def band(cells: Tensor, height: int) -> Tensor:
    """0.6 < |x_i| < 0.8, elementwise."""
    distance, unit = offset(cells, height), height - 1
    return (6 * unit < distance) & (distance < 8 * unit)


def beyond(cells: Tensor, height: int, tenths: int) -> Tensor:
    """|x_i| > tenths / 10, elementwise."""
    return offset(cells, height) > tenths * (height - 1)


def corners(cells: Tensor, land: Landscape) -> Tensor:
    """R0 + R1 Π 1[|x_i| > 0.5] + R2 Π 1[0.6 < |x_i| < 0.8]."""
    ring, modes = beyond(cells, land.height, 5).all(1), band(cells, land.height).all(1)
    return land.r0 + land.r1 * ring.double() + land.r2 * modes.double()


def cosine(cells: Tensor, land: Landscape) -> Tensor:
    """R0 + Π (cos 50 x_i + 1) φ(5 x_i), φ the standard normal density."""
    x = -1 + 2 * cells.double() / (land.height - 1)
    density = torch.exp(-0.5 * (5 * x).square()) / math.sqrt(2 * math.pi)
    return land.r0 + ((torch.cos(50 * x) + 1) * density).prod(1)


def deceptive(cells: Tensor, land: Landscape) -> Tensor:
    """R0 + R1 on a cross in the middle (some |x_i| ≤ 0.2), R0 off it, R0 + R2 in the modes."""
    cross = ~beyond(cells, land.height, 2).all(1)
    return land.r0 + land.r1 * cross.double() + land.r2 * band(cells, land.height).all(1).double()


def sparse(cells: Tensor, land: Landscape) -> Tensor:
    """R0 + R2 where every coordinate is 1 or H-2, R0 elsewhere."""
    target = ((cells == 1) | (cells == land.height - 2)).all(1)
    return land.r0 + land.r2 * target.double()


def xor(cells: Tensor, land: Landscape) -> Tensor:
    """R0 + R1 · (number k of lowest bits whose parity over all coordinates is even), + R2 for all.

    Bits count only as far as the first with odd parity.
    """
    bits = max(1, (land.height - 1).bit_length())
    shifts = torch.arange(bits, device=cells.device)
    even = ((cells[:, :, None] >> shifts) & 1).sum(1) % 2 == 0
    run = even.long().cumprod(1).sum(1)
    return land.r0 + land.r1 * run.double() + land.r2 * (run == bits).double()


def coprime(cells: Tensor, land: Landscape) -> Tensor:
    """R0 + R1 per pair of neighbouring coordinates (s_i + 1, s_{i+1} + 1) without common factor.

    R2 is added where all are; with one dimension its pair is (s_1 + 1, H).
    """
    one = cells + 1
    other = torch.roll(one, -1, 1)
    left, right = (one[:, :-1], other[:, :-1])
    if land.dimensions == 1:
        left, right = one, torch.full_like(one, land.height)
    is_coprime = torch.gcd(left, right) == 1
    return land.r0 + land.r1 * is_coprime.sum(1).double() + land.r2 * is_coprime.all(1).double()


def multiscale(cells: Tensor, land: Landscape) -> Tensor:
    """Regions within regions: R1 for a corner at the scale of the grid, R2 if at half of it too.

    The finer scale counts only where the coarser one is met: |x_i| > 0.5 for all i, then the same
    of the position within that quarter of the axis.
    """
    coarse = beyond(cells, land.height, 5).all(1)
    # Position within the outer quarters: 10 (H-1) |y_i| for y_i = -1 + 4 (|x_i| - 0.5).
    unit = 10 * (land.height - 1)
    inner = (4 * offset(cells, land.height) - 3 * unit).abs()
    fine = (2 * inner > unit).all(1) & coarse
    return land.r0 + land.r1 * coarse.double() + land.r2 * fine.double()


def uniform(cells: Tensor, land: Landscape) -> Tensor:
    """R0 + R2 u with u uniform on [0, 1), drawn for every cell."""
    return land.r0 + land.r2 * _noise(cells, land)


def corrupted(cells: Tensor, land: Landscape) -> Tensor:
    """`corners`, times a factor drawn for every cell, uniform on [0.5, 1.5)."""
    return corners(cells, land) * (0.5 + _noise(cells, land))


REWARDS: Mapping[str, Reward] = {
    "corners": corners,
    "cosine": cosine,
    "deceptive": deceptive,
    "sparse": sparse,
    "xor": xor,
    "coprime": coprime,
    "multiscale": multiscale,
    "uniform": uniform,
    "corrupted": corrupted,
}
_BANDED = ("corners", "deceptive", "corrupted")


def check(name: str, land: Landscape) -> None:
    """`UserError` unless the reward has a mode."""
    if name in _BANDED:
        cells = torch.arange(land.height)[:, None]
        require(
            bool(band(cells, land.height).any()),
            f"height={land.height}: no cell has 0.6 < |x| < 0.8, so reward={name!r} has no mode; "
            "accepted are 7 to 10, and 12 or more",
        )


def mode_numbers(name: str, cells: Tensor, land: Landscape) -> Tensor:
    """Mode of each cell (m,), -1 for none: by the signs of its coordinates, 2^n at most."""
    if name in _BANDED:
        inside = band(cells, land.height).all(1)
    elif name == "sparse":
        inside = ((cells == 1) | (cells == land.height - 2)).all(1)
    else:
        return torch.full((len(cells),), -1, device=cells.device)
    signs = (2 * cells > land.height - 1).long()
    weights = 2 ** torch.arange(land.dimensions, device=cells.device)
    return torch.where(inside, (signs * weights).sum(1), -1)


def mode_count(name: str, land: Landscape) -> int:
    """Number of modes that `mode_numbers` distinguishes."""
    return 2**land.dimensions if name in (*_BANDED, "sparse") else 0


def _noise(cells: Tensor, land: Landscape) -> Tensor:
    """A number in [0, 1) for every cell, the same in any batch: (m,) float64.

    An integer hash (rounds of multiplication and shifts) instead of a generator, which would have
    to go through all cells.
    """
    mixed = torch.full((len(cells),), land.seed * 2 + 1, dtype=torch.int64, device=cells.device)
    for axis in itertools.chain(range(land.dimensions), [0]):
        mixed = (mixed * 6364136223846793005 + cells[:, axis] + 1442695040888963407) & _MASK
        mixed = ((mixed ^ (mixed >> 31)) * 0x2545F4914F6CDD1D) & _MASK
        mixed = mixed ^ (mixed >> 29)
    return (mixed >> 10).double() / 2**53


_MASK = 2**63 - 1
