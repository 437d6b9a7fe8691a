"""What an optimizer that knows that targets move needs to know of a minibatch.

A semi-gradient g = delta * d(prediction) changes with the parameters in two ways: through the
prediction and through the bootstrapped target. An optimizer that carries old gradients along
can follow both if it sees, for each sample, the first derivatives of the two. Between
`backward()` and `step()` an agent hands them over, in three lines:

    loss.backward()
    if wants_temporal_difference(optimizer):
        optimizer.observe(TemporalDifference(network, samples, prediction, bootstrap, discount))
    optimizer.step()

For Q-learning that minibatch reads

    TemporalDifference(
        network,
        samples={"observation": observation, "action": action},
        prediction=lambda call, s: call(s["observation"]).gather(0, s["action"]),
        bootstrap={"observation": next_observation, "action": best_next_action},
        discount=gamma**n * (1 - terminated),
    )

and, when a target network gives the target, the last two lines are left out. An optimizer that
re-evaluates old minibatches (`optim/oracle_momentum.py`) also needs the part of the target that
does not move, here `target=reward`, and the `loss`, here `huber()`. A target that is made of K
later states has K bootstraps: see `bootstrap`; in the lambda-return, value k has the discount
(1 - lambda) lambda^(k-1) gamma^k (the thesis prints lambda^k), the last one lambda^(K-1) gamma^K.

Where the optimizer can (`DifferentiatesTemporalDifference`), `optimizer.backward(minibatch)` does
the work of the first line, too, with one pass less through the network.

`prediction` is written for ONE sample: no batch dimension in what it is given, none in what it
returns (a scalar). `call` is the module as a pure function of its parameters; it too takes and
returns tensors without batch dimension (the module itself sees a batch of one, so flattening
layers and convolutions work as ever). Pick an action's value with `gather(0, action)`, `action`
an `int64` scalar: `vmap` refuses `values[action]`, and `index_select` goes wrong in silence.

Source: E. Bengio, PhD thesis, ch. 4, eq. 4.12-4.19 (the method), 4.32-4.41 (the rows).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeGuard, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from semigradient.optim.vectorised import check_one_by_one, check_scalar, explained

Call: TypeAlias = Callable[..., Any]
"""A module as a pure function: inputs and outputs without batch dimension."""
Samples: TypeAlias = Mapping[str, Tensor]
"""Tensors by name; with a leading dimension m for a minibatch, without for one sample."""
Scalar: TypeAlias = Callable[[Call, Samples], Tensor]
"""A scalar function of the module and of one sample."""
Rows: TypeAlias = dict[str, Tensor]
"""One derivative per sample and parameter: name -> (m, *shape of the parameter)."""


@dataclass(frozen=True)
class Loss:
    """How a sample's loss depends on its error, prediction minus target; elementwise functions.

    The gradient is slope(error) d(prediction). Without `curvature`, the derivative of the slope
    that enters Z, it is 1 everywhere.
    """

    slope: Callable[[Tensor], Tensor]
    curvature: Callable[[Tensor], Tensor] | None = None


HALF_SQUARE = Loss(lambda error: error)
"""Half the squared error; the square itself is this with `weight` 2."""

LOG_LIKELIHOOD = Loss(lambda error: -torch.ones_like(error))
"""Minus the prediction, a log-likelihood (cross-entropy, eq. 4.36 ff.): its gradient has the size
of the prediction's, whatever the error, and Z is the empirical Fisher matrix."""


def huber(threshold: float = 1.0) -> Loss:
    """Half the square up to `threshold`, beyond it linear."""
    return Loss(
        lambda error: error.clamp(-threshold, threshold),
        lambda error: (error.abs() < threshold).to(error.dtype),
    )


@dataclass(frozen=True)
class TargetNetwork:
    """A copy of the module that values the next states, and moves on its own (a hard copy now and
    then, or an average): `prediction` of m later samples by `module`, times `discount`, is part of
    the target.
    """

    module: nn.Module
    samples: Samples
    """(m, ...) each, by the names of the minibatch's samples."""
    discount: Tensor
    """(m,)"""


