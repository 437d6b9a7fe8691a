"""Paths of learning in the Logistic Game: figure 6.2a.

From 16 places over the plane, and from one beside A, the worse of the two solutions, both players
learn by one rule. Published is a picture, and a text: naive learners go to the nearest solution,
while for meta-value learners near A "it is worth moving in a direction that immediately decreases
f", since B lies behind.

Source: T. Cooijmans, PhD thesis (2024), figure 6.2a and section 6.5.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semigradient.envs.games.logistic import LogisticGame
from semigradient.reproductions.report import Row

Array = NDArray[np.float64]
SOLUTION = 5.03070988
"""B is at (SOLUTION, SOLUTION), A at its negative."""
_PLACES = (-7.5, -2.5, 2.5, 7.5)
_BESIDE_A = (-5.5, -4.5)


def starts() -> Tensor:
    """Pairs of policies (17, 2, 1); the last is the one beside A."""
    axis = torch.tensor(_PLACES, dtype=torch.float64)
    spread = torch.cartesian_prod(axis, axis)
    return torch.cat([spread, torch.tensor([_BESIDE_A], dtype=torch.float64)]).unsqueeze(-1)


def paths(direction: Callable[[Tensor], Tensor], start: Tensor, updates: int) -> Array:
    """Where the pairs (…, 2, 1) go: (updates + 1, …, 2)."""
    x, seen = start, [start]
    for _ in range(updates):
        x = x + direction(x)
        seen.append(x)
    array: Array = torch.stack(seen).squeeze(-1).double().numpy()
    return array


def rows(naive: Array, meta: Array) -> list[Row]:
    """What the text says of learners beside A.

    Args:
        naive: (T, 17, 2).
        meta: (T, models, 17, 2), of discounts above 0.9.
    """
    left = _distance(naive[-1, -1], -1)
    course = LogisticGame().value(torch.from_numpy(meta[:, :, -1, :, None])).numpy()
    falls = course[0] - course.min(0)  # (models, 2)
    lesser = meta[-1, :, -1].min(-1)
    return [
        _row(
            "distance of naive learners from A at the end, from beside A",
            "the nearest solution",
            left,
            "below 0.1",
            left < 0.1,
        ),
        _row(
            "the lesser policy of MeVa's learners at the end, from beside A",
            "the preferred solution from anywhere",
            lesser,
            "above 0 in every model: white, as in figure 6.2b",
            lesser > 0,
        ),
        _row(
            "fall of f on MeVa's way from beside A to B",
            "immediately decreases f",
            falls,
            "above 0.1 for both players in every model",
            falls > 0.1,
        ),
    ]


def _row(quantity: str, published: str, values: Array, tolerance: str, holds: Any) -> Row:
    mean, low, high = (float(f(values)) for f in (np.mean, np.min, np.max))
    where, agrees = "section 6.5.1", bool(np.all(holds))
    return Row(quantity, published, where, mean, low, high, tolerance, agrees)


def draw(axes: Any, title: str, courses: Array) -> None:
    """Paths (T, starts, 2) from their dots on; the first player's policy is on the x-axis."""
    axes.plot(*courses.transpose(2, 0, 1), "k", linewidth=0.6)
    axes.plot(*courses[0].T, "k.", markersize=3)
    for name, side in (("A", -SOLUTION), ("B", SOLUTION)):
        axes.plot(side, side, "C1o", markersize=4)
        axes.annotate(name, (side, side), fontsize=8, color="C1")
    axes.set(xlim=(-10, 10), ylim=(-10, 10), aspect="equal", xticks=(), yticks=())
    axes.set_title(title, fontsize=8)


def draw_all(figure: Any, shape: tuple[int, int], first: int, named: Mapping[str, Array]) -> None:
    """One picture beside the other, from a place of the figure's grid on."""
    for index, (title, courses) in enumerate(named.items()):
        draw(figure.add_subplot(*shape, first + index), title, courses)


def _distance(x: Array, side: int) -> Array:
    distance: Array = np.linalg.norm(x - side * SOLUTION, axis=-1)
    return distance
