"""Functions of one sample, evaluated on a whole minibatch at the speed of an ordinary forward pass.

`TemporalDifference.prediction` is written for one sample. `vmap` maps it over the minibatch, and
where it calls the module, the module is run once on all samples together: as ordinary code, with
its own parameters, its hooks and a graph for autograd. What is differentiated afterwards is
therefore what a user's own batched code would be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from semigradient.optim.temporal_difference import Samples, Scalar, TemporalDifference, plain
from semigradient.optim.vectorised import check_independent, check_scalar, explained


class _Together(torch.autograd.Function):
    """`run(*inputs)` on a minibatch, seen by `vmap` as a function of one sample."""

    @staticmethod
    def forward(run: Callable[..., Any], *inputs: Tensor) -> Any:
        raise ValueError("TemporalDifference: the module was called on nothing of the sample")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], run: Callable[..., Any], *inputs: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        size = info.batch_size
        together = [
            x.expand(size, *x.shape) if d is None else x.movedim(d, 0)
            for x, d in zip(inputs, in_dims[1:], strict=True)
        ]
        outputs = run(*together)
        return outputs, (0,) * len(outputs)


def evaluate(function: Scalar, module: nn.Module, samples: Samples) -> Tensor:
    """Return `function` of each sample, (m,), differentiable by the module's own parameters."""
    module = plain(module)
    check_independent(module)

    def call(*inputs: Tensor, **named: Tensor) -> Any:
        structure: Any = None

        def run(*tensors: Tensor) -> tuple[Tensor, ...]:
            nonlocal structure
            positional, keywords = tensors[: len(inputs)], tensors[len(inputs) :]
            output = module(*positional, **dict(zip(named, keywords, strict=True)))
            leaves, structure = pytree.tree_flatten(output)
            return tuple(leaves)

        leaves = _Together.apply(run, *inputs, *named.values())
        return pytree.tree_unflatten(list(leaves), structure)

    over = torch.func.vmap(lambda sample: function(call, sample), randomness="different")
    with explained():
        result = cast(Tensor, over(dict(samples)))
    return check_scalar(result, 1)


class Replaced(nn.Module):
    """`module` with other values for its parameters; its layers, and their hooks, are the same."""

    def __init__(self, module: nn.Module, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.original, self.parameter_values = [module], dict(values)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Run the module."""
        module = plain(self.original[0])
        return torch.func.functional_call(module, self.parameter_values, inputs, named)


def values(batch: TemporalDifference) -> tuple[Tensor, Tensor]:
    """Return the predictions (m,) and the bootstraps (m, K) of a minibatch."""
    m = batch.size
    if batch.bootstrap is None:
        prediction = evaluate(batch.prediction, batch.module, batch.samples)
        return prediction, prediction.new_zeros(m, 0)
    if batch.bootstrap_module is not None:
        function = batch.prediction if isinstance(batch.bootstrap, Mapping) else batch.bootstrap
        prediction = evaluate(batch.prediction, batch.module, batch.samples)
        with torch.no_grad():
            later = evaluate(function, batch.bootstrap_module, batch.later())
        return prediction, later.reshape(m, -1)
    if isinstance(batch.bootstrap, Mapping):
        both = evaluate(batch.prediction, batch.module, batch.joined())
        return both[:m], both[m:].reshape(m, -1)
    prediction = evaluate(batch.prediction, batch.module, batch.samples)
    return prediction, evaluate(batch.bootstrap, batch.module, batch.samples).reshape(m, 1)


def error(batch: TemporalDifference, prediction: Tensor, bootstrap: Tensor) -> Tensor:
    """Return prediction - target - discounted bootstraps, (m,), of the given values."""
    batch.require_target("the error of a prediction")
    result = prediction.detach().clone()
    if batch.target is not None:
        result -= batch.target.to(result)
    if batch.discount is not None:
        discount = batch.discount.to(result).reshape(batch.size, -1)
        result -= (discount * bootstrap.detach()).sum(1)
    return result


def curvatures(
    batch: TemporalDifference, evaluated: tuple[Tensor, Tensor] | None = None
) -> Tensor | float:
    """Return the factor of each sample's a_i b_i^T, (m,) or 1: weight times curvature.

    `evaluated` are the minibatch's `values`, where they have been computed already.
    """
    weight: Tensor | float = 1.0 if batch.weight is None else batch.weight
    if batch.loss.curvature is None:
        return weight
    with torch.no_grad():
        return weight * batch.loss.curvature(error(batch, *(evaluated or values(batch))))


def slopes(batch: TemporalDifference, errors: Tensor) -> Tensor:
    """Return the derivative of each sample's loss by its prediction, (m,), of errors (m,)."""
    slope = batch.loss.slope(errors)
    return slope if batch.weight is None else slope * batch.weight


def semi_gradient(batch: TemporalDifference, weight: Tensor | None = None) -> dict[str, Tensor]:
    """Return the gradient of the minibatch's loss, its target held constant, at the module's
    present parameters: parameter name -> tensor of its shape.

    `weight` (m,), by default 1/m each, are the samples' shares of the loss.
    """
    params = batch.parameters()
    with torch.enable_grad():
        if isinstance(batch.bootstrap, Mapping) and batch.bootstrap_module is None:
            prediction = evaluate(batch.prediction, batch.module, batch.samples)
            with torch.no_grad():
                later = {k: v[batch.size :] for k, v in batch.joined().items()}
                bootstrap = evaluate(batch.prediction, batch.module, later)
                bootstrap = bootstrap.reshape(batch.size, -1)
        else:
            prediction, bootstrap = values(batch)
    slope = slopes(batch, error(batch, prediction, bootstrap))
    slope = slope / batch.size if weight is None else slope * weight
    grads = torch.autograd.grad(
        prediction, list(params.values()), slope.to(prediction), allow_unused=True
    )
    pairs = zip(params.items(), grads, strict=True)
    return {name: torch.zeros_like(p) if g is None else g for (name, p), g in pairs}