@dataclass(frozen=True)
class TemporalDifference:
    """One minibatch of m temporal differences, of a loss that is a mean over samples.

    With the rows a = d(prediction) - discount * d(bootstrap) and b = d(prediction), the
    derivative of the semi-gradient is Z = 1/m sum_i weight_i curvature_i a_i b_i^T, up to the
    term with second derivatives of the prediction, which vanishes with the error.
    """

    module: nn.Module
    """The module whose parameters are optimised."""
    samples: Samples
    """The minibatch, (m, ...) each."""
    prediction: Scalar
    """The value that is learned, `prediction(call, sample) -> scalar`."""
    bootstrap: Scalar | Samples | None = None
    """The value that the target is made of, where it moves with the parameters: a function like
    `prediction`, or, if it is `prediction` itself at other samples (those of s', a'), those
    samples, which is cheaper: (m, ...), or (m, K, ...) where the target is a sum over K of them.
    None: the target does not move (target network, plain regression).
    """
    discount: Tensor | None = None
    """(m,) factor of the bootstrap in the target, gamma^n (1 - terminated), or (m, K) factors."""
    weight: Tensor | None = None
    """(m,) factor of each sample's loss: 1 (default), 2 for the square instead of half of it,
    importance weights, coefficients, the scale of a clipped gradient."""
    target: Tensor | None = None
    """(m,) the part of the target that does not move: rewards, labels, a target network's values.
    Needed wherever the gradient is made from the minibatch (`optimizer.backward`, optimizers that
    re-evaluate minibatches) and where `loss` has a curvature; `observe` does without."""
    bootstrap_module: nn.Module | None = None
    """The network of the bootstrap, where that is a copy of `module` with parameters of its own;
    None: `module`."""
    target_network: TargetNetwork | None = None
    """The target network whose values are within `target`, for an optimizer that can follow it."""
    partial: bool = False
    """Whether the loss has other terms, too (a policy's): the rest of the gradient, beyond this
    minibatch's, is then averaged as it is."""
    loss: Loss = HALF_SQUARE
    """Loss of each sample as a function of its error. (`weight` may also include its curvature.)"""

    def __post_init__(self) -> None:
        if not self.samples:
            raise ValueError("TemporalDifference: samples is empty")
        for field, tensors in self._batched().items():
            for name, value in tensors.items():
                if value.ndim == 0 or value.shape[0] != self.size:
                    raise ValueError(
                        f"TemporalDifference: {field}[{name!r}] has shape {tuple(value.shape)}, "
                        f"but the minibatch has {self.size} samples"
                    )
        for field in ("discount", "weight", "target"):
            value = getattr(self, field)
            several = field == "discount" and isinstance(self.bootstrap, Mapping)
            if value is not None and value.shape[: 1 if several else None] != (self.size,):
                raise ValueError(
                    f"TemporalDifference: {field} has shape {tuple(value.shape)}, "
                    f"must be ({self.size},)"
                )
        if self.bootstrap_module is not None and (self.discount is None or self.discount.ndim > 1):
            raise ValueError("TemporalDifference: bootstrap_module goes with one bootstrap each")
        if (self.bootstrap is None) != (self.discount is None):
            raise ValueError("TemporalDifference: bootstrap and discount go together")
        if self.loss.curvature is not None and self.target is None:
            raise ValueError("TemporalDifference: a loss with a curvature needs the target")
        self._check_bootstraps()

    def _check_bootstraps(self) -> None:
        """Refuse bootstrap samples that are not shaped (m, [K,] ...) as samples and discount."""
        if not isinstance(self.bootstrap, Mapping):
            return
        assert self.discount is not None
        for name, value in self.bootstrap.items():
            expected = (*self.discount.shape, *self.samples[name].shape[1:])
            if self.discount.ndim > 2 or value.shape != expected:
                raise ValueError(
                    f"TemporalDifference: bootstrap[{name!r}] has shape {tuple(value.shape)}, "
                    f"must be {expected}: that of discount and of one sample"
                )

    @property
    def size(self) -> int:
        """The number of samples, m."""
        return len(next(iter(self.samples.values())))

    def following(self, weight: Tensor | float) -> TemporalDifference | None:
        """Return the minibatch with the target network's values as its bootstrap, for the rows a
        and b alone; None without one. `weight` takes in the loss's curvature.
        """
        if self.target_network is None:
            return None
        network = self.target_network
        like = network.discount
        return TemporalDifference(
            self.module,
            self.samples,
            self.prediction,
            bootstrap=network.samples,
            discount=like,
            weight=weight if isinstance(weight, Tensor) else torch.full_like(like, weight),
            bootstrap_module=network.module,
        )

    def bootstrap_values(self) -> Rows:
        """Return the parameters of the bootstrap's own network by name, as constants."""
        assert self.bootstrap_module is not None
        return {n: p.detach() for n, p in plain(self.bootstrap_module).named_parameters()}

    def later(self) -> Samples:
        """Return the samples that the bootstrap is evaluated at, (m K, ...)."""
        if not isinstance(self.bootstrap, Mapping):
            return self.samples
        assert self.discount is not None
        return {k: v.flatten(0, self.discount.ndim - 1) for k, v in self.bootstrap.items()}

    def require_target(self, user: str) -> None:
        """Raise `ValueError` for `user`, who needs errors, unless the target is known."""
        if self.target is None and self.loss is not LOG_LIKELIHOOD:
            raise ValueError(f"{user} needs TemporalDifference(target=...): the rewards, or labels")

    def parameters(self) -> dict[str, Tensor]:
        """Return the module's trainable parameters by name."""
        return {n: p for n, p in plain(self.module).named_parameters() if p.requires_grad}

    def joined(self) -> Samples:
        """Return samples and bootstrap samples as one minibatch, (m + m K, ...)."""
        if not isinstance(self.bootstrap, Mapping):
            return self.samples
        later = self.later()
        return {k: torch.cat([v, later[k]]) for k, v in self.samples.items()}

    def split(self, size: int) -> Iterator[TemporalDifference]:
        """Yield the minibatch in parts of at most `size` samples."""
        for start in range(0, self.size, size):
            part = slice(start, start + size)
            tensors = {k: {n: v[part] for n, v in t.items()} for k, t in self._batched().items()}
            vectors = {
                field: None if value is None else value[part]
                for field, value in (
                    ("discount", self.discount),
                    ("weight", self.weight),
                    ("target", self.target),
                )
            }
            fields: dict[str, Any] = {**tensors, **vectors, "target_network": None}
            yield dataclasses.replace(self, **fields)

    def _batched(self) -> dict[str, Samples]:
        """Return the fields that are dictionaries of tensors."""
        fields = {"samples": self.samples}
        if isinstance(self.bootstrap, Mapping):
            if self.bootstrap.keys() != self.samples.keys():
                raise ValueError(
                    "TemporalDifference: the samples of the bootstrap must have the names "
                    f"{sorted(self.samples)}, not {sorted(self.bootstrap)}"
                )
            fields["bootstrap"] = self.bootstrap
        return fields


