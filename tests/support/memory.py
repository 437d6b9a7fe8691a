"""Whole episodes of sources, symbol by symbol."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

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


def optimum_value(played: Episodes) -> tuple[float, float]:
    """Expected return of the best answer by the symbols so far, and its standard error.

    A predictor written apart for each task, from symbols alone: it never sees the targets.
    """
    guess = _PREDICTORS[type(played.core.source).__name__]
    right = [
        [t for t in np.flatnonzero(scored) if guess(played.core.source, seen[: t + 1]) == target[t]]
        for seen, target, scored in zip(*played[:3], strict=True)
    ]
    returns = np.array([len(row) for row in right])
    return float(returns.mean()), float(returns.std() / np.sqrt(len(returns)))


def _copied(source: Any, seen: np.ndarray) -> int:
    (signal,) = np.flatnonzero(seen == source.alphabet + 1)
    return seen[len(seen) - 2 - signal]


def _queued(source: Any, seen: np.ndarray) -> int:
    return seen[len(seen) - 1 - source.delay]


def _counted(source: Any, seen: np.ndarray) -> int:
    """Of aⁿbⁿ, by a regular expression of what may follow."""
    block = re.split(r"(?<=b¶)", "".join("ab¶"[symbol] for symbol in seen))[-1]
    if "¶" in block:
        n = block.index("¶")
        return "ab¶".index(("a" * n + "¶" + "b" * n + "¶a")[len(block)])
    n = len(block)
    if n < source.least:
        return 0
    return 2 if n == source.most else 0


def _bracketed(source: Any, seen: np.ndarray) -> int:
    """Of brackets; 0 where a letter is drawn."""
    line = seen[len(seen) - len(seen) % source.period :] if len(seen) % source.period else seen[:0]
    opening, closing, end = (source.alphabet + k for k in range(3))
    template = [opening, *[None] * source.inside, closing, *[None] * source.between]
    template += [opening, *[None] * source.inside, closing, end]
    wanted = template[len(line)]
    first = source.inside + source.between + 3
    if wanted is None and len(line) >= first:
        return line[len(line) - first + 1]
    return 0 if wanted is None else wanted


def _unwarped(source: Any, seen: np.ndarray) -> int:
    """The last character but one, without repetitions and dummies."""
    letters = [symbol for symbol, _ in itertools.groupby(seen[seen < source.letters])]
    return letters[-2]


_PREDICTORS: dict[str, Callable[[Any, np.ndarray], int]] = {
    "Copying": _copied,
    "Queue": _queued,
    "AnBn": _counted,
    "Brackets": _bracketed,
    "Warp": _unwarped,
}
