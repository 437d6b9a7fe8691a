"""A binary tree of sums over numbers that are drawn in proportion to their size."""

from __future__ import annotations

import numpy as np


class SumTree:
    """Non-negative numbers, of which many are changed or drawn at once, level by level.

    Node 1 holds the sum of all, node k that of its children 2k and 2k + 1, and the leaves are the
    numbers. Every sum is computed anew from its children, so that the tree is a function of its
    leaves alone.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.depth = max(1, (count - 1).bit_length())
        self.first = 1 << self.depth
        self.nodes = np.zeros(2 * self.first)

    @property
    def total(self) -> float:
        """The sum of all."""
        return float(self.nodes[1])

    @property
    def leaves(self) -> np.ndarray:
        """The numbers (count,)."""
        return self.nodes[self.first : self.first + self.count]

    def set(self, index: np.ndarray, values: np.ndarray | float) -> None:
        """Replace the numbers at (m,) positions; of one that comes twice the last counts."""
        node = index + self.first
        self.nodes[node] = values
        for _ in range(self.depth):
            node = node >> 1
            self.nodes[node] = self.nodes[2 * node] + self.nodes[2 * node + 1]

    def load(self, leaves: np.ndarray) -> None:
        """Replace all numbers (count,)."""
        self.leaves[:] = leaves
        low = self.first
        while low > 1:
            pairs = self.nodes[low : 2 * low].reshape(-1, 2)
            low //= 2
            self.nodes[low : 2 * low] = pairs[:, 0] + pairs[:, 1]

    def find(self, mass: np.ndarray) -> np.ndarray:
        """Positions (m,) of the numbers under which (m,) shares in [0, total) of the sum fall."""
        node = np.ones(len(mass), dtype=np.int64)
        mass = mass.copy()
        for _ in range(self.depth):
            left = self.nodes[2 * node]
            # Rounding must not lead into an empty branch.
            right = (mass >= left) & (self.nodes[2 * node + 1] > 0)
            mass -= np.where(right, left, 0.0)
            node = 2 * node + right
        return node - self.first
