"""The last minibatches, the drift of their targets and the staleness of their gradients.

Source: E. Bengio, PhD thesis, eq. 4.6 and section 4.3.2.2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from semigradient.reproductions.td.problems import TransitionBatch
from semigradient.reproductions.td.stacked_networks import Stack


def window(beta: float) -> int:
    """Effective window of momentum in minibatches, 2 / (1 - beta)."""
    return math.ceil(round(2 / (1 - beta), 9))


class History:
    """A ring buffer of the last `slots` minibatches of E members, with extras of that time."""

    def __init__(self, slots: int, batch: TransitionBatch, **extras: Tensor) -> None:
        """Allocate minibatches like `batch` (E, m, ...), with extras (E, ...)."""
        parts = {**batch._asdict(), **extras}
        self._rings = {
            name: part.new_zeros(len(part), slots, *part.shape[1:])
            for name, part in parts.items()
            if part is not None
        }
        self._made = torch.full((slots,), -1)
        self.slots, self.time = slots, 0

    def push(self, batch: TransitionBatch, **extras: Tensor) -> None:
        """Store one minibatch in place of the oldest."""
        slot = self.time % self.slots
        for name, part in {**batch._asdict(), **extras}.items():
            if part is not None:
                self._rings[name][:, slot] = part
        self._made[slot] = self.time
        self.time += 1

    def joined(self) -> TransitionBatch:
        """All minibatches as one, (E, slots m, ...), unordered; empty slots are zero."""
        names = ("inputs", "reward", "discount", "next_inputs")
        return TransitionBatch(*(self._rings[name].flatten(1, 2) for name in names))

    def weight(self, beta: float) -> Tensor:
        """(1 - beta) beta^age of each minibatch, (slots,); 0 for an empty slot."""
        age = (self.time - 1 - self._made).double()
        return torch.where(self._made < 0, 0.0, (1 - beta) * beta**age)

    def drift(self, stack: Stack, theta: Tensor) -> Tensor:
        """Mean (V_{theta_i}(s'_i) - V_theta(s'_i))^2, (E,), where the discount is positive.

        Needs the extra `next_values` (E, m) of each minibatch, at the parameters of its time.
        """
        batch = self.joined()
        moved = stack.values(theta, batch.next_inputs) - self._rings["next_values"].flatten(1, 2)
        counted = (batch.discount > 0).to(moved)
        return (moved**2 * counted).sum(1) / counted.sum(1)

    def cosine(self, stack: Stack, theta: Tensor, correct: bool = True) -> Tensor:
        """Mean cosine of g_i + Z_i^T (theta - theta_i) with the gradient at theta, (E,).

        Over single samples, Z_i = a_i b_i^T; without `correct` that of the stale g_i itself.
        Needs the extra `theta` (E, n) of each minibatch. Samples with zero gradient are skipped.
        """
        total, count = theta.new_zeros(len(theta)), theta.new_zeros(len(theta))
        names = ("inputs", "reward", "discount", "next_inputs")
        for slot in (self._made >= 0).nonzero().flatten().tolist():
            batch = TransitionBatch(*(self._rings[name][:, slot] for name in names))
            old = self._rings["theta"][:, slot]
            gradient, a, b = per_sample(stack, old, batch)
            if correct:
                gradient = gradient + torch.bmm(a, (theta - old).unsqueeze(-1)) * b
            now, _, _ = per_sample(stack, theta, batch)
            lengths = gradient.norm(dim=-1) * now.norm(dim=-1)
            defined = (lengths > 0) & lengths.isfinite()
            similar = (gradient * now).sum(-1) / lengths
            total += torch.where(defined, similar, 0.0).sum(1)
            count += defined.sum(1)
        return total / count


def per_sample(
    stack: Stack, theta: Tensor, batch: TransitionBatch
) -> tuple[Tensor, Tensor, Tensor]:
    """Semi-gradients delta b, and the rows a and b of their derivative a b^T; (E, m, n) each."""
    values, given = stack.forward(theta, _both(batch))
    here, there = values.chunk(2, dim=1)
    b, following = stack.rows(theta, given).chunk(2, dim=1)
    a = torch.addcmul(b, batch.discount.unsqueeze(-1), following, value=-1)
    error = here - batch.reward - batch.discount * there
    return error.unsqueeze(-1) * b, a, b


def semi_gradient(
    stack: Stack,
    theta: Tensor,
    batch: TransitionBatch,
    weight: Tensor | float,
    target: Tensor | None,
) -> Tensor:
    """sum_i weight_i delta_i grad V(s_i), (E, n); next values by `target`, or `theta` if None."""
    if target is None:
        # One pass over both needs fewer calls than two.
        values, given = stack.forward(theta, _both(batch))
        here, there = values.chunk(2, dim=1)
        given = [part.chunk(2, dim=1)[0] for part in given]
    else:
        here, given = stack.forward(theta, batch.inputs)
        there = stack.values(target, batch.next_inputs)
    error = here - batch.reward - batch.discount * there
    return stack.summed(theta, given, error * weight)


def _both(batch: TransitionBatch) -> Tensor:
    """States and next states, (E, 2 m, d)."""
    return torch.cat([batch.inputs, batch.next_inputs], dim=1)
