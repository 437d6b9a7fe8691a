"""Heat maps of a hyper-grid."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SIDE = 256
_HERE = np.array([255, 60, 60], np.uint8)
_SAMPLED = 4096  # largest number of cells averaged per pixel of a projection


class Grid(Protocol):
    """The parts of a hyper-grid that are drawn; see `envs.constructions.hypergrid.HyperGrid`."""

    height: int
    dimensions: int
    device: torch.device

    def cells(self, states: Tensor) -> Tensor:
        """Coordinates (m, n) of states (m,)."""

    def log_reward(self, states: Tensor) -> Tensor:
        """(m,) float64."""


def frames(grid: Grid, states: Tensor, visits: Tensor | None) -> list[np.ndarray]:
    """RGB frames (H', W', 3) uint8 of about 256 pixels, one per state.

    Two dimensions are shown as they are; of more, the first two, averaged over the others, and of
    one, a row. The colour is log R, or, with `visits` (H^n,), log (1 + visits).
    """
    values = heat(grid, visits)
    shades = _colours(values)
    zoom = max(1, _SIDE // grid.height)
    pictures = []
    for cell in grid.cells(states)[:, :2].tolist():
        picture = shades.copy()
        row, column = (cell[1], cell[0]) if len(cell) > 1 else (0, cell[0])
        picture = picture.repeat(zoom, 0).repeat(zoom, 1)
        # A frame around the cell, so that its colour stays visible.
        width = max(1, zoom // 8)
        block = picture[row * zoom : (row + 1) * zoom, column * zoom : (column + 1) * zoom]
        inside = block[width:-width, width:-width].copy()
        block[:] = _HERE
        block[width:-width, width:-width] = inside
        # Coordinate 2 grows upwards, as in the published figures.
        pictures.append(np.ascontiguousarray(picture[::-1]))
    return pictures


def heat(grid: Grid, visits: Tensor | None = None) -> NDArray[np.float64]:
    """(H, H) of the first two coordinates, second one first; (1, H) of a single one."""
    height, shown = grid.height, min(grid.dimensions, 2)
    plane = torch.arange(height**shown, device=grid.device)
    rest = height ** (grid.dimensions - shown)
    chosen = torch.linspace(0, rest - 1, min(rest, _SAMPLED), dtype=torch.float64).long().unique()
    states = plane[:, None] + chosen.to(grid.device) * height**shown
    if visits is not None:
        values = torch.log1p(visits[states].double().sum(1))
    else:
        values = grid.log_reward(states.flatten()).view(states.shape).exp().mean(1).log()
    return values.view(-1, height).cpu().numpy()


def _colours(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """From dark blue over green to yellow."""
    spread = values.max() - values.min()
    share = ((values - values.min()) / spread if spread > 0 else np.zeros_like(values))[..., None]
    anchors = np.array([[40, 20, 90], [40, 140, 140], [250, 230, 60]], float)
    lower = anchors[0] + (anchors[1] - anchors[0]) * np.minimum(2 * share, 1)
    mixed = np.where(share <= 0.5, lower, anchors[1] + (anchors[2] - anchors[1]) * (2 * share - 1))
    return mixed.round().astype(np.uint8)