@runtime_checkable
class ObservesTemporalDifference(Protocol):
    """An optimizer that is to be shown each minibatch between `backward()` and `step()`."""

    def observe(self, batch: TemporalDifference) -> None:
        """Take in one minibatch; several between two steps add up, as gradients do."""


@runtime_checkable
class DifferentiatesTemporalDifference(ObservesTemporalDifference, Protocol):
    """One that can take in a minibatch and find its gradient in the same pass."""

    def backward(self, batch: TemporalDifference) -> tuple[Tensor, Tensor]:
        """Observe, and add the semi-gradient to `grad`; return predictions and errors, (m,)."""

    def rescale(self, factor: Tensor) -> None:
        """Scale what was observed since the last step, as the gradient was."""


def wants_temporal_difference(optimizer: object) -> TypeGuard[ObservesTemporalDifference]:
    """Return whether `optimizer` is to be shown the minibatch before each step."""
    return isinstance(optimizer, ObservesTemporalDifference)


@torch.no_grad()
def per_sample_gradients(
    batch: TemporalDifference,
    params: Mapping[str, Tensor] | None = None,
    *,
    chunk_size: int | None = None,
) -> tuple[Rows, Rows]:
    """Return the rows A and B of `batch`: for each parameter, tensors (m, *shape).

    `params` maps names to the values at which to differentiate, by default
    `batch.parameters()`. `chunk_size` bounds the
    samples evaluated at once (activations; the result is the same size whatever it is).
    With `bootstrap=None` A and B are the same dictionary: do not write into them.
    """
    module = plain(batch.module)
    values = {name: p.detach() for name, p in (params or batch.parameters()).items()}

    def rows(function: Scalar, samples: Samples, at: Rows = values) -> Rows:
        def scalar(values: Rows, sample: Samples) -> Tensor:
            # With all parameters of a copy, but by `values` alone: the others are constants.
            return check_scalar(function(_as_function(module, {**constants, **values}), sample))

        constants = {} if at is values else batch.bootstrap_values()
        derivative = torch.func.grad(scalar)
        in_dims = (None, 0)
        vectorised = torch.func.vmap(
            derivative, in_dims, randomness="different", chunk_size=chunk_size
        )
        with explained():
            return vectorised(at, dict(samples))

    check_one_by_one(module)

    if batch.bootstrap is None:
        b = rows(batch.prediction, batch.samples)
        return b, b
    if batch.bootstrap_module is not None:
        own = batch.bootstrap_values()
        function = batch.prediction if isinstance(batch.bootstrap, Mapping) else batch.bootstrap
        b = rows(batch.prediction, batch.samples)
        target = rows(function, batch.later(), {name: own[name] for name in values})
    elif isinstance(batch.bootstrap, Mapping):
        # The same function at s and s': one pass over both costs fewer kernels than two.
        both = rows(batch.prediction, batch.joined())
        b = {name: row[: batch.size] for name, row in both.items()}
        target = {name: row[batch.size :] for name, row in both.items()}
    else:
        b = rows(batch.prediction, batch.samples)
        target = rows(batch.bootstrap, batch.samples)
    assert batch.discount is not None  # checked by TemporalDifference
    a = {name: _subtract(row, batch.discount, target[name]) for name, row in b.items()}
    return a, b


