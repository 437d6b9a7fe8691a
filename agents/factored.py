"""Action values of several choices made side by side, each with values of its own.

A space `MultiDiscrete([n₁, …, n_K])` gets n₁ + … + n_K outputs. Every choice k is learned as if it
were the only one, from the shared reward and its own maximum:

    δ_k = r + γ (1 - terminated) max_a Q̄_k(s', a) - Q_k(s, a_k)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from semigradient.training.returns import double_q_bootstrap


def greedy(q: Tensor, heads: Sequence[int]) -> Tensor:
    """Best action of every choice (B, K) of values (B, ΣA)."""
    return torch.stack([each.argmax(1) for each in q.split(list(heads), 1)], 1)


def values(q: Tensor, action: Tensor, heads: Sequence[int]) -> Tensor:
    """Values (B, K) that `q` (B, ΣA) gives to actions (B, K)."""
    pairs = zip(q.split(list(heads), 1), action.unbind(1), strict=True)
    return torch.cat([each.gather(1, chosen[:, None]) for each, chosen in pairs], 1)


def bootstrap(chooser: Tensor, target: Tensor, heads: Sequence[int]) -> Tensor:
    """Target values (B, K) of the actions that the chooser likes best; both are (B, ΣA)."""
    pairs = zip(chooser.split(list(heads), 1), target.split(list(heads), 1), strict=True)
    return torch.stack([double_q_bootstrap(likes, value) for likes, value in pairs], 1)
