"""Recurrent networks that learn online from texts, K at once, with their derivatives written out.

A published table takes 10⁷ characters one by one, so what a step costs is decided by calls: here a
step of K networks is a few numpy products, and characters come in blocks of T. A block's gradient

    g = Σ dℓ/dθ within the block  +  u (dℓ/ds₀ · s̃) θ̃

is truncated backpropagation where u is 0, and UORO with memory T (C. Tallec, PhD thesis, 2019,
algorithm 1 and §3.5) where u is 1: s̃ and θ̃ are a rank-one estimate of ds₀/dθ at the beginning of
the block, moved through it by a tangent (forwards) and a cotangent of random signs (backwards).
Tests hold both equal to automatic derivatives and to `gradients.recurrent`, and UORO's mean to the
exact gradient.

A cell is linear in the present character, one-hot, and in the state h, before its nonlinearities:

    z_x = W_x[character],  z_h = W_h h + b.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]
EPSILON = 1e-7
"""Keeps the ratios of norms finite (algorithm 1)."""


class Cell(Protocol):
    """One step of K networks, and its derivatives.

    Attributes:
        gates: pre-activations of a unit.
        parts: vectors in its state, of H numbers each; the first is h, which is read out.
    """

    gates: int
    parts: int

    def step(self, z_x: Array, z_h: Array, state: Array) -> tuple[Array, Any]:
        """The next state (K, parts·H), and what the derivatives need.

        Args:
            z_x, z_h: pre-activations (K, gates·H), from the character and from h.
            state: (K, parts·H).
        """
        ...

    def forward(self, kept: Any, dz_h: Array, dstate: Array) -> Array:
        """The tangent of the next state, of tangents of z_h and of the state."""
        ...

    def backward(self, kept: Any, cotangent: Array) -> tuple[Array, Array, Array]:
        """Cotangents of z_x, z_h and the state (not by way of z_h), (…, K, ·) each."""
        ...


class Gru:
    """r, z = σ; n = tanh(z_x + r z_h); h' = z h + (1 - z) n; order r, z, n."""

    gates, parts = 3, 1

    def step(self, z_x: Array, z_h: Array, state: Array) -> tuple[Array, Any]:
        """As of `Cell`."""
        width = state.shape[-1]
        both = _sigmoid(z_x[:, : 2 * width] + z_h[:, : 2 * width])
        reset, keep = both[:, :width], both[:, width:]
        inner = z_h[:, 2 * width :]
        new = np.tanh(z_x[:, 2 * width :] + reset * inner)
        slopes = both * (1 - both)
        # Derivatives of h' by the pre-activations of n, of r (through n), and of z.
        by_new = (1 - keep) * (1 - new * new)
        by_reset = by_new * inner * slopes[:, :width]
        by_keep = (state - new) * slopes[:, width:]
        kept = (keep, np.concatenate([by_reset, by_keep, by_new], 1), reset)
        return new + keep * (state - new), kept

    def forward(self, kept: Any, dz_h: Array, dstate: Array) -> Array:
        """As of `Cell`."""
        keep, slopes, reset = kept
        width = keep.shape[-1]
        moved = dz_h * slopes
        moved[:, 2 * width :] *= reset
        parts = moved[:, :width] + moved[:, width : 2 * width] + moved[:, 2 * width :]
        return keep * dstate + parts

    def backward(self, kept: Any, cotangent: Array) -> tuple[Array, Array, Array]:
        """As of `Cell`."""
        keep, slopes, reset = kept
        width = keep.shape[-1]
        by_x = slopes * np.concatenate([cotangent] * 3, -1)
        by_h = by_x.copy()
        by_h[..., 2 * width :] *= reset
        return by_x, by_h, cotangent * keep


