"""Replay in proportion to priorities.

    P(i) = p_i^α / Σ_k p_k^α,    w_i = (N P(i))^-β / max_j w_j

T. Schaul et al. 2016, "Prioritized experience replay" (arXiv:1511.05952), section 3 and algorithm
1: the proportional variant. Priorities are errors plus ε; what is new gets the largest so far.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semigradient.errors import require
from semigradient.training.draws import Random
from semigradient.training.replay import Batch, Replay
from semigradient.training.sum_tree import SumTree

_OFFSET = 1e-6  # ε: nothing is never drawn again


@dataclass(frozen=True)
class Priorities:
    """How strongly errors decide.

    Attributes:
        exponent: α ≥ 0; 0 draws uniformly.
        correction: β in [0, 1] at the beginning of the run; it rises linearly to 1 at its end.
    """

    exponent: float = 0.6
    correction: float = 0.4

    def __post_init__(self) -> None:
        exponent, correction = self.exponent, self.correction
        require(0 <= exponent <= 1, f"priority_exponent={exponent}: must be in [0, 1]")
        require(0 <= correction <= 1, f"priority_correction={correction}: must be in [0, 1]")


class PrioritisedReplay(Replay):
    """A replay memory of n-step transitions that draws by priority.

    A transition can be drawn once its n steps are known; batches tell the `row` of each, by which
    `update` gives it a new priority, and the `weight` that its gradient deserves.

    Args:
        priorities: exponents.
        n: steps of every transition that will be drawn.
        others: of `Replay`.
    """

    def __init__(self, priorities: Priorities, n: int, *others: Any, **more: Any) -> None:
        super().__init__(*others, **more)
        self.priorities, self.n = priorities, n
        self.tree = SumTree(self.ring.length * self.num_envs)
        self.largest, self.correction = 1.0, priorities.correction
        self._tail = 0

    def anneal(self, progress: float) -> None:
        """Set β for a share of the run, in [0, 1]."""
        start = self.priorities.correction
        self.correction = start + min(1.0, progress) * (1 - start)

    def add(self, *row: Any, **more: Any) -> None:
        """Keep one step of B environments; what n steps make complete gets the largest priority."""
        super().add(*row, **more)
        tail, first = self.observations.tail, self.ring.added - self.n
        for time in range(self._tail, min(tail, self.ring.added)):
            self.tree.set(self._rows(time), 0.0)
        self._tail = tail
        if first >= tail:
            self.tree.set(self._rows(first), self.largest**self.priorities.exponent)

    def samples(
        self, count: int, size: int, random: Random, gamma: float, n: int = 1
    ) -> Iterator[Batch]:
        """Draw `count` minibatches of `size`, each after the priorities that the last one gave."""
        for _ in range(count):
            yield self.sample(size, random, gamma, n)

    def sample(self, batch: int, random: Random, gamma: float, n: int = 1) -> Batch:
        """One transition from each of `batch` equal shares of the sum of priorities."""
        assert n == self.n, f"made for {self.n} steps, asked for {n}"
        if self.tree.total == 0:  # no n steps are known yet
            drawn = super().sample(batch, random, gamma, n)
            return drawn._replace(weight=torch.ones_like(drawn.reward))
        assert isinstance(random, torch.Generator)
        offset = torch.rand(batch, generator=random, dtype=torch.float64).numpy()
        row = self.tree.find((np.arange(batch) + offset) * (self.tree.total / batch))
        weight = self.weights(row)
        at = torch.from_numpy(row).to(self.device)
        count = self.num_envs
        draw = (at - self.observations.tail * count) % (self.ring.length * count)
        return self.at(draw, gamma, n)._replace(weight=weight, row=at)

    def weights(self, row: np.ndarray) -> Tensor:
        """Importance weights (m,) of rows, the largest of them 1."""
        share = self.tree.leaves[row] / self.tree.total
        weight = (self.times(self.n) * self.num_envs * share) ** -self.correction
        return torch.from_numpy((weight / weight.max()).astype(np.float32)).to(self.device)

    def update(self, row: Tensor | None, error: Tensor | None) -> None:
        """Give rows (m,) the priorities of their errors (m,)."""
        if row is None or error is None:
            return
        priority = error.abs().double().cpu().numpy() + _OFFSET
        self.largest = max(self.largest, float(priority.max()))
        self.tree.set(row.cpu().numpy(), priority**self.priorities.exponent)

    def state_dict(self) -> dict[str, Any]:
        """All transitions and priorities."""
        leaves = self.tree.leaves.copy()
        return {**super().state_dict(), "priorities": leaves, "largest": self.largest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load saved transitions."""
        super().load_state_dict(state)
        self.tree.load(np.asarray(state["priorities"]))
        self.largest, self._tail = float(state["largest"]), self.observations.tail

    def _rows(self, time: int) -> np.ndarray:
        """Rows (B,) of the steps of one instant."""
        return time % self.ring.length * self.num_envs + np.arange(self.num_envs)
