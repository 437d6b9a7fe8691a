"""Whole episodes of sources, symbol by symbol."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from semigradient.envs.core import resolve
from semigradient.envs.memory.source import Answering


class Episodes(NamedTuple):
    """N episodes of at most L symbols; what lies after an end is not scored."""

    symbol: np.ndarray  # (N, L) int64
    target: np.ndarray  # (N, L) int64
    is_scored: np.ndarray  # (N, L) bool
    is_there: np.ndarray  # (N, L) bool
    core: Answering


def episodes(env_id: str, count: int, seed: int = 0, **options: object) -> Episodes:
    """Episodes of `semigradient/…`, of which every answer is right."""
    from semigradient.envs import OURS

    core = resolve(OURS[env_id], options)
    assert isinstance(core, Answering)
    generator = torch.Generator().manual_seed(seed)
    state, rows = core.reset(count, generator), []
    is_there, total = torch.ones(count, dtype=torch.bool), torch.zeros(count, dtype=torch.float64)
    while is_there.any():
        shown = core.source.emit(state)
        assert (core.observe(state).argmax(1) == shown.symbol).all()
        rows.append((shown.symbol, shown.target, shown.is_scored & is_there, is_there))
        step = core.step(state, shown.target, generator)
        total += step.reward * is_there
        is_there, state = is_there & ~(step.terminated | step.truncated), step.state
    columns = [np.stack([row.numpy() for row in column], 1) for column in zip(*rows, strict=True)]
    np.testing.assert_array_equal(total.numpy(), columns[2].sum(1))
    return Episodes(*columns, core)


def memoryless_value(played: Episodes) -> tuple[float, float]:
    """Expected return of the best answer by the present symbol alone, and its standard error.

    The best answer is that to the first half of the episodes, the return that of the second.
    """
    symbols, answers = len(played.core.source.names), played.core.source.answers
    half = len(played.symbol) // 2
    counts = np.zeros((symbols, answers))
    scored = played.is_scored[:half]
    np.add.at(counts, (played.symbol[:half][scored], played.target[:half][scored]), 1)
    right = counts.argmax(1)[played.symbol[half:]] == played.target[half:]
    returns = (right & played.is_scored[half:]).sum(1)
    return float(returns.mean()), float(returns.std() / np.sqrt(half))