def plain(module: nn.Module) -> nn.Module:
    """Return the module that `torch.compile` wrapped, or `module` itself: vmap needs the former."""
    return getattr(module, "_orig_mod", module)


def _as_function(module: nn.Module, params: Rows) -> Call:
    """Return `module` with `params`, for inputs and outputs without batch dimension."""

    def call(*inputs: Tensor, **named: Tensor) -> Any:
        one = tuple(x.unsqueeze(0) for x in inputs)
        one_named = {name: x.unsqueeze(0) for name, x in named.items()}
        output = torch.func.functional_call(module, params, one, one_named)
        return pytree.tree_map_only(Tensor, lambda y: y.squeeze(0), output)

    return call


def _subtract(row: Tensor, discount: Tensor, target: Tensor) -> Tensor:
    """Return row - discount * target, (m, *shape), in the type of `row`.

    With discounts (m, K) and targets (m K, *shape) the products are summed over K.
    """
    factor = discount.to(row.dtype)
    if factor.ndim == 2:
        parts = target.reshape(*factor.shape, *row.shape[1:])
        return row - torch.einsum("mk,mk...->m...", factor, parts)
    return torch.addcmul(row, factor.reshape(-1, *[1] * (row.ndim - 1)), target, value=-1)


def functional(module: nn.Module, params: Mapping[str, Tensor]) -> Call:
    """Return `module` at the values `params`, as the `call` that a `Scalar` is given."""
    return _as_function(plain(module), dict(params))
