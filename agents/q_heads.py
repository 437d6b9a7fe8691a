"""Interpretations of rows of action values: one discrete choice, or several side by side.

A network gives each observation one row of numbers. `Choice` reads it as the values of A actions,
`SideBySide` as those of K choices, n₁ + … + n_K numbers in all, each learned as if it were the
only one, from the shared reward and its own maximum:

    δ_k = r + γ (1 - terminated) max_a Q̄_k(s', a) - Q_k(s, a_k)

What is (m, …) here is (runs, m, …) of runs that learn as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from semigradient.errors import UserError
from semigradient.training.returns import double_q_bootstrap


class QHead(Protocol):
    """The layout of actions in rows of values (m, outputs)."""

    @property
    def outputs(self) -> int:
        """Values in a row."""
        ...

    @property
    def choices(self) -> int:
        """Simultaneous choices, each with a temporal difference of its own."""
        ...

    @property
    def is_single(self) -> bool:
        """Whether an action is one number, with one temporal difference."""
        ...

    def values(self, q: Tensor, action: Tensor) -> Tensor:
        """Q(s, a) of actions (m, …): (m,), or (m, K)."""
        ...

    def greedy(self, q: Tensor, mask: Tensor | None) -> Tensor:
        """Best legal actions (m, …)."""
        ...

    def bootstrap(self, chooser: Tensor, q: Tensor, mask: Tensor | None) -> Tensor:
        """Values in `q` of the greedy legal actions of `chooser`: (m,), or (m, K)."""
        ...

    def place(self, action: Tensor) -> Tensor:
        """Where in a row the values of actions (m, …) stand: (m,), or (m, K)."""
        ...

    def uniform(self, rng: np.random.Generator, count: int, mask: np.ndarray | None) -> np.ndarray:
        """Legal actions (count, …) drawn uniformly, int64."""
        ...


class Choice:
    """One choice among A actions, of which some may be illegal."""

    choices, is_single = 1, True

    def __init__(self, actions: int) -> None:
        self.outputs = actions

    def values(self, q: Tensor, action: Tensor) -> Tensor:
        """Q(s, a) of actions (m,): (m,)."""
        return q.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def greedy(self, q: Tensor, mask: Tensor | None) -> Tensor:
        """Best legal actions (m,)."""
        return (q if mask is None else q.where(mask, -torch.inf)).argmax(-1)

    def bootstrap(self, chooser: Tensor, q: Tensor, mask: Tensor | None) -> Tensor:
        """Values (m,) in `q` of the greedy legal actions of `chooser`."""
        return double_q_bootstrap(chooser, q, mask)

    def place(self, action: Tensor) -> Tensor:
        """The actions (m,) themselves."""
        return action

    def uniform(self, rng: np.random.Generator, count: int, mask: np.ndarray | None) -> np.ndarray:
        """Legal actions (count,) drawn uniformly."""
        if mask is None:
            return rng.integers(self.outputs, size=count)
        return (rng.random(mask.shape) * mask).argmax(1)


class SideBySide:
    """K choices at once, among n₁, …, n_K actions; masks (m, Σn) say for each what is legal."""

    is_single = False

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes, self.choices, self.outputs = list(sizes), len(sizes), sum(sizes)

    def values(self, q: Tensor, action: Tensor) -> Tensor:
        """Q_k(s, a_k) of actions (m, K): (m, K)."""
        # Those of MultiBinary are kept as bytes.
        pairs = zip(q.split(self.sizes, -1), action.long().unbind(-1), strict=True)
        return torch.cat([part.gather(-1, chosen.unsqueeze(-1)) for part, chosen in pairs], -1)

    def greedy(self, q: Tensor, mask: Tensor | None = None) -> Tensor:
        """Best legal action (m, K) of every choice."""
        q = q if mask is None else q.where(mask, -torch.inf)
        return torch.stack([part.argmax(-1) for part in q.split(self.sizes, -1)], -1)

    def bootstrap(self, chooser: Tensor, q: Tensor, mask: Tensor | None = None) -> Tensor:
        """Values (m, K) in `q` of the greedy legal actions of `chooser`."""
        legal = [None] * self.choices if mask is None else mask.split(self.sizes, -1)
        triples = zip(chooser.split(self.sizes, -1), q.split(self.sizes, -1), legal, strict=True)
        return torch.stack([double_q_bootstrap(*triple) for triple in triples], -1)

    def place(self, action: Tensor) -> Tensor:
        """Where in a row the values of actions (m, K) stand: (m, K)."""
        starts = torch.tensor([0, *self.sizes[:-1]], device=action.device).cumsum(0)
        return action + starts

    def uniform(
        self, rng: np.random.Generator, count: int, mask: np.ndarray | None = None
    ) -> np.ndarray:
        """Legal actions (count, K) drawn uniformly."""
        if mask is not None:
            weights = np.split(rng.random(mask.shape) * mask, np.cumsum(self.sizes)[:-1], 1)
            return np.stack([part.argmax(1) for part in weights], 1)
        return rng.integers(self.sizes, size=(count, self.choices))


def q_head(action: spaces.Space) -> QHead:
    """The head for a space of actions.

    Raises:
        UserError: the space has no discrete choices that count from 0.
    """
    if isinstance(action, spaces.MultiDiscrete) and action.nvec.ndim == 1:
        return SideBySide(action.nvec.tolist())
    if isinstance(action, spaces.MultiBinary) and len(action.shape) == 1:
        return SideBySide([2] * action.shape[0])
    if isinstance(action, spaces.Discrete) and action.start == 0:
        return Choice(int(action.n))
    raise UserError(
        f"action space {action}: Q-learning accepts Discrete (from 0), MultiDiscrete, MultiBinary"
    )
