"""How much later losses depend on each example that was learned from before.

    g_x^t = ‖∂L_t / ∂x‖₁,    θ_{s+1} = θ_s - α u(x_s; θ_s),    L_t = L(x_t; θ_t)

differentiated through all updates, but not directly by x_t; ḡ_x is the mean over t. Its Gini
coefficient is low where all examples matter alike (memorised one by one), high where few do.
E. Bengio, PhD thesis, eq. 3.2-3.5, Fig. 3.2-3.3 (Arpit et al. 2017, arXiv:1706.05394).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, jacrev, vmap

from semigradient.diagnostics.examples import Examples, Experience, Params
from semigradient.diagnostics.observer import Findings, Profile, View
from semigradient.optim.temporal_difference import Samples, functional

Field: TypeAlias = Callable[[Params, Samples], Params]
"""The direction of an update at one example: for a loss, its gradient."""
Measured: TypeAlias = Callable[[Params, Samples], Tensor]
"""Losses (C,) at one example."""

TIMES = 8
"""Instants at which losses are differentiated."""


def gini(values: Tensor) -> Tensor:
    """Gini coefficient Σ_ij|p_i - p_j| / (2n Σp) of non-negative values (n,): 0-dim in [0, 1).

    0 where all are 0.
    """
    ordered = values.sort().values
    count = len(values)
    rank = torch.arange(1, count + 1, dtype=values.dtype, device=values.device)
    spread = ((2 * rank - count - 1) * ordered).sum()
    return torch.where(spread > 0, spread / (count * ordered.sum()), 0.0)


def unrolled(
    field: Field,
    measured: Measured,
    params: Params,
    samples: Samples,
    order: Tensor,
    lr: float,
    times: Sequence[int],
    inputs: str = "obs",
) -> Tensor:
    """Derivatives of later losses by each example's input, through updates of one example each.

    Args:
        field: direction of the update at one example.
        measured: losses (C,) at one example.
        params: parameters before the first update.
        samples: N examples.
        order: (T,) which example is learned from at each step.
        lr: α.
        times: K steps t, 0 < t < T: the losses are those of example `order[t]` at θ_t.
        inputs: name of the input in `samples`, (N, *x).

    Returns:
        (K, C, N, *x); several visits of an example add up.
    """
    steps = [_pick(samples, int(index)) for index in order]
    path = [params]
    for sample in steps[: max(times)]:
        direction = field(path[-1], sample)
        path.append({name: p - lr * direction[name] for name, p in path[-1].items()})
    seeds = [jacrev(measured)(path[t], steps[t]) for t in times]
    kinds = len(next(iter(seeds[0].values())))
    adjoint = {name: torch.zeros_like(torch.cat([s[name] for s in seeds])) for name in params}
    x = samples[inputs]
    result = x.new_zeros(len(times) * kinds, *x.shape)
    for s in reversed(range(max(times))):
        for k in [k for k, t in enumerate(times) if t == s + 1]:
            for name, seed in seeds[k].items():
                adjoint[name][k * kinds : (k + 1) * kinds] = seed
        by_params, by_input = _pull(field, path[s], steps[s], adjoint, inputs)
        result[:, order[s]] -= lr * by_input
        adjoint = {name: v - lr * by_params[name] for name, v in adjoint.items()}
    return result.unflatten(0, (len(times), kinds))


def loss_sensitivity(derivatives: Tensor) -> Tensor:
    """ḡ of each example: (K, C, N, *x) → (C, N)."""
    return sizes(derivatives).mean(0)


def sizes(derivatives: Tensor) -> Tensor:
    """Sums |∂L/∂x| over inputs, for each instant, loss and example: (K, C, N)."""
    return derivatives.reshape(*derivatives.shape[:3], -1).abs().sum(3)


def class_sensitivity(derivatives: Tensor, labels: Tensor) -> Tensor:
    """ḡ_ij (3.5): mean sensitivity of the loss of class i to examples of class j.

    `derivatives` is (K, C, N, *x) for losses -log p_i of all C classes, `labels` (N,); returns
    (C, C), NaN for classes without an example.
    """
    sensitivity = loss_sensitivity(derivatives)
    member = torch.nn.functional.one_hot(labels, len(sensitivity)).to(sensitivity.dtype)
    return sensitivity @ (member / member.sum(0))


def configured_rate(experience: Experience) -> float:
    """The learning rate that a new optimizer starts with: schedules end at 0."""
    spare = torch.nn.Parameter(torch.zeros(1, device=experience.device))
    return float(experience.make_optimizer([spare]).param_groups[0]["lr"])


def field_of(examples: Examples) -> Field:
    """The semi-gradient ℓ'(f, y) ∇f at one example."""

    def field(params: Params, sample: Samples) -> Params:
        def prediction(p: Params) -> Tensor:
            return examples.prediction(functional(examples.module, p), sample)

        gradient, value = grad_and_value(prediction)(params)
        target = examples.target(functional(examples.module, params), sample)
        slope = grad(examples.loss)(value, target)
        return {name: slope * g for name, g in gradient.items()}

    return field


def measured_of(examples: Examples) -> Measured:
    """The loss at one example, as (1,)."""

    def loss(params: Params, sample: Samples) -> Tensor:
        call = functional(examples.module, params)
        return examples.loss(examples.prediction(call, sample), examples.target(call, sample))[None]

    return loss


def measure(view: View) -> Findings:
    """Sensitivity of losses along two passes over some examples, by SGD from here."""
    examples, count = view.train, view.samples
    passes = [torch.randperm(count, generator=view.generator) for _ in range(2)]
    order = torch.cat(passes)
    times = [round((len(order) - 1) * (k + 1) / TIMES) for k in range(TIMES)]
    times = sorted({t for t in times if t > 0})
    lr = configured_rate(view.experience)
    derivatives = unrolled(
        field_of(examples),
        measured_of(examples),
        examples.parameters,
        examples.samples,
        order,
        lr,
        times,
    )
    sensitivity = loss_sensitivity(derivatives)[0]
    scalars = {"gini": gini(sensitivity), "mean": sensitivity.mean()}
    action = examples.samples.get("action")
    if action is not None and action.ndim == 1 and not action.is_floating_point():
        magnitudes = sizes(derivatives)[:, 0]
        same = action[order[times].to(action.device)][:, None] == action
        scalars["same_action"] = magnitudes[same].mean()
        scalars["other_action"] = magnitudes[~same].mean()
    ordered = sensitivity.sort(descending=True).values
    rank = torch.arange(1, count + 1)
    return Findings(scalars, {"examples": Profile("rank", rank, {"sensitivity": ordered})})


def _pull(
    field: Field, params: Params, sample: Samples, adjoint: Params, inputs: str
) -> tuple[Params, Tensor]:
    """∂⟨u(x; θ), v⟩ by θ and by x, for each v (n, *shape) of the adjoint."""

    def inner(p: Params, x: Tensor, v: Params) -> Tensor:
        direction = field(p, {**sample, inputs: x})
        return torch.stack([(u * v[name]).sum() for name, u in direction.items()]).sum()

    pulled = vmap(grad(inner, argnums=(0, 1)), in_dims=(None, None, 0))
    return pulled(params, sample[inputs], adjoint)


def _pick(samples: Samples, index: int) -> Samples:
    return {name: value[index] for name, value in samples.items()}
