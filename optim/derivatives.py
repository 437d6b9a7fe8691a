"""Finding the factors of per-sample derivatives in one forward and one backward pass.

Forward hooks catch each layer's input x, autograd gives all signals g in one backward pass that
computes no weight gradient. Parameters of layers that are no sums of outer products g x^T get
their rows from `per_sample_gradients`.

Whether a layer's products really are all of its parameters' derivative (the weight may be tied,
or used behind the layer's back) is checked once, against autograd, when a module is first seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from semigradient.optim.batched import Replaced, curvatures, error, evaluate, slopes
from semigradient.optim.layers import Layer, Rows, columns
from semigradient.optim.temporal_difference import (
    Samples,
    Scalar,
    TemporalDifference,
    per_sample_gradients,
    plain,
)


class SemiGradient:
    """Collects, part by part, the gradient of a minibatch's loss, its target held constant."""

    def __init__(self) -> None:
        self.gradients: dict[str, Tensor] = {}
        """Parameter name -> its gradient."""
        self._predictions: list[Tensor] = []
        self._errors: list[Tensor] = []

    def see(
        self, batch: TemporalDifference, evaluated: tuple[Tensor, Tensor], total: int
    ) -> Tensor:
        """Note the values of a part of a minibatch of `total`; return the factors (m,) of the
        derivatives of its predictions in the gradient.
        """
        errors = error(batch, *evaluated)
        self._predictions.append(evaluated[0])
        self._errors.append(errors)
        return slopes(batch, errors) / total

    def add(self, name: str, gradient: Tensor) -> None:
        """Add to a parameter's gradient."""
        old = self.gradients.get(name)
        self.gradients[name] = gradient if old is None else old + gradient

    @property
    def prediction(self) -> Tensor:
        """(m,)"""
        return torch.cat(self._predictions)

    @property
    def error(self) -> Tensor:
        """Prediction minus target, (m,)."""
        return torch.cat(self._errors)


class LayerDerivatives:
    """Finds the derivatives of minibatches; remembers of each module which layers it may trust."""

    def __init__(self) -> None:
        self._trusted: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()

    def __call__(
        self,
        batch: TemporalDifference,
        params: Mapping[str, Tensor],
        total: int,
        loss: SemiGradient | None = None,
    ) -> tuple[list[Layer | Rows], Tensor]:
        """Return the derivatives by `params` and the weights (m,) of their products in Z.

        `total` is the size of the minibatch that `batch` is a part of. Parameters that the
        values do not depend on may be missing from the result. The gradient is added to `loss`.
        """
        module = plain(batch.module)
        layers = {n: layer for n, layer in _supported(module).items() if f"{n}weight" in params}
        trusted = self._trusted.get(module)
        if trusted is not None:
            layers = {n: layer for n, layer in layers.items() if n in trusted}
        passes, evaluated = _passes(batch, layers, params, check=trusted is None)
        if trusted is None:
            layers = {n: v for n, v in layers.items() if all(p.explains(n) for p in passes)}
            self._trusted[module] = set(layers)
        scale = _scale(batch, evaluated[0])
        derivatives: list[Layer | Rows] = []
        factor = None if loss is None else loss.see(batch, evaluated, total)
        for name in layers:
            if loss is not None:
                assert factor is not None
                for kind, gradient in passes[0].weighted(name, layers[name], factor):
                    if name + kind in params:
                        loss.add(name + kind, gradient)
            factors = _stack(batch.size, scale.shape[1], [p.factors[name] for p in passes])
            if factors is not None:
                bias = f"{name}bias" if f"{name}bias" in params else None
                shape = params[f"{name}weight"].shape
                derivatives.append(Layer(f"{name}weight", shape, bias, *factors, scale))
        covered = {f"{name}{kind}" for name in layers for kind in ("weight", "bias")}
        uncovered = {name: p for name, p in params.items() if name not in covered}
        if uncovered:
            a, b = per_sample_gradients(batch, uncovered)
            derivatives += [Rows(name, a[name], b[name]) for name in uncovered]
            if loss is not None:
                assert factor is not None
                for name in uncovered:
                    loss.add(name, torch.tensordot(factor.to(b[name]), b[name], 1))
        return derivatives, torch.full_like(evaluated[0], 1 / total) * curvatures(batch, evaluated)


def _supported(module: nn.Module) -> dict[str, nn.Module]:
    """Return, by prefix, the layers whose derivative is a sum of outer products."""
    return {
        f"{name}." if name else "": m
        for name, m in module.named_modules()
        if type(m) is nn.Linear
        or (type(m) is nn.Conv2d and m.groups == 1 and m.padding_mode == "zeros")
    }


