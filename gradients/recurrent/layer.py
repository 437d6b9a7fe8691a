"""Cells that are one layer: z = W a(x, s), s' = update(z, s), as several estimators need them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jacfwd, jvp, vmap

from semigradient.errors import require
from semigradient.gradients.recurrent.unrolled import Network, Unrolled


class Layer:
    """The layer of a network, which is a cell or has one as `cell`.

    Args:
        module: a cell has `features(x, s)`, `update(z, s)`, `weight` and says PREACTIVATIONS.
        name: of the estimator, for its error.

    Attributes:
        units: N, rows of W.
        inputs: A, columns of W.
    """

    def __init__(self, module: nn.Module, name: str) -> None:
        self.network = Network(module)
        self.prefix = "cell." if hasattr(module, "cell") else ""
        self.cell: Any = getattr(module, "cell", module)
        require(
            getattr(self.cell, "PREACTIVATIONS", False),
            f"{name}: {type(self.cell).__name__} is not one layer s' = update(W a, s), as this "
            "estimator needs it; rnn, gated and lstm are",
        )
        self.part = self.network.slices[self.prefix + "weight"]
        self.units, self.inputs = self.network.shapes[self.prefix + "weight"]

    def features(self, block: Unrolled) -> Tensor:
        """The layer's inputs a (B, A) at a block's only step."""
        return self.network.call(
            self.prefix + "features", block.theta, block.inputs[-1], block.start
        ).detach()

    def along(self, block: Unrolled, a: Tensor, direction: Tensor) -> Tensor:
        """∂s'/∂z times directions (B, N): (B, width)."""

        def one(z: Tensor, state: Tensor, direction: Tensor) -> Tensor:
            return jvp(lambda z: self.cell.update(z, state), (z,), (direction,))[1]

        return vmap(one)(self._z(block, a), block.start.detach(), direction)

    def jacobian(self, block: Unrolled, a: Tensor) -> Tensor:
        """∂s'/∂z (B, width, N)."""
        jacobian = vmap(jacfwd(self.cell.update))
        return jacobian(self._z(block, a), block.start.detach())

    def spread(self, matrix: Tensor) -> Tensor:
        """Derivatives by W (B, N, A) as derivatives by θ (B, P)."""
        rows = matrix.new_zeros(len(matrix), self.network.parameters)
        rows[:, self.part] = matrix.flatten(1)
        return rows

    def _z(self, block: Unrolled, a: Tensor) -> Tensor:
        weight = block.theta.detach()[:, self.part].unflatten(1, (self.units, self.inputs))
        return torch.einsum("bna,ba->bn", weight, a)


def balance(row: Tensor, column: Tensor) -> Tensor:
    """√(‖row‖ / ‖column‖) of vectors (B, …), as (B,); 1 where either is zero."""
    above, below = row.flatten(1).norm(dim=1), column.flatten(1).norm(dim=1)
    usable = (above > 0) & (below > 0)
    return torch.where(usable, above / torch.where(usable, below, 1), 1).sqrt()
