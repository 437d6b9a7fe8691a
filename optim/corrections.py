"""Forms of zeta, the running average of the matrices Z that move old gradients to the present.

Z = sum_i weight_i a_i b_i^T is n x n. Each form stores a part of it and computes
two things: zeta^T d for a displacement d of the parameters, and zeta <- beta zeta +
(1 - beta) Z for a minibatch. Here are those that keep entries of the matrix itself; factors of
it are in `optim/kronecker.py`, the rows that it is made of in `optim/low_rank.py`.

Source: E. Bengio, PhD thesis, sec. 4.2.2 and 4.2.3.1 (full, diagonal, block-diagonal), fig. 4.15
(some layers only).
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from semigradient.errors import UserError
from semigradient.optim.batched import curvatures, values
from semigradient.optim.derivatives import LayerDerivatives, SemiGradient
from semigradient.optim.forms import Block, Diagonal, Full, Layer
from semigradient.optim.layers import Product
from semigradient.optim.temporal_difference import Rows, TemporalDifference, per_sample_gradients

State: TypeAlias = MutableMapping[Any, Any]
"""`Optimizer.state`: a dictionary for each parameter."""
Names: TypeAlias = list[str]
"""The name of each parameter of the optimizer in the observed module; "" if it is not there."""


class Zeta(Protocol):
    """Zeta in one form over a list of parameters; all that lasts is kept in `Optimizer.state`."""

    def check(self) -> None:
        """Raise `UserError` if the parameters do not suit the form."""

    def create(self) -> None:
        """Put zeta = 0 into the state."""

    def accumulate(
        self, batch: TemporalDifference, names: Names, total: int, loss: SemiGradient | None = None
    ) -> None:
        """Add (a part of) a minibatch of `total` samples; its gradient goes into `loss`."""

    def rescale(self, factor: Tensor) -> None:
        """Scale what was accumulated since the last step."""

    def apply(self, moved: list[Tensor]) -> list[Tensor]:
        """Return zeta^T d, in the shapes of the parameters; d may be overwritten."""

    def commit(self, betas: list[float]) -> None:
        """Average what was accumulated into zeta; `betas` of each parameter."""


def joint_beta(betas: Sequence[float], correction: str) -> float:
    """Return the beta that all parameters share, which matrices over several of them need."""
    if len(set(betas)) > 1:
        raise UserError(f"correction={correction}: needs the same beta for all parameters")
    return betas[0]


def one_kind(params: Sequence[Tensor], correction: str) -> None:
    """Refuse parameters that cannot share one matrix."""
    if len({(p.device, p.dtype) for p in params}) > 1:
        raise UserError(f"correction={correction}: needs all parameters on one device, of one type")


def weighted_rows(
    batch: TemporalDifference,
    names: Sequence[str],
    params: Sequence[Tensor],
    total: int,
    loss: SemiGradient | None = None,
) -> tuple[Rows, Rows, Tensor]:
    """Return the rows a and b by the named parameters, and the weights (m,) of their products.

    The gradient is added to `loss`.
    """
    named = {name: p for name, p in zip(names, params, strict=True) if name}
    if not named:
        return {}, {}, torch.zeros(0)
    a, b = per_sample_gradients(batch, named)
    like = next(iter(b.values()))
    evaluated = None
    if loss is not None:
        evaluated = values(batch)
        factor = loss.see(batch, evaluated, total)
        for name, rows in b.items():
            loss.add(name, torch.tensordot(factor.to(rows), rows, 1))
    return a, b, (like.new_ones(batch.size) / total * curvatures(batch, evaluated)).to(like)


def joined_rows(rows: Rows, names: Sequence[str], params: Sequence[Tensor], m: int) -> Tensor:
    """Return rows by several parameters as one matrix (m, n), zero where a parameter has none."""
    shaped = zip(names, params, strict=True)
    flat = [rows[n].reshape(m, -1) if n in rows else p.new_zeros(m, p.numel()) for n, p in shaped]
    return torch.cat(flat, 1)


def split_like(flat: Tensor, params: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield the parts of a flat vector (n,) in the shapes of the parameters."""
    parts = flat.split([p.numel() for p in params])
    return (part.view(p.shape) for part, p in zip(parts, params, strict=True))


