"""Hyper-grids: the standard small benchmark of flow networks.

n coordinates start at 0; an action raises one of them, or stops. The reward of the final cell is
high in 2^n modes far from each other (Bengio 2022, section 5.4.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from semigradient.envs.constructions.building import Building
from semigradient.envs.constructions.construction import Construction, Parents
from semigradient.envs.constructions.hypergrid_rendering import frames
from semigradient.envs.constructions.hypergrid_rewards import (
    REWARDS,
    Landscape,
    check,
    mode_count,
    mode_numbers,
)
from semigradient.envs.options import Options
from semigradient.errors import require, unknown
from semigradient.validate import Count, Natural, NonNegative, Positive, Share, among, at_least

Rule = Literal["edge", "exit_only"]
_TABULATED = 2**25  # largest number of features of all cells that is tabulated


@dataclass(frozen=True)
class HyperGridOptions(Options):
    """Options of a hyper-grid."""

    NEEDS: ClassVar = {
        "r1": ("reward", ("corners", "deceptive", "xor", "coprime", "multiscale", "corrupted")),
        "r2": ("reward", tuple(name for name in REWARDS if name != "cosine")),
        "reward_seed": ("reward", ("uniform", "corrupted")),
        "preference": ("second", tuple(REWARDS)),
    }

    dimensions: Count = 2
    """Coordinates, n."""
    height: Annotated[int, at_least(2)] = 8
    """Values of each coordinate, H."""
    rule: Rule = "edge"
    """What ends a construction: a coordinate that reaches H-1, too, or stop alone."""
    reward: Annotated[str, among(REWARDS)] = "corners"
    """Landscape; see envs/constructions/hypergrid_rewards.py."""
    r0: Positive = 0.1
    """Reward everywhere."""
    r1: NonNegative = 0.5
    """Reward added on the plateaus."""
    r2: NonNegative = 2.0
    """Reward added in the modes."""
    second: str = ""
    """Landscape of a second objective; empty: there is one."""
    preference: Share = 0.5
    """Weight w of the second objective: R = R₁^(1 - w) R₂^w."""
    reward_seed: Natural = 0
    """Seed of the random landscapes (uniform, corrupted)."""

    def check(self) -> None:
        """The number of cells fits into 62 bits, and the landscape has a mode."""
        size = self.height ** min(self.dimensions, 64)
        require(
            size < 2**62,
            f"dimensions={self.dimensions}, height={self.height}: must have fewer than 2^62 cells",
        )
        check(self.reward, self.landscape())
        if self.second:
            if self.second not in REWARDS:
                unknown("second", self.second, REWARDS)
            check(self.second, self.landscape())

    def landscape(self) -> Landscape:
        """The parameters of the reward."""
        rewards = (self.r0, self.r1, self.r2, self.reward_seed)
        return Landscape(self.height, self.dimensions, *rewards)

    def rules(self, device: str = "cpu") -> HyperGrid:
        """The grid as a construction."""
        return HyperGrid(self, device)

    def make(self, device: str = "cpu") -> Any:
        """The core of `semigradient/HyperGrid-v0`."""
        names: tuple[str, ...] = ("dimensions", "height", "rule", "reward", "r0")
        names += ("second", "preference") if self.second else ()
        return Building(self.rules(device), {name: getattr(self, name) for name in names})


class HyperGrid(Construction):
    """Rules of the grid as a `Construction`; cells are numbers in [0, H^n).

    Two rules of termination are in use, and numbers are comparable only within one:

    - `edge`: a construction ends as soon as a coordinate reaches H-1. Cells where two or more do
      are never reached, and |X| = (H-1)^n + n (H-1)^(n-1).
    - `exit_only`: a coordinate at H-1 cannot be raised further, and only stop ends. |X| = H^n.

    Args:
        options: size, rule and reward.
        device: where the tensors live.
    """

    root = 0

    def __init__(
        self, options: HyperGridOptions | None = None, device: str | torch.device = "cpu"
    ) -> None:
        options = HyperGridOptions() if options is None else options
        dimensions, height, rule = options.dimensions, options.height, options.rule
        self.land, reward = options.landscape(), options.reward
        self.device = torch.device(device)
        self.second, self.preference = options.second, options.preference
        self.objectives = 2 if options.second else 1
        self.dimensions, self.height, self.rule, self.reward = dimensions, height, rule, reward
        self.actions, self.in_degree = dimensions + 1, dimensions
        self.neighbours = 2 * dimensions
        self.size, self.width = height**dimensions, dimensions * height
        self.enumerable = self.size * self.width <= _TABULATED
        longest = height - 2 if rule == "edge" else height - 1
        self.horizon = dimensions * longest + 1
        self.mode_count = mode_count(reward, self.land)
        # Stop does not move.
        powers = [height**axis for axis in range(dimensions)] + [0]
        self._strides = torch.tensor(powers, device=self.device)

    def cells(self, states: Tensor) -> Tensor:
        """Coordinates (m, n) of states (m,)."""
        return states[:, None] // self._strides[:-1] % self.height

    def number(self, cells: Tensor) -> Tensor:
        """States (m,) of coordinates (m, n)."""
        return (cells * self._strides[:-1]).sum(1)

    def legal(self, states: Tensor) -> Tensor:
        """(m, n+1) bool."""
        below = self.cells(states) < self.height - 1
        if self.rule == "edge":
            return below.all(1, keepdim=True).expand(-1, self.actions).clone()
        return F.pad(below, (0, 1), value=True)

    def child(self, states: Tensor, actions: Tensor) -> Tensor:
        """(m,)."""
        return states + self._strides[actions]

    def finished(self, states: Tensor) -> Tensor:
        """(m,) bool."""
        if self.rule == "edge":
            return (self.cells(states) == self.height - 1).any(1)
        return torch.zeros_like(states, dtype=torch.bool)

    def parents(self, states: Tensor) -> Parents:
        """Edge k raised coordinate k; under the edge rule a finished cell is no parent."""
        cells = self.cells(states)
        real = cells > 0
        if self.rule == "edge":
            at_edge = cells == self.height - 1
            others = at_edge.sum(1, keepdim=True) - at_edge.long()
            real &= others == 0
        axes = torch.arange(self.dimensions, device=self.device).expand_as(cells)
        return Parents(torch.where(real, states[:, None] - self._strides[:-1], 0), axes, real)

    def edges_into(self, states: Tensor) -> Tensor:
        """(m,) int64."""
        return self.parents(states).real.sum(1)

    def log_reward(self, states: Tensor) -> Tensor:
        """(m,) float64."""
        if not self.second:
            return REWARDS[self.reward](self.cells(states), self.land).log()
        one, other = self.log_objectives(states).unbind(1)
        return (1 - self.preference) * one + self.preference * other

    def log_objectives(self, states: Tensor) -> Tensor:
        """(m, objectives) float64."""
        cells, names = self.cells(states), (self.reward, self.second)[: self.objectives]
        return torch.stack([REWARDS[name](cells, self.land).log() for name in names], 1)

    def prefer(self, weight: float) -> None:
        """Replace the weight of the second objective."""
        if not self.second:
            super().prefer(weight)
        self.preference = weight

    def features(self, states: Tensor) -> Tensor:
        """One-hot coordinates (m, n·H) float32."""
        return F.one_hot(self.cells(states), self.height).flatten(1).float()

    def modes(self, states: Tensor) -> Tensor:
        """Mode by the signs of the coordinates: (m,)."""
        return mode_numbers(self.reward, self.cells(states), self.land)

    def move(self, states: Tensor, moves: Tensor) -> Tensor:
        """One coordinate down (moves below n) or up, clamped to the grid: (m,).

        Under the edge rule moves to unreachable cells are cancelled too.
        """
        axis, up = moves % self.dimensions, moves >= self.dimensions
        step = torch.where(up, 1, -1)
        cells = self.cells(states)
        moved = cells.scatter_add(1, axis[:, None], step[:, None])
        allowed = ((moved >= 0) & (moved < self.height)).all(1)
        if self.rule == "edge":
            allowed &= (moved == self.height - 1).sum(1) <= 1
        return torch.where(allowed, states + step * self._strides[axis], states)

    def names(self, states: Tensor) -> list[str]:
        """Coordinates, such as "3 0"."""
        return [" ".join(map(str, cell)) for cell in self.cells(states).tolist()]

    def distance(self, states: Tensor) -> Tensor:
        """Euclidean, of x in [-1, 1]^n: (m, m)."""
        x = -1 + 2 * self.cells(states).double() / (self.height - 1)
        return torch.cdist(x, x)

    def pictures(self, states: Tensor, visits: Tensor | None = None) -> list[np.ndarray]:
        """Heat maps of log R, or of visit counts (S,), with each state's cell."""
        return frames(self, states, visits)