class Lstm:
    """c' = σ(f) c + σ(i) tanh u, h' = σ(o) tanh c'; order i, f, o, u; the state is h, c."""

    gates, parts = 4, 2

    def step(self, z_x: Array, z_h: Array, state: Array) -> tuple[Array, Any]:
        """As of `Cell`."""
        width = state.shape[-1] // 2
        z = z_x + z_h
        gate, update = _sigmoid(z[:, : 3 * width]), np.tanh(z[:, 3 * width :])
        enter, keep, show = gate[:, :width], gate[:, width : 2 * width], gate[:, 2 * width :]
        old = state[:, width:]
        cell = keep * old + enter * update
        squashed = np.tanh(cell)
        slopes = gate * (1 - gate)
        # Derivatives of c' by i, f, u, and of h' by o.
        by_cell = [update * slopes[:, :width], old * slopes[:, width : 2 * width]]
        by_update = enter * (1 - update * update)
        by_show = squashed * slopes[:, 2 * width :]
        kept = (
            np.concatenate([*by_cell, by_show, by_update], 1),
            keep,
            show * (1 - squashed * squashed),
        )
        return np.concatenate([show * squashed, cell], 1), kept

    def forward(self, kept: Any, dz_h: Array, dstate: Array) -> Array:
        """As of `Cell`."""
        slopes, keep, by_cell = kept
        width = keep.shape[-1]
        moved = dz_h * slopes
        enter, kept_, show = (moved[:, k * width : (k + 1) * width] for k in range(3))
        cell = keep * dstate[:, width:] + enter + kept_ + moved[:, 3 * width :]
        return np.concatenate([by_cell * cell + show, cell], 1)

    def backward(self, kept: Any, cotangent: Array) -> tuple[Array, Array, Array]:
        """As of `Cell`."""
        slopes, keep, by_cell = kept
        width = keep.shape[-1]
        by_h = cotangent[..., :width]
        cell = cotangent[..., width:] + by_h * by_cell
        z = slopes * np.concatenate([cell, cell, by_h, cell], -1)
        return z, z, np.concatenate([np.zeros_like(by_h), cell * keep], -1)


CELLS: dict[str, Cell] = {"gru": Gru(), "lstm": Lstm()}


class Network:
    """The shape of a recurrent layer and a linear softmax readout, over flat parameters (K, p).

    Args:
        kind: a name of `CELLS`.
        symbols: different characters.
        hidden: H.
    """

    def __init__(self, kind: str, symbols: int, hidden: int) -> None:
        self.cell, self.symbols, self.hidden = CELLS[kind], symbols, hidden
        width = self.cell.gates * hidden
        self.shapes = [
            (symbols, width),
            (hidden, width),
            (width,),
            (hidden, symbols),
            (symbols,),
        ]
        self.splits = list(itertools.accumulate(math.prod(shape) for shape in self.shapes))
        self.count = self.splits[-1]
        self.recurrent = self.splits[2]
        """Parameters that decide the state."""

    def views(self, vectors: Array) -> list[Array]:
        """W_x, W_h, b, W_o, b_o of vectors (K, p), as views; the first three of shorter ones."""
        ends = [end for end in self.splits if end <= vectors.shape[1]]
        return [
            vectors[:, start:end].reshape(len(vectors), *shape)
            for start, end, shape in zip([0, *ends], ends, self.shapes, strict=False)
        ]

    def initial(self, seeds: Sequence[int], keep_bias: float = -0.3) -> Array:
        """Parameters (K, p), uniform within one over the root of H; biases are 0.

        An LSTM's forget gates have a bias of `keep_bias`, as the published code has.
        """
        rows = []
        for seed in seeds:
            rng = np.random.default_rng((seed, 7))
            row = rng.uniform(-1, 1, (1, self.count)) * self.hidden**-0.5
            _, _, bias, _, out = self.views(row)
            bias[:], out[:] = 0, 0
            if isinstance(self.cell, Lstm):
                bias[:, self.hidden : 2 * self.hidden] = keep_bias
            rows.append(row)
        return np.concatenate(rows)