class DiagonalEntries:
    """The diagonal of zeta. State per parameter: `zeta`, of its shape."""

    def __init__(self, params: list[Tensor], state: State, form: Diagonal) -> None:
        self.params, self.state = params, state
        self._derivatives = LayerDerivatives()
        self._pending: list[list[Tensor | Product]] = [[] for _ in params]

    def check(self) -> None:
        """Every parameter suits."""

    def create(self) -> None:
        """Put zeta = 0 into the state."""
        for p in self.params:
            self.state[p]["zeta"] = torch.zeros_like(p)

    def accumulate(
        self, batch: TemporalDifference, names: Names, total: int, loss: SemiGradient | None = None
    ) -> None:
        """Add sum_i weight_i a_i * b_i."""
        index = {name: i for i, name in enumerate(names) if name}
        derivatives, weight = self._derivatives(
            batch, {n: self.params[i] for n, i in index.items()}, total, loss
        )
        for layer in derivatives:
            for name, part in zip(layer.names, layer.diagonal(weight), strict=True):
                self._pending[index[name]].append(part)

    def rescale(self, factor: Tensor) -> None:
        """Scale what was accumulated since the last step."""
        for pending in self._pending:
            for part in pending:
                (part.left if isinstance(part, Product) else part).mul_(factor)

    def apply(self, moved: list[Tensor]) -> list[Tensor]:
        """Return zeta * d."""
        torch._foreach_mul_(moved, [self.state[p]["zeta"] for p in self.params])
        return moved

    def commit(self, betas: list[float]) -> None:
        """Average what was accumulated into zeta."""
        for p, beta, pending in zip(self.params, betas, self._pending, strict=True):
            zeta, scale = self.state[p]["zeta"], beta
            for part in pending:
                if isinstance(part, Product):
                    part.added_to(zeta, scale, 1 - beta)
                elif scale == beta:
                    zeta.lerp_(part.view_as(zeta), 1 - beta)
                else:
                    zeta.add_(part.view_as(zeta), alpha=1 - beta)
                scale = 1.0
            if not pending:
                zeta.mul_(beta)
            pending.clear()


class WholeMatrices:
    """Full matrices over groups of parameters: all of them, or layer by layer.

    State: the first parameter of each group holds `zeta`, (n, n) over the group's parameters,
    flattened and concatenated in order: zeta[i, j] = d g_j / d theta_i. Parameters of layers that
    were not chosen hold the diagonal, of their shape, or nothing.
    """

    def __init__(self, params: list[Tensor], state: State, form: Full | Layer) -> None:
        self.params, self.state, self.form = params, state, form
        self.groups = form.groups(params)
        inside = {i for group in self.groups for i in group}
        outside = [i for i in range(len(params)) if i not in inside]
        self.diagonal = outside if form.rest == "diagonal" else []
        # Rows of each group (A, B), and the diagonals of the rest.
        self._rows: list[list[tuple[Tensor, Tensor]]] = [[] for _ in self.groups]
        self._pending: dict[int, Tensor] = {}

    def check(self) -> None:
        """Refuse parameters of several devices or types within one matrix."""
        for group in self.groups:
            one_kind([self.params[i] for i in group], self.form.name)

    def create(self) -> None:
        """Put zeta = 0 into the state."""
        for group in self.groups:
            first = self.params[group[0]]
            n = sum(self.params[i].numel() for i in group)
            self.state[first]["zeta"] = first.new_zeros(n, n)
        for i in self.diagonal:
            self.state[self.params[i]]["zeta"] = torch.zeros_like(self.params[i])

    def accumulate(
        self, batch: TemporalDifference, names: Names, total: int, loss: SemiGradient | None = None
    ) -> None:
        """Keep the rows, (m, n) each: less than a second n x n matrix while m < n / 2."""
        indices = [i for group in self.groups for i in group] + self.diagonal
        some = [names[i] for i in indices], [self.params[i] for i in indices]
        a, b, weight = weighted_rows(batch, *some, total, loss)
        if not b:
            return
        for group, pending in zip(self.groups, self._rows, strict=True):
            selection = [names[i] for i in group], [self.params[i] for i in group], batch.size
            pending.append(
                (joined_rows(a, *selection), joined_rows(b, *selection) * weight[:, None])
            )
        for i in self.diagonal:
            if names[i] in b:
                product = (a[names[i]] * b[names[i]]).flatten(1)
                part = (weight @ product).view(self.params[i].shape)
                self._pending[i] = self._pending[i] + part if i in self._pending else part

    def rescale(self, factor: Tensor) -> None:
        """Scale what was accumulated since the last step."""
        for pending in self._rows:
            for _, b in pending:
                b.mul_(factor)
        for part in self._pending.values():
            part.mul_(factor)

    def apply(self, moved: list[Tensor]) -> list[Tensor]:
        """Return zeta^T d."""
        result = [torch.zeros_like(d) for d in moved]
        for group in self.groups:
            params = [self.params[i] for i in group]
            flat = torch.cat([moved[i].reshape(-1) for i in group])
            for i, part in zip(
                group, split_like(self.state[params[0]]["zeta"].T @ flat, params), strict=True
            ):
                result[i] = part
        for i in self.diagonal:
            result[i] = moved[i] * self.state[self.params[i]]["zeta"]
        return result

    def commit(self, betas: list[float]) -> None:
        """Average what was accumulated into zeta."""
        for group, pending in zip(self.groups, self._rows, strict=True):
            beta = joint_beta([betas[i] for i in group], self.form.name)
            zeta = self.state[self.params[group[0]]]["zeta"]
            for k, (a, b) in enumerate(pending):
                # The first product also scales zeta: one pass over n x n values less.
                zeta.addmm_(a.T, b, beta=beta if k == 0 else 1, alpha=1 - beta)
            if not pending:
                zeta.mul_(beta)
            pending.clear()
        for i in self.diagonal:
            zeta = self.state[self.params[i]]["zeta"].mul_(betas[i])
            if i in self._pending:
                zeta.add_(self._pending[i], alpha=1 - betas[i])
        self._pending = {}


