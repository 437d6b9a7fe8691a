"""The policy-evaluation bench: one setting, many seeds and learning rates, one method.

    theta_{t+1} = theta_t - lr direction(g_t),   g_t = c mean_i delta_i grad V(s_i)

with delta = V(s) - r - gamma V(s'), no gradient through the target. c is 1 for the loss
delta^2 / 2 of the thesis' equations and 2 for delta^2, which its published code has. The methods
differ in what they make of g_t:

- `momentum`: the running average mu (`beta = 0`: plain gradient descent);
- `frozen`: the same, with targets from a copy of the network that is renewed at intervals;
- `oracle`: mu*, with the gradients of the last 2 / (1 - beta) minibatches recomputed at theta_t;
- `corrected`: mu minus its staleness, by the full matrix of derivatives, its diagonal, or blocks
  of layers.

Source: E. Bengio, PhD thesis, eq. 4.2-4.6 and 4.12-4.19, section 4.3.2.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semigradient.reproductions.td import updates
from semigradient.reproductions.td.history import History, per_sample, semi_gradient, window
from semigradient.reproductions.td.problems import Problem, TransitionBatch
from semigradient.reproductions.td.stacked_networks import Stack
from semigradient.reproductions.td.updates import Averages, Correction

Array = NDArray[np.float64]

CACHED = 100_000
"""Maximum size of a layer's activations for which several members share a forward pass: larger ones
exceed the processor's cache, smaller ones are dominated by overhead."""


@dataclass(frozen=True)
class Method:
    """An update rule."""

    kind: str
    """momentum, frozen, oracle or corrected."""
    full_layers: tuple[int, int] | None = None
    """Corrected: layers [first, last) with the full matrix of derivatives; None: all layers."""
    diagonal: bool = False
    """Corrected: diagonal correction of the other parameters."""
    derivative_scale: float = 1.0
    """Corrected: 0.5 with the loss delta^2 is the published code, where the gradient has the
    factor 2 and its derivative has not."""
    averaged: bool = False
    """Corrected: the derivative is (mean of a)(mean of b)^T over the minibatch instead of the mean
    of a b^T, as in the first release of the published code."""
    renewed_every: int = 0
    """Frozen: steps between renewals of the copy."""

    def correction(self, stack: Stack) -> Correction:
        """The correction of the parameters."""
        first, last = (0, len(stack.layers)) if self.full_layers is None else self.full_layers
        if first == last:
            return Correction(slice(0, 0), self.diagonal)
        return Correction(
            slice(stack.layers[first].start, stack.layers[last - 1].stop), self.diagonal
        )


MOMENTUM = Method("momentum")
ORACLE = Method("oracle")
FULL = Method("corrected")
FULL_HALF = Method("corrected", derivative_scale=0.5)
DIAGONAL = Method("corrected", (0, 0), diagonal=True)
RELEASED = Method("corrected", derivative_scale=0.5, averaged=True)
RELEASED_DIAGONAL = replace(RELEASED, full_layers=(0, 0), diagonal=True)
METHODS = {
    "momentum": MOMENTUM,
    "oracle": ORACLE,
    "released": RELEASED,
    "released-diagonal": RELEASED_DIAGONAL,
    "full": FULL,
    "full-half": FULL_HALF,
    "diagonal": DIAGONAL,
}


@dataclass(frozen=True)
class EvaluationSetting:
    """One cell of a published grid: everything that determines its results except the seeds."""

    problem: Problem
    hidden: tuple[int, ...]
    method: Method
    beta: float
    size: int
    """Transitions in a minibatch, m."""
    lrs: tuple[float, ...]
    steps: int
    loss_scale: float = 2.0
    """c of the module's docstring."""
    every: int = 250
    """Steps between two measurements."""
    measure: tuple[str, ...] = ()
    """Beyond the error: `drift`, `cosine` (corrected and stale), over the last 2 / (1 - beta)
    minibatches."""


