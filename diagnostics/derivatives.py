"""Values and per-example derivatives, vectorised over examples.

Rows are gradients of each example: name of the parameter → (m, *shape). They are never
concatenated: inner products add up over parameters, which saves one copy of all of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, jvp, vmap

from semigradient.diagnostics.examples import Examples, Params
from semigradient.optim.temporal_difference import (
    Call,
    Rows,
    Samples,
    Scalar,
    TemporalDifference,
    functional,
    per_sample_gradients,
)


def values(function: Scalar, examples: Examples, params: Params | None = None) -> Tensor:
    """`function` at each example: (m,)."""
    call = functional(examples.module, examples.parameters if params is None else params)
    return vmap(lambda sample: function(call, sample))(dict(examples.samples))


def errors(examples: Examples, params: Params | None = None) -> Tensor:
    """δ = f - y at each example: (m,); positive where the prediction is too large."""
    return values(error_of(examples), examples, params)


def losses(examples: Examples, params: Params | None = None) -> Tensor:
    """J at each example: (m,)."""

    def loss(call: Call, sample: Samples) -> Tensor:
        return examples.loss(examples.prediction(call, sample), examples.target(call, sample))

    return values(loss, examples, params)


def slopes(examples: Examples, params: Params | None = None) -> tuple[Tensor, Tensor]:
    """First and second derivative of each loss by its prediction: (m,) each."""
    call = functional(examples.module, examples.parameters if params is None else params)

    def pair(sample: Samples) -> tuple[Tensor, Tensor]:
        return examples.prediction(call, sample), examples.target(call, sample)

    prediction, target = vmap(pair)(dict(examples.samples))
    second, first = vmap(grad_and_value(grad(examples.loss)))(prediction, target)
    return first, second


def rows(function: Scalar, examples: Examples, params: Params | None = None) -> Rows:
    """Gradient of `function` at each example."""
    batch = TemporalDifference(examples.module, examples.samples, function)
    return per_sample_gradients(batch, examples.parameters if params is None else params)[1]


def error_rows(examples: Examples, params: Params | None = None) -> Rows:
    """∇(f - y), target included: how each error moves with the parameters."""
    return rows(error_of(examples), examples, params)


def loss_rows(examples: Examples, params: Params | None = None) -> Rows:
    """Semi-gradients ∇J = ℓ' ∇f."""
    return scaled(rows(examples.prediction, examples, params), slopes(examples, params)[0])


def scaled(gradients: Rows, factor: Tensor) -> Rows:
    """Rows times one factor (m,) each."""
    return {name: r * factor.reshape(-1, *[1] * (r.ndim - 1)) for name, r in gradients.items()}


def products(one: Rows, other: Rows) -> Tensor:
    """Inner products of all pairs of rows: (m, k)."""
    return torch.stack([r.flatten(1) @ other[name].flatten(1).T for name, r in one.items()]).sum(0)


def paired(one: Rows, other: Rows) -> Tensor:
    """Inner products of rows of the same number: (m,)."""
    parts = [(r * other[name]).flatten(1).sum(1) for name, r in one.items()]
    return torch.stack(parts).sum(0)


def onto(gradients: Rows, direction: Mapping[str, Tensor]) -> Tensor:
    """Inner products of rows with one direction: (m,)."""
    parts = [r.flatten(1) @ direction[name].flatten() for name, r in gradients.items()]
    return torch.stack(parts).sum(0)


def along(function: Scalar, examples: Examples, params: Params, direction: Params) -> Tensor:
    """Directional derivative of `function` at each example: (m,)."""
    return jvp(lambda p: values(function, examples, p), (params,), (direction,))[1]


def curvature(
    function: Scalar, module: torch.nn.Module, sample: Samples, params: Params, u: Params, v: Params
) -> Tensor:
    """uᵀ H v of `function` at one example, H its Hessian by the parameters: 0-dim."""

    def value(p: Params) -> Tensor:
        return function(functional(module, p), sample)

    def slope(p: Params) -> Tensor:
        return jvp(value, (p,), (v,))[1]

    return jvp(slope, (params,), (u,))[1]


def mean_gradient(
    examples: Examples, weight: Tensor, params: Params | None = None, function: Scalar | None = None
) -> Params:
    """Mean over examples of weight (m,) times ∇f (or the gradient of `function`)."""
    values_of = function or examples.prediction
    at = examples.parameters if params is None else params
    weight = weight.detach()
    return grad(lambda p: (weight * values(values_of, examples, p)).mean())(at)


def semi_gradient(examples: Examples, params: Params | None = None) -> Params:
    """The mean semi-gradient, in one backward pass."""
    return mean_gradient(examples, slopes(examples, params)[0], params)


def dot(one: Params, other: Params) -> Tensor:
    """Inner product of two directions: 0-dim."""
    return torch.stack([(v * other[name]).sum() for name, v in one.items()]).sum()


def norm(direction: Params) -> Tensor:
    """Euclidean norm of a direction: 0-dim."""
    return dot(direction, direction).sqrt()


def cosine(one: Params, other: Params) -> Tensor:
    """Cosine of the angle between two directions, 0 where one vanishes: 0-dim."""
    size = norm(one) * norm(other)
    return torch.where(size > 0, dot(one, other) / size, 0.0)


def error_of(examples: Examples) -> Scalar:
    """The error f - y, as a function of the module and of one example."""

    def error(call: Call, sample: Samples) -> Tensor:
        return examples.prediction(call, sample) - examples.target(call, sample)

    return error