class DiagonalBlocks:
    """Square blocks of consecutive parameters, flattened and concatenated, on the diagonal.

    State: the first parameter holds `zeta`, (n / k, k, k), the last block padded with zeros.
    """

    def __init__(self, params: list[Tensor], state: State, form: Block) -> None:
        self.params, self.state = params, state
        self.n = sum(p.numel() for p in params)
        self.k = min(form.block_size, self.n)
        self.count = -(-self.n // self.k)
        self._pending: Tensor | None = None

    def check(self) -> None:
        """Refuse parameters of several devices or types: blocks may span them."""
        one_kind(self.params, "block")

    def create(self) -> None:
        """Put zeta = 0 into the state."""
        first = self.params[0]
        self.state[first]["zeta"] = first.new_zeros(self.count, self.k, self.k)

    def accumulate(
        self, batch: TemporalDifference, names: Names, total: int, loss: SemiGradient | None = None
    ) -> None:
        """Add the blocks of sum_i weight_i a_i b_i^T."""
        a, b, weight = weighted_rows(batch, names, self.params, total, loss)
        blocks_a = self._blocks(joined_rows(a, names, self.params, batch.size))
        blocks_b = self._blocks(joined_rows(b, names, self.params, batch.size) * weight[:, None])
        z = blocks_a.movedim(0, -1) @ blocks_b.movedim(0, 1)
        self._pending = z if self._pending is None else self._pending + z

    def rescale(self, factor: Tensor) -> None:
        """Scale what was accumulated since the last step."""
        if self._pending is not None:
            self._pending.mul_(factor)

    def apply(self, moved: list[Tensor]) -> list[Tensor]:
        """Return zeta^T d."""
        flat = self._blocks(torch.cat([d.reshape(-1) for d in moved])[None])[0]
        zeta = self.state[self.params[0]]["zeta"]
        shifted = (zeta.mT @ flat[..., None]).reshape(-1)[: self.n]
        return list(split_like(shifted, self.params))

    def commit(self, betas: list[float]) -> None:
        """Average what was accumulated into zeta."""
        beta = joint_beta(betas, "block")
        zeta = self.state[self.params[0]]["zeta"].mul_(beta)
        if self._pending is not None:
            zeta.add_(self._pending, alpha=1 - beta)
        self._pending = None

    def _blocks(self, rows: Tensor) -> Tensor:
        """Return (m, n) as (m, n / k, k), padded with zeros."""
        missing = self.count * self.k - self.n
        return torch.nn.functional.pad(rows, (0, missing)).view(-1, self.count, self.k)
