"""Per-sample derivatives layer by layer, as the factors that one backward pass leaves behind.

The derivative of a sample's prediction by the weight of a linear layer is the outer product
g x^T of the layer's input x and the signal g backpropagated to its output; by the weight of a
convolution it is the sum of such products over the positions t of the image, x_t the patch under
the kernel. A bias is one more input, always 1. Nothing of the size samples x parameters need
exist. `optim/derivatives.py` computes the factors.

Sources: E. Bengio, PhD thesis, ch. 4, eq. 4.32-4.41 (the rows); Grosse and Martens 2016, "A
Kronecker-factored approximate Fisher matrix for convolution layers" (patches).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


def columns(tensor: Tensor) -> Tensor:
    """Return a weight (outputs, ...) as a matrix (outputs, inputs).

    A convolution's channels come last, as they lie in memory where convolutions are fast.
    """
    if tensor.ndim == 4:
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.reshape(tensor.shape[0] if tensor.ndim else 1, -1)


def uncolumns(matrix: Tensor, shape: torch.Size) -> Tensor:
    """Invert `columns`; (..., outputs, inputs) becomes (..., *shape)."""
    if len(shape) != 4:
        return matrix.reshape(*matrix.shape[:-2], *shape)
    out, channels, height, width = shape
    return matrix.reshape(*matrix.shape[:-2], out, height, width, channels).movedim(-1, -3)


class Product(NamedTuple):
    """A matrix as two factors, left^T right: it need not be written out to be added."""

    left: Tensor
    """(k, outputs)"""
    right: Tensor
    """(k, inputs)"""

    def added_to(self, matrix: Tensor, beta: float, alpha: float) -> None:
        """Make `matrix`, in place, beta matrix + alpha left^T right."""
        matrix.addmm_(self.left.T, self.right, beta=beta, alpha=alpha)


_CACHED = 2**20
"""Numbers of written-out patches that are worked on at once."""


@dataclass(frozen=True)
class Layer:
    """The factors of one linear or convolutional layer for m samples.

    With J = 1 + K: position 0 of the second axis is the prediction, the others are its bootstraps.
    T1 x T2 positions: 1 x 1 for a linear layer, those of the output for a convolution.
    """

    weight: str
    """The weight's name."""
    shape: torch.Size
    """The weight's shape."""
    bias: str | None
    """The bias's name, if it is learned: then the last input is 1."""
    x: Tensor
    """Inputs without that 1, (m, J, T1, T2, ...): a view, several times as large as what it shows
    where the patches of a convolution overlap."""
    g: Tensor
    """Derivatives of the prediction by the outputs, (m, J, T1, T2, outputs)."""
    scale: Tensor
    """(m, J): 1, and minus the discount of each bootstrap."""

    @property
    def names(self) -> list[str]:
        """The parameters, weight first."""
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    @property
    def positions(self) -> int:
        """T = T1 T2."""
        return self.x.shape[2] * self.x.shape[3]

    def factors(self, step: tuple[int, int] = (1, 1)) -> tuple[Tensor, Tensor]:
        """Return inputs (m, J, T, inputs), the 1 included, and signals (m, J, T, outputs).

        `step`: take every so many positions only, along both axes.
        """
        x, g = (t[:, :, :: step[0], :: step[1]] for t in (self.x, self.g))
        x, g = (t.reshape(*t.shape[:2], t.shape[2] * t.shape[3], -1) for t in (x, g))
        return (x if self.bias is None else F.pad(x, (0, 1), value=1.0)), g

    def scaled(self, g: Tensor) -> Tensor:
        """Return signals times `scale`: a = sum over J and T of scaled x^T."""
        return g * self.scale[..., None, None]

    def rows(self) -> tuple[Tensor, Tensor]:
        """Return a and b of each sample, (m, outputs, inputs)."""
        (a, b), bias = self._weight_rows()
        if self.bias is not None:
            wide_b = torch.cat([b, bias[1][..., None]], 2)
            a, b = (wide_b if a is b else torch.cat([a, bias[0][..., None]], 2)), wide_b
        return a, b

    def _weight_rows(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return a and b by the weight, (m, outputs, inputs), and by the bias, (m, outputs)."""
        x, g = (t.reshape(*t.shape[:2], self.positions, -1) for t in (self.x, self.g))
        b, bias = g[:, 0].mT @ x[:, 0], g[:, 0].sum(1)
        if x.shape[1] == 1:
            return (b, b), (bias, bias)
        # Positions of all bootstraps in one sum.
        later = (g[:, 1:] * self.scale[:, 1:, None, None]).flatten(1, 2)
        a = (later.mT @ x[:, 1:].flatten(1, 2)).add_(b)
        return (a, b), (bias + later.sum(1), bias)

    def diagonal(self, weight: Tensor) -> list[Tensor | Product]:
        """Return sum_i weight_i a_i * b_i by weight and bias, in their shapes."""
        product: Tensor | Product
        if self.positions == 1 and len(self.shape) == 2:
            # g x^T * h y^T = (g * h) (x * y)^T: a matrix product over samples, no rows.
            x, g = (t.flatten(2) for t in (self.x, self.g))
            left = g * g[:, :1] * (self.scale * weight[:, None])[..., None]
            product = Product(left.flatten(0, 1), (x * x[:, :1]).flatten(0, 1))
            biases = left.sum((0, 1))
        else:
            # A few samples at a time: their patches, written out, stay in the cache.
            per_sample = self.x.shape[1] * self.positions * self.x.shape[4:].numel()
            count = max(1, _CACHED // per_sample)
            parts = [t.split(count) for t in (self.x, self.g, self.scale, weight)]
            sums = [
                replace(self, x=x, g=g, scale=scale)._products(w)
                for x, g, scale, w in zip(*parts, strict=True)
            ]
            matrix, biases = (sum(terms[1:], terms[0]) for terms in zip(*sums, strict=True))
            product = uncolumns(matrix, self.shape)
        return [product] if self.bias is None else [product, biases]

    def _products(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return sum_i weight_i a_i * b_i by way of the rows, (outputs, inputs) and (outputs,)."""
        (a, b), bias = self._weight_rows()
        product = a.square() if a is b else a.mul_(b)
        return (weight @ product.flatten(1)).view(product.shape[1:]), weight @ (bias[0] * bias[1])

    def split(self, matrix: Tensor) -> list[Tensor]:
        """Return a matrix (..., outputs, inputs) as weight and bias, in their shapes."""
        if self.bias is None:
            return [uncolumns(matrix, self.shape)]
        return [uncolumns(matrix[..., :-1], self.shape), matrix[..., -1]]


@dataclass(frozen=True)
class Rows:
    """The derivatives by one parameter of another kind of layer, written out."""

    name: str
    a: Tensor
    """(m, *shape)"""
    b: Tensor
    """(m, *shape)"""

    @property
    def names(self) -> list[str]:
        """The parameter."""
        return [self.name]

    def rows(self) -> tuple[Tensor, Tensor]:
        """Return a and b of each sample."""
        return self.a, self.b

    def diagonal(self, weight: Tensor) -> list[Tensor]:
        """Return sum_i weight_i a_i * b_i, of the parameter's shape."""
        return [(weight @ (self.a * self.b).flatten(1)).view(self.a.shape[1:])]

    def split(self, tensor: Tensor) -> list[Tensor]:
        """Return the tensor as that of the only parameter."""
        return [tensor]
