"""The forms of zeta, the matrix that corrects momentum, and the options of each.

    CorrectedMomentum(params, lr, beta, zeta=LowRank(window=5))

A form says how much of the n x n matrix over n parameters is stored. It only describes: the
computations are in `optim/corrections.py`, `optim/kronecker.py` and `optim/low_rank.py`.
Nothing here imports torch, so a command line can describe the options before it does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias, get_args

from semigradient.errors import require, unknown

if TYPE_CHECKING:
    from torch import Tensor

Rest: TypeAlias = Literal["diagonal", "plain"]
Motion: TypeAlias = Literal["displacement", "printed"]
"""What corrected momentum moves old gradients along; see `optim.corrected_momentum`."""


@dataclass(frozen=True)
class Form:
    """What every form of zeta has."""

    name: ClassVar[str]
    """What the command line calls it."""
    is_joint: ClassVar[bool] = False
    """Whether one matrix spans all parameters, which then need the same beta."""

    def size(self, params: Sequence[Tensor], beta: float) -> int:
        """Return how many numbers zeta takes over these parameters."""
        raise NotImplementedError


@dataclass(frozen=True)
class Diagonal(Form):
    """The diagonal: n numbers."""

    name = "diagonal"

    def size(self, params: Sequence[Tensor], beta: float) -> int:
        """Return n."""
        return _count(params)


@dataclass(frozen=True)
class Block(Form):
    """Square blocks of consecutive parameters on the diagonal: n x block_size numbers."""

    name = "block"
    is_joint = True

    block_size: int = 16
    """Consecutive parameters per block."""

    def __post_init__(self) -> None:
        require(self.block_size >= 1, f"block_size={self.block_size}: must be >= 1")

    def size(self, params: Sequence[Tensor], beta: float) -> int:
        """Return the size of all blocks, the last one padded."""
        return math.ceil(_count(params) / self.block_size) * self.block_size**2


@dataclass(frozen=True)
class _Chosen(Form):
    """Whole matrices over some of the layers."""

    layers: int = 0
    """How many layers, counted from the input (negative: from the output; 0: all)."""
    rest: Rest = "diagonal"
    """What the other layers get, the diagonal or plain momentum."""

    def __post_init__(self) -> None:
        if self.rest not in get_args(Rest):
            unknown("rest", self.rest, get_args(Rest))

    def groups(self, params: Sequence[Tensor]) -> list[list[int]]:
        """Return the indices of the parameters of each matrix."""
        layers = layers_of(params)
        return layers[: self.layers] if self.layers > 0 else layers[self.layers :]

    def size(self, params: Sequence[Tensor], beta: float) -> int:
        """Return the size of all matrices, and of the diagonal of the rest."""
        sizes = [_count([params[i] for i in group]) for group in self.groups(params)]
        outside = _count(params) - sum(sizes) if self.rest == "diagonal" else 0
        return sum(size**2 for size in sizes) + outside


@dataclass(frozen=True)
class Layer(_Chosen):
    """One matrix for each layer by itself."""

    name = "layer"


@dataclass(frozen=True)
class Full(_Chosen):
    """The whole n x n matrix, or that over some of the layers."""

    name = "full"
    is_joint = True

    def groups(self, params: Sequence[Tensor]) -> list[list[int]]:
        """Return one group, of all parameters of the chosen layers."""
        return [[i for layer in super().groups(params) for i in layer]]


@dataclass(frozen=True)
class Kronecker(Form):
    """Products of two small matrices per layer."""

    name = "kronecker"

    factor_size: int = 256
    """Largest block of a factor, in inputs or outputs (0: no blocks)."""
    positions: int = 64
    """Positions of an image that a convolution's factors are made from (0: all)."""

    def __post_init__(self) -> None:
        for name in ("factor_size", "positions"):
            value = getattr(self, name)
            require(value >= 0, f"{name}={value}: must be >= 0")

    def size(self, params: Sequence[Tensor], beta: float) -> int:
        """Return the numbers in two factors per layer, twice: prediction and bootstrap."""
        return sum(self._factors(params[layer[0]]) for layer in layers_of(params))

    def _factors(self, weight: Tensor) -> int:
        if weight.ndim < 2:
            return weight.numel()
        widths = math.prod(weight.shape[1:]) + 1, weight.shape[0]
        counts = [math.ceil(width / (self.factor_size or width)) for width in widths]
        return 2 * sum(k * math.ceil(w / k) ** 2 for k, w in zip(counts, widths, strict=True))


@dataclass(frozen=True)
class LowRank(Form):
    """The rows of the last minibatches: the whole matrix over a window, never written out."""

    name = "low-rank"
    is_joint = True

    window: int = 0
    """Minibatches that are kept (0: 2 / (1 - beta))."""

    def __post_init__(self) -> None:
        require(self.window >= 0, f"window={self.window}: must be >= 0")

    def length(self, beta: float) -> int:
        """Return the number of minibatches that are kept."""
        return self.window or math.ceil(round(2 / (1 - beta), 9))

    def size(self, params: Sequence[Tensor], beta: float) -> int:
        """Return the least that the window can take: one sample per minibatch, no bootstrap.

        What it does take is known with the first minibatch, and checked then.
        """
        rows = sum(2 * p.numel() if p.ndim != 2 else sum(p.shape) for p in params)
        return self.length(beta) * rows


FORMS: dict[str, type[Form]] = {
    form.name: form for form in (Full, Diagonal, Block, Layer, Kronecker, LowRank)
}
"""Name on the command line -> form."""


def layers_of(params: Sequence[Tensor]) -> list[list[int]]:
    """Return the indices of the parameters of each layer: a weight of two or more axes, and the
    vectors (its bias) that follow it.
    """
    layers: list[list[int]] = []
    for index, p in enumerate(params):
        if p.ndim >= 2 or not layers:
            layers.append([])
        layers[-1].append(index)
    return layers


def _count(params: Sequence[Tensor]) -> int:
    return sum(p.numel() for p in params)