class StackLearner:
    """The networks of one setting: A learning rates times S seeds, E = A S members."""

    def __init__(
        self, setting: EvaluationSetting, seeds: Sequence[int], dtype: torch.dtype = torch.float32
    ) -> None:
        self.setting = setting
        self.stack = Stack((setting.problem.width, *setting.hidden, 1))
        self.theta = self.stack.initial(seeds).to(dtype).repeat(len(setting.lrs), 1)
        """(E, n); the members of the first learning rate come first."""
        self.lr = torch.tensor(setting.lrs, dtype=dtype).repeat_interleave(len(seeds))[:, None]
        corrected = setting.method.kind == "corrected"
        self.correction = setting.method.correction(self.stack) if corrected else None
        self.averages = Averages.zero(self.theta, self.correction)
        self.target = self.theta.clone() if setting.method.kind == "frozen" else None
        self.history: History | None = None
        self.time = 0

    def of_members(self, batch: TransitionBatch) -> TransitionBatch:
        """The minibatches of S seeds for every learning rate, (E, m, ...)."""
        rates = len(self.setting.lrs)

        def expanded(part: Tensor) -> Tensor:
            return part.to(self.theta).repeat(rates, *[1] * (part.ndim - 1))

        truth = None if batch.truth is None else expanded(batch.truth)
        inputs, reward, discount, next_inputs = (expanded(part) for part in batch[:4])
        return TransitionBatch(inputs, reward, discount, next_inputs, truth)

    def remember(self, batch: TransitionBatch) -> None:
        """Store the minibatch (E, m, ...) if the method or a measurement needs it."""
        setting, extras = self.setting, {}
        if "drift" in setting.measure:
            extras["next_values"] = self.stack.values(self.theta, batch.next_inputs)
        if "cosine" in setting.measure:
            extras["theta"] = self.theta
        if not extras and setting.method.kind != "oracle":
            return
        if self.history is None:
            # The oracle uses the present minibatch and the window before it.
            slots = window(setting.beta) + (setting.method.kind == "oracle")
            self.history = History(slots, batch, **extras)
        self.history.push(batch, **extras)

    def learn(self, batch: TransitionBatch) -> None:
        """Take one step on a minibatch (E, m, ...) after `remember`."""
        setting, kind = self.setting, self.setting.method.kind
        scale = setting.loss_scale / setting.size
        if kind == "oracle":
            self.theta.addcmul_(self._oracle(scale), self.lr, value=-1)
        elif self.correction is not None:
            self._corrected(batch, scale)
        else:
            if self.target is not None and self.time % setting.method.renewed_every == 0:
                self.target.copy_(self.theta)
            gradient = semi_gradient(self.stack, self.theta, batch, scale, self.target)
            updates.momentum(self.averages, self.theta, gradient, self.lr, setting.beta)
        self.time += 1

    def _corrected(self, batch: TransitionBatch, scale: float) -> None:
        gradients, a, b = per_sample(self.stack, self.theta, batch)
        assert self.correction is not None
        weight = scale * self.setting.method.derivative_scale
        if self.setting.method.averaged:
            a, b = (rows.mean(1, keepdim=True) for rows in (a, b))
            weight *= self.setting.size
        updates.corrected(
            self.averages,
            self.theta,
            scale * gradients.sum(1),
            a,
            b * weight,
            self.lr,
            self.setting.beta,
            self.correction,
        )

    def _oracle(self, scale: float) -> Tensor:
        """(1 - beta) sum_i beta^(t - i) g_i(theta_t) over the window, (E, n)."""
        assert self.history is not None
        past = self.history.joined()
        weight = self.history.weight(self.setting.beta).repeat_interleave(self.setting.size)
        weight = (scale * weight).to(self.theta)
        parts = []
        share = self._share(2 * past.inputs.shape[1])
        for start in range(0, len(self.theta), share):
            part = slice(start, start + share)
            theta, few = (
                self.theta[part],
                TransitionBatch(*(p[part] for p in past if p is not None)),
            )
            parts.append(semi_gradient(self.stack, theta, few, weight, None))
        return torch.cat(parts)

    def _share(self, inputs: int) -> int:
        """Number of members per forward pass over `inputs` inputs."""
        return max(1, CACHED // (inputs * max(self.stack.sizes)))

    def errors(self) -> Tensor:
        """Mean squared error (E,) to the true values."""
        inputs, values = self.setting.problem.evaluation()
        parts = [
            ((self.stack.values(theta, inputs.expand(len(theta), -1, -1)) - values) ** 2).mean(1)
            for theta in self.theta.split(self._share(len(values)))
        ]
        return torch.cat(parts)


@torch.no_grad()
def run(setting: EvaluationSetting, seeds: Sequence[int]) -> dict[str, Array]:
    """Train and measure; `step` (T,), and (A, S, T) for each of `error` and `setting.measure`.

    `visited`, if the problem provides true values, is the mean squared error at the states of the
    minibatches since the previous measurement, predicted before learning from them. Diverged
    members have an infinite error.
    """
    learner = StackLearner(setting, seeds)
    measured: dict[str, list[Tensor]] = {}
    visited: list[Tensor] = []
    for batch in itertools.islice(setting.problem.batches(seeds, setting.size), setting.steps):
        members = learner.of_members(batch)
        learner.remember(members)
        if members.truth is not None:
            values = learner.stack.values(learner.theta, members.inputs)
            visited.append(((values - members.truth) ** 2).mean(1))
        learner.learn(members)
        if learner.time % setting.every == 0:
            for name, value in _measure(learner, visited).items():
                measured.setdefault(name, []).append(value)
            visited.clear()
    shape = (len(setting.lrs), len(seeds), -1)
    arrays = {
        name: torch.stack(v, 1).reshape(shape).double().numpy() for name, v in measured.items()
    }
    steps = np.arange(setting.every, setting.steps + 1, setting.every, dtype=np.float64)
    return {"step": steps, **arrays}


def _measure(learner: StackLearner, visited: list[Tensor]) -> dict[str, Tensor]:
    """One measurement of every member, (E,) each."""
    measured = {"error": learner.errors()}
    if visited:
        measured["visited"] = torch.stack(visited).mean(0)
    history = learner.history
    if history is not None and "drift" in learner.setting.measure:
        measured["drift"] = history.drift(learner.stack, learner.theta)
    if history is not None and "cosine" in learner.setting.measure:
        measured["cosine"] = history.cosine(learner.stack, learner.theta)
        measured["stale_cosine"] = history.cosine(learner.stack, learner.theta, correct=False)
    for name in ("error", "visited", "drift"):
        if name in measured:
            measured[name] = torch.nan_to_num(measured[name], nan=torch.inf)
    return measured
