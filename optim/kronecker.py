"""Zeta as Kronecker products of two small matrices per layer.

A layer's rows are a = g x^T - sum_k c_k g'_k x'_k^T and b = g x^T (see `optim/layers.py`). With V
the displacement of its weight, in matrix form,

    zeta^T V ~ E[g g^T] V E[x x^T] - E[c] E_c[g g'^T] V E_c[x' x^T],

where E_c weighs by c: exact where inputs and signals are independent. Derivatives of one layer's
gradient by another's weights are left out. For convolutions, whose rows are sums over positions,
different positions are taken as uncorrelated and all positions as alike (Grosse and Martens
2016), so a position counts as a sample. Factors of more than `factor_size` inputs or outputs
keep diagonal blocks of at most that size. Parameters of other layers keep the diagonal.

Sources: E. Bengio, PhD thesis, eq. 4.32-4.41 (a and b); Martens and Grosse 2015, "Optimizing
neural networks with Kronecker-factored approximate curvature".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from semigradient.optim.corrections import Names, State
from semigradient.optim.derivatives import LayerDerivatives, SemiGradient
from semigradient.optim.forms import Kronecker
from semigradient.optim.layers import Layer, columns, uncolumns
from semigradient.optim.temporal_difference import TemporalDifference

KEYS = ("inputs", "outputs", "mass", "next_inputs", "next_outputs", "next_mass")


@dataclass
class _Pending:
    """Sums over minibatches since the last step."""

    bias: int
    """The index of the layer's bias, or -1."""
    moments: list[Tensor]
    """In the order of KEYS; half of them if the target does not move."""


