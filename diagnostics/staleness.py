"""How far momentum, plain and corrected, is from momentum of gradients that are not stale.

    μ_t  = (1 - β) Σ_i β^{t-i} g_i(θ_i)                             plain
    μ̂_t  = (1 - β) Σ_i β^{t-i} (g_i(θ_i) + Z_iᵀ(θ_t - θ_i))         corrected to first order
    μ*_t = (1 - β) Σ_i β^{t-i} g_i(θ_t)                             oracle

with semi-gradients g and Z_i = 1/m Σ_b w_b a_b b_bᵀ (E. Bengio, PhD thesis, eq. 4.2, 4.5-4.6,
4.12-4.13, 4.32-4.36), over a window of h = 2/(1 - β) minibatches, as §4.1 does. Written as the
definitions say, from stored minibatches and parameters: no n×n matrix, and independent of the
recursion in `optim.corrected_momentum`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from semigradient.diagnostics.derivatives import (
    along,
    cosine,
    error_of,
    mean_gradient,
    norm,
    semi_gradient,
    slopes,
)
from semigradient.diagnostics.examples import Examples, Params
from semigradient.diagnostics.fork import Fork
from semigradient.diagnostics.observer import Findings, View

DEFAULT_BETA = 0.9


@dataclass(frozen=True)
class Path:
    """Minibatches in the order they were learned from, and the parameters they met: h of each."""

    batches: Sequence[Examples]
    parameters: Sequence[Params]

    @property
    def last(self) -> Params:
        """The present parameters, θ_t."""
        return self.parameters[-1]


def horizon(beta: float) -> int:
    """Minibatches in the window, 2 / (1 - β), rounded up."""
    return ceil(2 / (1 - beta) - 1e-9)


def momentum(path: Path, beta: float) -> Params:
    """μ: gradients where they were taken."""
    pairs = zip(path.batches, path.parameters, strict=True)
    return _average([semi_gradient(batch, at) for batch, at in pairs], beta)


def oracle(path: Path, beta: float) -> Params:
    """μ*: all gradients, moving targets included, at the present parameters."""
    return _average([semi_gradient(batch, path.last) for batch in path.batches], beta)


def corrected(path: Path, beta: float) -> Params:
    """μ̂: gradients where they were taken, moved to the present parameters by Z."""
    moved = []
    for batch, at in zip(path.batches, path.parameters, strict=True):
        shift = {name: path.last[name] - value for name, value in at.items()}
        slope, curvature = slopes(batch, at)
        changed = along(error_of(batch), batch, at, shift)
        moved.append(mean_gradient(batch, slope + curvature * changed, at))
    return _average(moved, beta)


def compare(estimate: Params, truth: Params) -> tuple[Tensor, Tensor]:
    """Distance over the length of the truth, and cosine of the angle: 0-dim each."""
    difference = {name: value - truth[name] for name, value in estimate.items()}
    return norm(difference) / norm(truth), cosine(estimate, truth)


def decay(optimizer: torch.optim.Optimizer) -> float:
    """β of an optimizer that has momentum, else 0.9."""
    group = optimizer.param_groups[0]
    beta = group.get("beta") or (group.get("betas") or [0])[0] or group.get("momentum")
    return float(beta or DEFAULT_BETA)


def follow(view: View, beta: float) -> Path:
    """A path of h updates that the learner would make from here, on a copy of it."""
    fork = Fork(view.experience)
    batches: list[Examples] = []
    parameters: list[Params] = []
    for _ in range(horizon(beta)):
        if batches:
            fork.update(batches[-1])
        batches.append(view.drawn(view.experience.batch_size))
        parameters.append(fork.values())
    return Path(batches, parameters)


def measure(view: View) -> Findings:
    """Distance and cosine of μ and μ̂ to μ*, and of μ to μ̂, after h updates of a copy.

    Of an optimizer that corrects also ‖η‖/‖μ‖ as it is, at the learner's last update.
    """
    beta = decay(view.experience.optimizer)
    path = follow(view, beta)
    plain, better, truth = momentum(path, beta), corrected(path, beta), oracle(path, beta)
    scalars = {"beta": torch.tensor(beta)}
    for name, one, other in (
        ("momentum", plain, truth),
        ("corrected", better, truth),
        ("correction", plain, better),
    ):
        scalars[f"{name}_distance"], scalars[f"{name}_cosine"] = compare(one, other)
    if (ratio := getattr(view.experience.optimizer, "correction_ratio", None)) is not None:
        scalars["optimizer_ratio"] = torch.tensor(ratio)
    return Findings(scalars)


def _average(gradients: Sequence[Params], beta: float) -> Params:
    """(1 - β) Σ_i β^{t-i} of the gradients, the last of which is of age 0."""
    weights = [(1 - beta) * beta**age for age in reversed(range(len(gradients)))]
    return {
        name: torch.stack([w * g[name] for w, g in zip(weights, gradients, strict=True)]).sum(0)
        for name in gradients[0]
    }
