"""How a Q-learner explores: occasional uniform actions, or noise on its values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from semigradient.agents.q_heads import QHead
from semigradient.training.draws import NumpyRandom, draw_arrays
from semigradient.training.exploration import Noise

Values = Callable[[], Tensor]
"""Computes action values (B, outputs)."""


@dataclass(frozen=True)
class Falling:
    """A number that falls linearly over the first `span` steps, then stays."""

    start: float
    end: float
    span: float

    def __call__(self, step: int) -> float:
        """The number at a step."""
        progress = min(1.0, step / self.span) if self.span > 0 else 1.0
        return self.start + progress * (self.end - self.start)


class Exploration(Protocol):
    """Chooses actions of B environments, step by step."""

    def act(self, values: Values, count: int, mask: np.ndarray | None, step: int) -> np.ndarray:
        """Actions (B, …) for B = `count` environments at environment step `step`; of K runs that
        learn as one (K, B, …).

        `values` need not be computed where nothing depends on them; `mask` (B, A) are the
        legal actions.
        """
        ...

    def scalars(self, step: int) -> dict[str, float | Tensor]:
        """Scalars to log."""
        ...


class EpsilonGreedy:
    """The best legal action, or a uniform one with probability ε."""

    STATE = ("rng",)

    def __init__(self, head: QHead, epsilon: Callable[[int], float], rng: NumpyRandom) -> None:
        self.head, self.epsilon, self.rng = head, epsilon, rng

    def act(self, values: Values, count: int, mask: np.ndarray | None, step: int) -> np.ndarray:
        """Actions (B, …)."""
        epsilon = self.epsilon(step)
        chance, uniform = draw_arrays(self.rng, partial(self._draw, count), mask)
        if epsilon >= 1:
            return uniform
        actions = best(self.head, values(), mask)
        explore = chance < epsilon
        actions[explore] = uniform[explore]
        return actions

    def scalars(self, step: int) -> dict[str, float | Tensor]:
        """ε."""
        return {"epsilon": self.epsilon(step)}

    def _draw(
        self, count: int, rng: np.random.Generator, mask: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Numbers in [0, 1) (count,) that ε is compared with, and uniform actions (count, …)."""
        return rng.random(count), self.head.uniform(rng, count, mask)


class NoisyValues:
    """The best legal action of values to which noise is added, coherent in physical time or not."""

    STATE = ("noise",)

    def __init__(self, head: QHead, noise: Noise) -> None:
        self.head, self.noise = head, noise

    def act(self, values: Values, count: int, mask: np.ndarray | None, step: int) -> np.ndarray:
        """Actions (B, …)."""
        return best(self.head, values() + self.noise(), mask)

    def scalars(self, step: int) -> dict[str, float | Tensor]:
        """None."""
        return {}


def best(head: QHead, q: Tensor, mask: np.ndarray | None) -> np.ndarray:
    """Best legal actions (B, …) of values (B, outputs), on the host."""
    legal = None if mask is None else torch.from_numpy(mask).to(q.device)
    return head.greedy(q, legal).cpu().numpy()