@dataclass(frozen=True)
class _Pass:
    """One forward and backward pass over M samples."""

    factors: dict[str, tuple[Tensor, Tensor] | None]
    """Per layer x (M, T1, T2, ...) and g (M, T1, T2, outputs); None if it was not used."""
    gradients: dict[str, Tensor]
    """Per layer autograd's derivative of the sum of all values, (outputs, inputs), for a check."""
    calls: dict[str, list[tuple[Tensor, Tensor]]]
    """Per layer its inputs, and the derivatives by its outputs, of each time it was used."""

    def weighted(self, name: str, layer: nn.Module, factor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield the derivatives of the first values times `factor` (m,), by weight and bias."""
        m, weight = len(factor), cast(Tensor, layer.weight)
        for x, g in self.calls[name]:
            x, g = x[:m], g[:m] * factor.to(g).view(-1, *[1] * (g.ndim - 1))
            if isinstance(layer, nn.Conv2d):
                gradient = conv2d_weight(
                    _padded(layer, x), weight.shape, g, layer.stride, 0, layer.dilation
                )
                axes: tuple[int, ...] = (0, 2, 3)
            else:
                gradient = g.reshape(-1, g.shape[-1]).T @ x.reshape(-1, x.shape[-1])
                axes = tuple(range(g.ndim - 1))
            yield "weight", gradient
            yield "bias", g.sum(axes)

    def explains(self, name: str) -> bool:
        """Return whether the layer's factors give autograd's derivative."""
        factors, gradient = self.factors[name], self.gradients[name]
        if factors is None:
            return not gradient.any()
        x, g = (t.reshape(t.shape[:3].numel(), -1) for t in factors)
        if gradient.shape[1] > x.shape[1]:
            x = F.pad(x, (0, 1), value=1.0)
        got = g.T @ x
        if got.shape != gradient.shape:
            return False
        tolerance = 10 * torch.finfo(got.dtype).eps ** 0.5
        return bool((got - gradient).norm() <= tolerance * gradient.norm())


def _passes(
    batch: TemporalDifference,
    layers: Mapping[str, nn.Module],
    params: Mapping[str, Tensor],
    check: bool,
) -> tuple[list[_Pass], tuple[Tensor, Tensor]]:
    """Run the minibatch; return the passes and its values, (m,) and (m, K)."""
    if batch.bootstrap_module is not None:
        own = {n: p.requires_grad_() for n, p in batch.bootstrap_values().items()}
        function = batch.prediction if isinstance(batch.bootstrap, Mapping) else batch.bootstrap
        assert function is not None
        here, first = _pass(batch.prediction, batch.module, batch.samples, layers, params, check)
        copy = Replaced(batch.module, own)
        there, second = _pass(function, copy, batch.later(), layers, own, check)
        return [first, second], (here, there.reshape(batch.size, -1))
    if batch.bootstrap is None or isinstance(batch.bootstrap, Mapping):
        both, only = _pass(batch.prediction, batch.module, batch.joined(), layers, params, check)
        return [only], (both[: batch.size], both[batch.size :].reshape(batch.size, -1))
    here, first = _pass(batch.prediction, batch.module, batch.samples, layers, params, check)
    there, second = _pass(batch.bootstrap, batch.module, batch.samples, layers, params, check)
    return [first, second], (here, there[:, None])


def _pass(
    function: Scalar,
    module: nn.Module,
    samples: Samples,
    layers: Mapping[str, nn.Module],
    params: Mapping[str, Tensor],
    check: bool,
) -> tuple[Tensor, _Pass]:
    """Run `function` over M samples; return its values (M,) and the layers' factors."""
    with torch.enable_grad(), _recorded(layers) as record:
        values = evaluate(function, module, samples)
        total = values.sum()
    edges = [edge for calls in record.values() for _, edge in calls]
    signals = iter(
        torch.autograd.grad(total, edges, retain_graph=check, allow_unused=True) if edges else ()
    )
    calls, factors = {}, {}
    for name, layer in layers.items():
        both = [(x, next(signals)) for x, _ in record[name]]
        calls[name] = [(x, g) for x, g in both if g is not None]
        factors[name] = _factors(layer, calls[name], len(values))
    gradients = _gradients(total, layers, params) if check else {}
    return values.detach(), _Pass(factors, gradients, calls)


def _gradients(
    total: Tensor, layers: Mapping[str, nn.Module], params: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return autograd's derivative of `total` by each layer, (outputs, inputs)."""
    result = {}
    for name, layer in layers.items():
        tensors = [params[f"{name}weight"]]
        if layer.bias is not None and f"{name}bias" in params:
            tensors.append(params[f"{name}bias"])
        grads = torch.autograd.grad(total, tensors, retain_graph=True, materialize_grads=True)
        result[name] = torch.cat([columns(g) for g in grads], 1)
    return result


@contextmanager
def _recorded(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, list[tuple[Tensor, Any]]]]:
    """Record each layer's inputs and the graph's edges to its outputs."""
    record: dict[str, list[tuple[Tensor, Any]]] = {name: [] for name in layers}

    def hook(name: str) -> Any:
        def remember(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            # The edge, not the tensor: the next layer may overwrite that in place.
            edge = torch.autograd.graph.get_gradient_edge(output)
            record[name].append((inputs[0].detach(), edge))

        return remember

    handles = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


def _factors(
    layer: nn.Module, calls: Sequence[tuple[Tensor, Tensor]], m: int
) -> tuple[Tensor, Tensor] | None:
    """Return x (M, T1, T2, ...) and g (M, T1, T2, outputs) over all calls of a layer."""
    factors = []
    for x, g in calls:
        if len(x) != m or len(g) != m:
            return None  # The first axis is not that of the samples.
        if isinstance(layer, nn.Conv2d):
            factors.append((_patches(layer, x), g.permute(0, 2, 3, 1)))
        else:
            factors.append((_in_line(x, -1), _in_line(g, -1)))
    if len(factors) <= 1:
        return factors[0] if factors else None
    xs, gs = zip(*factors, strict=True)
    return torch.cat([_in_line(x, 3) for x in xs], 1), torch.cat([_in_line(g, 3) for g in gs], 1)


def _in_line(tensor: Tensor, inner: int) -> Tensor:
    """Return (M, ..., inner axes) as (M, T, 1, inner): all positions along one axis."""
    axes = tensor.shape[inner:]
    return tensor.reshape(len(tensor), -1, 1, axes.numel())


def _patches(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Return what lies under the kernel at each position of the output, a view (M, T1, T2, height,
    width, channels).
    """
    x = _padded(layer, x)
    geometry = zip(layer.kernel_size, layer.dilation, layer.stride, strict=True)
    for axis, (kernel, dilation, stride) in enumerate(geometry, 2):
        x = x.unfold(axis, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
    return x.permute(0, 2, 3, 4, 5, 1)


def _padded(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Return the layer's input with the zeros that it adds."""
    total = [2 * p for p in layer.padding if isinstance(p, int)]
    if layer.padding == "same":
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    if not any(total):
        return x
    # "same" pads the right and lower side more where the total is odd.
    return F.pad(x, [side for t in reversed(total) for side in (t // 2, t - t // 2)])


def _stack(
    m: int, j: int, passes: list[tuple[Tensor, Tensor] | None]
) -> tuple[Tensor, Tensor] | None:
    """Return one layer's factors as (m, J, T1, T2, ...) and (m, J, T1, T2, outputs)."""
    used = [factors for factors in passes if factors is not None]
    if not used:
        return None
    if len(passes) == 1:
        x, g = used[0]
        return _by_sample(x, m, j), _by_sample(g, m, j)
    # A function of its own may have called the layer more or less often, or not at all.
    lines = [[_in_line(x, 3), _in_line(g, 3)] for x, g in used]
    positions = max(x.shape[1] for x, _ in lines)
    empty = [t.new_zeros(m, 0, *t.shape[2:]) for t in lines[0]]
    rest = iter(lines)
    filled = [
        [F.pad(t, (0, 0, 0, 0, 0, positions - t.shape[1])) for t in (next(rest) if p else empty)]
        for p in passes
    ]
    return torch.stack([x for x, _ in filled], 1), torch.stack([g for _, g in filled], 1)


def _by_sample(joined: Tensor, m: int, j: int) -> Tensor:
    """Return (m + m K, ...) as (m, J, ...), without a copy if K <= 1."""
    if j <= 2:
        return joined.unflatten(0, (j, m)).transpose(0, 1)
    later = joined[m:].unflatten(0, (m, j - 1))
    return torch.cat([joined[:m, None], later], 1)


def _scale(batch: TemporalDifference, like: Tensor) -> Tensor:
    """Return (m, J): 1, and minus the discount of each bootstrap."""
    ones = like.new_ones(batch.size, 1)
    if batch.discount is None:
        return ones
    return torch.cat([ones, -batch.discount.to(like).reshape(batch.size, -1)], 1)
