"""Zeta as the rows that it is made of, of the last minibatches.

    zeta^T d = sum_i share_i b_i (a_i . d),   share_i = (1 - beta) beta^age_i weight_i

needs no matrix: 2 n numbers per sample instead of n^2 in all, and far fewer for linear layers,
whose rows stay outer products g x^T: inputs + outputs numbers. Derivatives of one layer's gradient
by another's weights are all there. The result is that of the full matrix, but for minibatches
older than the window, which are forgotten; at their last use the default window of 2 / (1 - beta)
minibatches leaves them about e^-2 of their first share.

Source: the sum in E. Bengio, PhD thesis, eq. 4.19, with eq. 4.36-4.41 for its terms.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from semigradient.errors import UserError
from semigradient.optim.corrections import Names, State, joint_beta, one_kind
from semigradient.optim.derivatives import LayerDerivatives, SemiGradient
from semigradient.optim.forms import LowRank
from semigradient.optim.layers import Layer, Rows, columns, uncolumns
from semigradient.optim.memory import readable, usable_memory
from semigradient.optim.temporal_difference import TemporalDifference

_RING = ("shares", "x", "g", "a", "b")


class RecentRows:
    """A ring of H minibatches of at most M samples.

    State of the first parameter: `shares` (H, M) of the samples in zeta; `age`, the number of
    minibatches so far. State per linear layer, at its weight: `x` (H, M, J, inputs) and `g` (H, M,
    J, outputs), J - 1 the number of bootstraps, whose factors are in `g`. State of every other
    parameter or layer: `a` and `b`, (H, M, n). `bias` is the index of a layer's bias among the
    optimizer's parameters, or -1.
    """

    def __init__(self, params: list[Tensor], state: State, form: LowRank) -> None:
        self.params, self.state, self.form = params, state, form
        self._derivatives = LayerDerivatives()
        # Parts of the minibatch: what to keep of each parameter, and the samples' weights.
        self._pending: list[tuple[dict[int, dict[str, Tensor]], Tensor]] = []
        self._biases: dict[int, int] = {}

    def check(self) -> None:
        """Refuse parameters of several devices or types."""
        one_kind(self.params, "low-rank")

    def create(self) -> None:
        """Put zeta = 0 into the state; the ring is made when its width is known."""
        first = self.params[0]
        self.state[first].update(shares=first.new_zeros(0, 0), age=0)

    def accumulate(
        self, batch: TemporalDifference, names: Names, total: int, loss: SemiGradient | None = None
    ) -> None:
        """Keep the rows of the minibatch."""
        index = {name: i for i, name in enumerate(names) if name}
        derivatives, weight = self._derivatives(
            batch, {n: self.params[i] for n, i in index.items()}, total, loss
        )
        kept = {}
        for layer in derivatives:
            i = index[layer.names[0]]
            kept[i] = _kept(layer)
            bias = layer.bias if isinstance(layer, Layer) else None
            self._biases[i] = -1 if bias is None else index[bias]
        self._pending.append((kept, weight))

    def rescale(self, factor: Tensor) -> None:
        """Scale what was accumulated since the last step."""
        for _, weight in self._pending:
            weight.mul_(factor)

    def apply(self, moved: list[Tensor]) -> list[Tensor]:
        """Return zeta^T d."""
        result = [torch.zeros_like(d) for d in moved]
        state = self.state[self.params[0]]
        shares = state["shares"]
        filled = min(state["age"], len(shares))
        if not filled:
            return result
        kept = [i for i, p in enumerate(self.params) if "bias" in self.state[p]]
        along = torch.zeros_like(shares[:filled])
        for i in kept:
            along += self._dot(i, self._matrix(i, moved), filled)
        coefficient = (along * shares[:filled]).reshape(-1)
        for i in kept:
            self._put(i, self._combine(i, coefficient, filled), result)
        return result

    def commit(self, betas: list[float]) -> None:
        """Write what was accumulated into the ring, over the oldest minibatch."""
        beta = joint_beta(betas, "low-rank")
        m = sum(len(weight) for _, weight in self._pending)
        for i, bias in self._biases.items():
            self.state[self.params[i]]["bias"] = bias
        self._make_room(self.form.length(beta), m)
        first = self.state[self.params[0]]
        slot = first["age"] % len(first["shares"])
        first["shares"] *= beta
        for p in self.params:
            for key in _RING:
                if key in self.state[p]:
                    self.state[p][key][slot] = 0
        start = 0
        for kept, weight in self._pending:
            part = slice(start, start + len(weight))
            first["shares"][slot, part] = (1 - beta) * weight
            for i, tensors in kept.items():
                for key, tensor in tensors.items():
                    narrow = tuple(slice(size) for size in tensor.shape[1:])
                    self.state[self.params[i]][key][(slot, part, *narrow)] = tensor
            start += len(weight)
        first["age"] += 1
        self._pending = []

    def _make_room(self, window: int, m: int) -> None:
        """Make or widen the ring, so that it holds H minibatches of m samples."""
        width = max(m, self.state[self.params[0]]["shares"].shape[1])
        sizes = {}
        for i, p in enumerate(self.params):
            for key in _RING:
                new = [
                    kept[i][key].shape[1:] for kept, _ in self._pending if key in kept.get(i, {})
                ]
                old = [self.state[p][key].shape[2:]] if key in self.state[p] else []
                if new or old:
                    inner = (max(axis) for axis in zip(*new, *old, strict=True))
                    sizes[i, key] = (window, width, *inner)
        if all(self._shape(*place) == size for place, size in sizes.items()):
            return
        _check_memory(sizes.values(), self.params[0])
        for (i, key), size in sizes.items():
            ring, old_ring = self.params[0].new_zeros(size), self.state[self.params[i]].get(key)
            if old_ring is not None and old_ring.numel():
                ring[tuple(slice(n) for n in old_ring.shape)] = old_ring
            self.state[self.params[i]][key] = ring

    def _shape(self, i: int, key: str) -> tuple[int, ...]:
        ring = self.state[self.params[i]].get(key)
        return () if ring is None else tuple(ring.shape)

    def _matrix(self, i: int, tensors: list[Tensor]) -> Tensor:
        """Return a layer's part of a list of tensors, weight and bias as one (outputs, inputs)."""
        matrix = columns(tensors[i])
        bias = self.state[self.params[i]]["bias"]
        return matrix if bias < 0 else torch.cat([matrix, tensors[bias][:, None]], 1)

    def _dot(self, i: int, matrix: Tensor, filled: int) -> Tensor:
        """Return a . d of each kept sample, (filled, M), of one layer."""
        state = self.state[self.params[i]]
        if "x" in state:
            return ((state["x"][:filled] @ matrix.T) * state["g"][:filled]).sum((-1, -2))
        return state["a"][:filled] @ matrix.reshape(-1)

    def _combine(self, i: int, coefficient: Tensor, filled: int) -> Tensor:
        """Return the sum of coefficient b over all kept samples, in the shape of `_matrix`."""
        state = self.state[self.params[i]]
        if "x" in state:
            x, g = (state[key][:filled, :, 0].flatten(0, 1) for key in ("x", "g"))
            return (g * coefficient[:, None]).T @ x
        flat = coefficient @ state["b"][:filled].flatten(0, 1)
        return flat.view(columns(self.params[i]).shape[0], -1)

    def _put(self, i: int, matrix: Tensor, result: list[Tensor]) -> None:
        """Invert `_matrix`."""
        bias = self.state[self.params[i]]["bias"]
        if bias >= 0:
            result[bias] = matrix[:, -1]
            matrix = matrix[:, :-1]
        result[i] = uncolumns(matrix, self.params[i].shape)


def _kept(layer: Layer | Rows) -> dict[str, Tensor]:
    """Return what to keep of a layer: the smaller of its factors and its rows."""
    if isinstance(layer, Layer) and layer.positions == 1:
        x, g = layer.factors()
        return {"x": x[:, :, 0], "g": layer.scaled(g)[:, :, 0]}
    a, b = layer.rows()
    if isinstance(layer, Rows):
        # In the order in which `columns` reads a displacement.
        a, b = (torch.func.vmap(columns)(rows) for rows in (a, b))
    return {"a": a.flatten(1), "b": b.flatten(1)}


def _check_memory(sizes: Iterable[tuple[int, ...]], like: Tensor) -> None:
    """Refuse a ring that does not fit, before it is made."""
    needed = sum(math.prod(size) for size in sizes) * like.element_size()
    usable = usable_memory(like.device)
    if needed > usable:
        raise UserError(
            f"correction=low-rank: the window's rows need {readable(needed)} ({needed} bytes), "
            f"but {like.device} has {readable(usable)} to give; a smaller window, minibatch "
            "or correction=kronecker or diagonal needs less"
        )