class KroneckerFactors:
    """State per layer, at its weight: averages of the factors, `inputs` E[x x^T] (blocks, size,
    size), `outputs` E[g g^T] alike, and `mass`, the average of the weights that they carry (which
    also holds their warm-up); `next_…` of the bootstrap. `bias`: the index of the layer's bias
    among the optimizer's parameters. Parameters outside such layers: `zeta`, of their shape.
    """

    def __init__(self, params: list[Tensor], state: State, form: Kronecker) -> None:
        self.params, self.state, self.form = params, state, form
        self._derivatives = LayerDerivatives()
        self._pending: dict[int, _Pending] = {}
        self._diagonal: dict[int, Tensor] = {}

    def check(self) -> None:
        """Every parameter suits."""

    def create(self) -> None:
        """The factors are made when a layer is first seen: only then is its kind known."""

    def accumulate(
        self, batch: TemporalDifference, names: Names, total: int, loss: SemiGradient | None = None
    ) -> None:
        """Add up the factors of the minibatch."""
        index = {name: i for i, name in enumerate(names) if name}
        derivatives, weight = self._derivatives(
            batch, {n: self.params[i] for n, i in index.items()}, total, loss
        )
        for layer in derivatives:
            i = index[layer.names[0]]
            if isinstance(layer, Layer):
                bias = -1 if layer.bias is None else index[layer.bias]
                pending = _Pending(bias, self._moments(layer, weight))
                if i in self._pending:
                    pairs = zip(self._pending[i].moments, pending.moments, strict=True)
                    pending.moments = [old + new for old, new in pairs]
                self._pending[i] = pending
            else:
                (part,) = layer.diagonal(weight)
                self._diagonal[i] = self._diagonal[i] + part if i in self._diagonal else part

    def rescale(self, factor: Tensor) -> None:
        """Scale what was accumulated: zeta is linear in all factors over the mass."""
        for pending in self._pending.values():
            torch._foreach_mul_(pending.moments, factor)
        for part in self._diagonal.values():
            part.mul_(factor)

    def apply(self, moved: list[Tensor]) -> list[Tensor]:
        """Return zeta^T d."""
        result = [torch.zeros_like(d) for d in moved]
        for i, p in enumerate(self.params):
            state = self.state[p]
            if "zeta" in state:
                result[i] = moved[i] * state["zeta"]
            if "inputs" not in state:
                continue
            bias = state["bias"]
            shifted = self._product(state, columns(moved[i]), moved[bias] if bias >= 0 else None)
            if bias >= 0:
                result[bias] = shifted[:, -1]
                shifted = shifted[:, :-1]
            result[i] = uncolumns(shifted, p.shape)
        return result

    def _product(self, state: dict[str, Tensor], matrix: Tensor, bias: Tensor | None) -> Tensor:
        """Return zeta^T times one layer's weight and bias, (outputs, inputs) both."""
        rows, width = matrix.shape
        count, size, _ = state["inputs"].shape
        padded = matrix.new_zeros(state["outputs"].shape[:2].numel(), count * size)
        padded[:rows, :width] = matrix
        if bias is not None:
            padded[:rows, width] = bias
            width += 1
        parts = padded.unflatten(1, (count, size)).transpose(0, 1)
        result = _sandwich(parts, *(state[key] for key in KEYS[:3]))
        if "next_inputs" in state:
            result.sub_(_sandwich(parts, *(state[key] for key in KEYS[3:])))
        return result.transpose(0, 1).flatten(1)[:rows, :width]

    def commit(self, betas: list[float]) -> None:
        """Average what was accumulated into the factors."""
        for i, pending in self._pending.items():
            state = self.state[self.params[i]]
            state["bias"] = pending.bias
            for key, moment in zip(KEYS, pending.moments, strict=False):
                if key not in state:
                    state[key] = torch.zeros_like(moment)
        for i, part in self._diagonal.items():
            if "zeta" not in self.state[self.params[i]]:
                self.state[self.params[i]]["zeta"] = torch.zeros_like(part)
        for i, (p, beta) in enumerate(zip(self.params, betas, strict=True)):
            old = [self.state[p][key] for key in (*KEYS, "zeta") if key in self.state[p]]
            if not old:
                continue
            torch._foreach_mul_(old, beta)
            new = self._pending[i].moments if i in self._pending else []
            new = [*new, self._diagonal[i]] if i in self._diagonal else new
            torch._foreach_add_(old[: len(new)], new, alpha=1 - beta)
        self._pending, self._diagonal = {}, {}

    def _moments(self, layer: Layer, weight: Tensor) -> list[Tensor]:
        """Return the layer's factors, summed over the minibatch, in the order of KEYS."""
        ratio = max(1.0, layer.positions / (self.form.positions or layer.positions))
        step = math.ceil(ratio**0.5)
        x, g = layer.factors((step, step) if layer.x.shape[3] > 1 else (math.ceil(ratio), 1))
        weight = weight[:, None] * layer.scale.abs() * (layer.positions / x.shape[2])
        here = self._pair(x[:, :1], g[:, :1], x[:, :1], g[:, :1], weight[:, :1])
        if x.shape[1] == 1:
            return here
        # The bootstraps, all together, each beside the prediction's own factors.
        return here + self._pair(x[:, 1:], g[:, 1:], x[:, :1], g[:, :1], weight[:, 1:])

    def _pair(self, x: Tensor, g: Tensor, x0: Tensor, g0: Tensor, weight: Tensor) -> list[Tensor]:
        """Return sum weight x x0^T, sum weight g0 g^T and the sum of weights, over all positions.

        Args:
            x, g: (m, K, T, …), of the rows a.
            x0, g0: (m, 1, T, …), of the rows b.
            weight: (m, K).
        """
        size = self.form.factor_size
        shares = weight[..., None, None]
        inputs = _blocks(x * shares, size).mT @ _blocks(x0.expand_as(x), size)
        outputs = _blocks(g0 * shares, size).mT @ _blocks(g, size)
        return [inputs, outputs, weight.sum() * x.shape[2]]


def _blocks(rows: Tensor, size: int) -> Tensor:
    """Return (m, K, T, width) as (blocks, m K T, width of a block), padded with zeros."""
    width = rows.shape[-1]
    count = -(-width // size) if size else 1
    block = -(-width // count)
    padded = (
        F.pad(rows.flatten(0, 2), (0, count * block - width)) if count > 1 else rows.flatten(0, 2)
    )
    return padded.view(-1, count, block).transpose(0, 1)


def _sandwich(parts: Tensor, inputs: Tensor, outputs: Tensor, mass: Tensor) -> Tensor:
    """Return outputs @ matrix @ inputs / mass, with block-diagonal factors.

    The matrix (outputs, inputs) comes and goes as (blocks of inputs, outputs, size of a block).
    """
    # No sample with a bootstrap so far: the factors are zero, too.
    left = outputs / mass.clamp_min(torch.finfo(mass.dtype).tiny)
    right = (parts @ inputs).unflatten(1, outputs.shape[:2])
    return (left @ right).flatten(1, 2)
