"""Counts of sampled objects, and distances between distributions over objects.

The published figures use the last 200 000 objects sampled in training. That estimate has a floor
(a perfect sampler has it, too), so wherever states can be enumerated the exact distribution of a
policy is reported as well.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semigradient.envs.constructions.construction import Construction, Table


class SampleCounts:
    """Counts of sampled objects: of the last `window` ones by state, of all by mode.

    Args:
        rules: of the construction.
        window: number of objects in the empirical distribution.
        exponent: β of the target distribution R^β / Z.
    """

    def __init__(self, rules: Construction, window: int = 200_000, exponent: float = 1.0) -> None:
        self.rules, self.window = rules, window
        self.table = rules if isinstance(rules, Table) else None
        self.objects = 0
        self.modes = torch.zeros(rules.mode_count, dtype=torch.int64, device=rules.device)
        self.recent = torch.zeros(0, dtype=torch.int64, device=rules.device)
        self._pending: list[Tensor] = []
        if self.table is not None:
            self.target = self.table.distribution(exponent)

    def add(self, objects: Tensor) -> None:
        """Count objects (m,)."""
        self.objects += len(objects)
        if len(self.modes):
            modes = self.rules.modes(objects)
            self.modes += torch.bincount(modes[modes >= 0], minlength=len(self.modes))
        if self.table is not None:
            self._pending.append(objects)
            if len(self._pending) > 1000:
                self._settle()

    @property
    def modes_found(self) -> int:
        """Number of modes that were sampled at least once."""
        return int((self.modes > 0).sum())

    def counts(self) -> Tensor:
        """How often each state (S,) is among the last objects."""
        self._settle()
        return torch.bincount(self.recent, minlength=self.rules.size)

    def counters(self) -> dict[str, float]:
        """Objects and modes found so far: cheap enough for every iteration."""
        found = {"objects": float(self.objects)}
        return {**found, "modes": float(self.modes_found)} if len(self.modes) else found

    def metrics(self) -> dict[str, float]:
        """The counters and, on a table, the mean absolute error of the frequencies."""
        metrics = self.counters()
        if self.table is not None and self.objects:
            counts = self.counts().double()
            gap = (counts / counts.sum() - self.target)[self.table.objects].abs()
            metrics["empirical_l1"] = float(gap.mean())
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Counters and the last objects."""
        self._settle()
        return {"objects": self.objects, "modes": self.modes.clone(), "recent": self.recent.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state."""
        self.objects, self._pending = int(state["objects"]), []
        self.modes, self.recent = state["modes"].clone(), state["recent"].clone()

    def _settle(self) -> None:
        """Move pending objects into the window."""
        if self._pending:
            self.recent = torch.cat([self.recent, *self._pending])[-self.window :].clone()
            self._pending = []


def distance(sampled: Tensor, target: Tensor, table: Table) -> dict[str, float]:
    """Distances of a distribution over objects from its target; both (S,) float64.

    Returns:
        `tv`, the total variation ½ Σ |p - q|; `l1`, the mean of |p - q| over the objects, as the
        published figures have it; `kl`, KL(target ‖ sampled) in nats; `jsd`, the Jensen-Shannon
        divergence in nats; `correlation` of log sampled and log target (0 where it is undefined).
    """
    q, p = sampled[table.objects], target[table.objects]
    gap = (p - q).abs()
    middle = 0.5 * (p + q)
    return {
        "tv": float(gap.sum() / 2),
        "l1": float(gap.mean()),
        "kl": _divergence(p, q),
        "jsd": 0.5 * (_divergence(p, middle) + _divergence(q, middle)),
        "correlation": correlation(q.clamp(min=1e-300).log(), p.clamp(min=1e-300).log()),
    }


def floor(target: Tensor, table: Table, samples: int) -> float:
    """Expected mean |p - q| of the frequencies of `samples` perfect draws (normal limit)."""
    p = target[table.objects]
    return float((2 * p * (1 - p) / (math.pi * samples)).sqrt().mean())


def _divergence(p: Tensor, q: Tensor) -> float:
    """KL(p ‖ q); probabilities are clamped to at least 1e-300."""
    ratio = p.clamp(min=1e-300).log() - q.clamp(min=1e-300).log()
    return float((p * ratio).sum())


def rank_correlation(x: Tensor, y: Tensor) -> float:
    """Spearman's, of numbers (m,) each; equal ones share their mean rank."""
    return correlation(_ranks(x), _ranks(y))


def correlation(x: Tensor, y: Tensor) -> float:
    """Pearson's, of numbers (m,) each; 0 where it is undefined."""
    x, y = x - x.mean(), y - y.mean()
    scale = float((x.square().sum() * y.square().sum()).sqrt())
    return float(np.dot(x.cpu().numpy(), y.cpu().numpy())) / scale if scale > 1e-12 else 0.0


def _ranks(x: Tensor) -> Tensor:
    _, group, count = x.unique(return_inverse=True, return_counts=True)
    last = count.cumsum(0).double()
    return (last - (count.double() - 1) / 2)[group]