class Learners:
    """K networks in the middle of their texts.

    Args:
        network: their shape.
        theta: parameters (K, p), which are changed in place by whoever learns.
        is_uoro: u (K,), 0 or 1.

    Attributes:
        state: (K, parts·H).
        tangent, row: s̃ (K, parts·H) and θ̃ (K, recurrent parameters).
        gradient: (K, p), of the latest block.
    """

    def __init__(self, network: Network, theta: Array, is_uoro: ArrayLike) -> None:
        self.network, self.theta = network, theta
        self.is_uoro = np.asarray(is_uoro, theta.dtype)
        count, width = len(theta), network.cell.parts * network.hidden
        self.state = np.zeros((count, width), theta.dtype)
        self.tangent = np.zeros_like(self.state)
        self.row = np.zeros((count, network.recurrent), theta.dtype)
        self.gradient = np.zeros_like(theta)
        self._into = np.zeros_like(self.row)  # cotangents of the signs, by parameters
        self._each = np.arange(count)
        self._weights = network.views(theta)
        self._of, self._to = network.views(self.gradient), network.views(self._into)

    def block(self, text: Array, signs: Array) -> Array:
        """Read T characters, predict each next one, and differentiate; losses (T, K) in nats.

        Args:
            text: characters (T + 1, K), the last of which is only predicted.
            signs: ν (K, parts·H).
        """
        w_x, w_h, bias, w_out, b_out = self._weights
        hidden, each, cell = self.network.hidden, self._each, self.network.cell
        state, moved = self.state, self.tangent
        steps, losses = [], []
        for now, after in itertools.pairwise(text):
            h = state[:, :hidden]
            state, kept = cell.step(w_x[each, now], _times(h, w_h) + bias, state)
            logits = _times(state[:, :hidden], w_out) + b_out
            logits -= logits.max(1, keepdims=True)
            chances = np.exp(logits)
            chances /= chances.sum(1, keepdims=True)
            losses.append(-np.log(chances[each, after]))
            chances[each, after] -= 1
            moved = cell.forward(kept, _times(moved[:, :hidden], w_h), moved)
            steps.append((now, h, state[:, :hidden], kept, chances))
        by_start = self._backward(steps, signs)
        scale = self.is_uoro * (by_start * self.tangent).sum(1)
        self.gradient[:, : self.network.recurrent] += scale[:, None] * self.row
        self.tangent = balance(moved, self.row, signs, self._into)
        self.state = state
        return np.stack(losses)

    def _backward(self, steps: list[Any], signs: Array) -> Array:
        """Cotangents of the losses and of the signs, by parameters and the first state."""
        w_back, out_back = self._weights[1].swapaxes(1, 2), self._weights[3].swapaxes(1, 2)
        hidden, each = self.network.hidden, self._each
        self.gradient[:], self._into[:] = 0, 0
        of_x, of_h, of_b, of_out, of_bout = self._of
        to_x, to_h, to_b = self._to
        pull = np.stack([np.zeros_like(signs), signs])  # of the losses, and of the signs
        for now, h, shown, kept, error in reversed(steps):
            of_out += shown[:, :, None] * error[:, None, :]
            of_bout += error
            pull[0, :, :hidden] += _times(error, out_back)
            by_x, by_h, pull = self.network.cell.backward(kept, pull)
            of_x[each, now] += by_x[0]
            to_x[each, now] += by_x[1]
            of_h += h[:, :, None] * by_h[0, :, None, :]
            to_h += h[:, :, None] * by_h[1, :, None, :]
            of_b += by_h[0]
            to_b += by_h[1]
            pull[:, :, :hidden] += np.matmul(by_h[:, :, None, :], w_back)[:, :, 0]
        return pull[0]


def balance(moved: Array, row: Array, signs: Array, into: Array) -> Array:
    """s̃' = ρ₀ F s̃ + ρ₁ ν; θ̃' = θ̃ / ρ₀ + νF_θ / ρ₁ in the place of θ̃.

    The ρ make the variance least.

    Args:
        moved: F s̃ (K, n).
        row: θ̃ (K, p).
        signs: ν (K, n).
        into: νF_θ (K, p), which is overwritten.
    """
    first = np.sqrt(_norm(row) / (_norm(moved) + EPSILON)) + EPSILON
    second = np.sqrt(_norm(into) / (_norm(signs) + EPSILON)) + EPSILON
    row *= 1 / first
    into *= 1 / second
    row += into
    return first * moved + second * signs


class Adam:
    """Adam on vectors (K, p), in place, with rates from outside."""

    def __init__(self, theta: Array, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self.betas, self.count = betas, 0
        self.mean, self.square = np.zeros_like(theta), np.zeros_like(theta)
        self._scratch = np.zeros_like(theta)

    def step(self, theta: Array, gradient: Array, rate: float) -> None:
        """θ ← θ - rate m̂ / (√v̂ + 1e-8)."""
        (a, b), scratch = self.betas, self._scratch
        self.count += 1
        self.mean *= a
        np.multiply(gradient, 1 - a, out=scratch)
        self.mean += scratch
        self.square *= b
        np.multiply(gradient, gradient, out=scratch)
        scratch *= 1 - b
        self.square += scratch
        np.sqrt(self.square, out=scratch)
        # √v̂ + ε = (√v + ε √(1 - bᵗ)) / √(1 - bᵗ).
        root = (1 - b**self.count) ** 0.5
        scratch += 1e-8 * root
        np.divide(self.mean, scratch, out=scratch)
        scratch *= rate * root / (1 - a**self.count)
        theta -= scratch


def _sigmoid(z: Array) -> Array:
    return 0.5 * np.tanh(0.5 * z) + 0.5


def _times(rows: Array, matrices: Array) -> Array:
    """(K, i) by (K, i, o)."""
    return np.matmul(rows[:, None, :], matrices)[:, 0]


def _norm(rows: Array) -> Array:
    return np.sqrt(np.einsum("kp,kp->k", rows, rows))[:, None]
