"""Random segments of experience for tests of returns."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

GAMMA = 0.9


class Segment(NamedTuple):
    reward: torch.Tensor
    terminated: torch.Tensor
    truncated: torch.Tensor
    value: torch.Tensor
    next_value: torch.Tensor
    log_ratio: torch.Tensor

    @property
    def flow(self):
        return self.reward, self.terminated, self.truncated

    @property
    def length(self):
        return self.reward.shape[0]


def segment(seed, length=17, batch=6, p_end=0.25):
    """Random transitions in which next_value[t] is value[t + 1] unless the episode ended at t."""
    rng = np.random.default_rng(seed)
    value = rng.normal(size=(length + 1, batch))
    terminated = rng.random((length, batch)) < p_end / 2
    truncated = rng.random((length, batch)) < p_end / 2  # may coincide with termination
    next_value = np.where(terminated | truncated, rng.normal(size=(length, batch)), value[1:])
    return Segment(
        torch.from_numpy(rng.normal(size=(length, batch))),
        torch.from_numpy(terminated),
        torch.from_numpy(truncated),
        torch.from_numpy(value[:-1].copy()),
        torch.from_numpy(next_value),
        torch.from_numpy(rng.normal(size=(length, batch))),
    )
