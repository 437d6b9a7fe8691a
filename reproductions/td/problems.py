"""Problems of the policy-evaluation bench: streams of minibatches and true values.

Minibatches are drawn for S independent seeds at once. The stream of a seed depends on that seed
alone, so that all methods and learning rates learn from the same data, and adding seeds does not
change the results of the others.

Source: E. Bengio, PhD thesis, sections 4.3.1 (regression) and 4.3.2.1 (Mountain Car).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from semigradient.reproductions.td import mountain_car

BLOCK = 250
"""Steps per call of the random generator."""


class TransitionBatch(NamedTuple):
    """One minibatch of m transitions for each of S seeds."""

    inputs: Tensor
    """(S, m, d)"""
    reward: Tensor
    """(S, m); the sum of discounted rewards for several steps."""
    discount: Tensor
    """(S, m) factor of the next value, 0 where the episode terminated."""
    next_inputs: Tensor
    """(S, m, d)"""
    truth: Tensor | None = None
    """(S, m) the true values at `inputs`, if the stream provides them."""


class Problem(Protocol):
    """A stream of minibatches and the true values."""

    @property
    def width(self) -> int:
        """Input size d."""

    def batches(self, seeds: Sequence[int], size: int) -> Iterator[TransitionBatch]:
        """Yield minibatches indefinitely, identical for the same seed."""

    def evaluation(self) -> tuple[Tensor, Tensor]:
        """Inputs (N, d) and the true values (N,)."""


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One generator per seed, different from the one that initialised the network."""
    return [torch.Generator().manual_seed(1_000_003 + seed) for seed in seeds]


@dataclass(frozen=True)
class Grid:
    """Gaussian features on a regular grid over the state box.

    phi_u(s) = exp(-sum_k ((s_k - u_k) / d_k)^2) with d_k = sqrt(variance) range_k / side: the
    width is in units of the spacing of the grid. (The thesis gives two other formulas, which
    contradict each other and this one, its code this one, with all features doubled.)
    """

    side: int
    variance: float

    @property
    def width(self) -> int:
        """Number of features, one per node of the grid; the bias belongs to the linear layer."""
        return self.side**2

    def __call__(self, states: Tensor) -> Tensor:
        """Features (..., side^2) of states (..., 2)."""
        low, high = torch.tensor(mountain_car.LOW), torch.tensor(mountain_car.HIGH)
        unit = (states - low) / (high - low) * self.side
        nodes = torch.linspace(0, self.side, self.side, dtype=unit.dtype)
        near = torch.exp(-((unit.unsqueeze(-1) - nodes) ** 2) / self.variance)
        return (near[..., 0, :, None] * near[..., 1, None, :]).flatten(-2)


@dataclass(frozen=True)
class MountainCar:
    """Transitions of the policy from uniform states, independent or consecutive."""

    online: bool = False
    """Consecutive transitions of one car, each used once; a new start after each arrival."""
    grid: Grid | None = None
    """Use features instead of position and velocity."""

    @property
    def width(self) -> int:
        """Position and velocity, or features."""
        return self.grid.width if self.grid else 2

    def batches(self, seeds: Sequence[int], size: int) -> Iterator[TransitionBatch]:
        """Yield minibatches; online they have one transition."""
        if self.online and size != 1:
            raise ValueError(f"an online stream has one transition per step, not {size}")
        draw = self._following(seeds) if self.online else self._independent(seeds, size)
        for states, truth in draw:
            following, arrived = mountain_car.step(states)
            reward = torch.full(arrived.shape, mountain_car.REWARD)
            discount = mountain_car.GAMMA * (~arrived).float()
            yield TransitionBatch(
                self._seen(states), reward, discount, self._seen(following), truth
            )

    def evaluation(self) -> tuple[Tensor, Tensor]:
        """4096 uniform states."""
        states, values = mountain_car.evaluation_states()
        return self._seen(states), values.float()

    def _seen(self, states: Tensor) -> Tensor:
        return self.grid(states.float()) if self.grid else states.float()

    def _independent(
        self, seeds: Sequence[int], size: int
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield uniform states (S, m, 2)."""
        sources = generators(seeds)
        while True:
            drawn = [mountain_car.uniform(BLOCK, size, generator=source) for source in sources]
            for states in torch.stack(drawn, dim=1):
                yield states, None

    def _following(self, seeds: Sequence[int]) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield the states (S, 1, 2) that S cars pass through, with their values (S, 1)."""
        starts = [_starts(source) for source in generators(seeds)]
        first = [next(start) for start in starts]
        states = torch.stack([state for state, _ in first])
        left = torch.stack([count for _, count in first])
        while True:
            yield states[:, None], mountain_car.value_of_steps(left)[:, None].float()
            states, arrived = mountain_car.step(states)
            left = left - 1
            for index in arrived.nonzero().flatten().tolist():
                states[index], left[index] = next(starts[index])


def _starts(source: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield uniform states (2,) and their numbers of steps to the goal, ()."""
    while True:
        states = mountain_car.uniform(64, generator=source)
        yield from zip(states, mountain_car.steps_to_goal(states), strict=True)


@dataclass(frozen=True)
class Sines:
    """Regression to a mixture of sines on [-1, 1] from 10 000 fixed points, eq. 4.37."""

    points: int = 10_000

    @property
    def width(self) -> int:
        """One: the position on the line."""
        return 1

    @staticmethod
    def target(x: Tensor) -> Tensor:
        """y(x)."""
        return (
            0.5 * torch.sin(2.14 * (x + 2))
            + 0.82 * torch.sin(9 * x + 0.4)
            + 0.38 * torch.sin(12 * x)
            + 0.32 * torch.sin(38 * x - 0.1)
        )

    def batches(self, seeds: Sequence[int], size: int) -> Iterator[TransitionBatch]:
        """Yield minibatches of points with the target as reward and a discount of 0."""
        inputs, targets = self.evaluation()
        for index in _indices(seeds, size, len(inputs)):
            x = inputs[index]
            yield TransitionBatch(x, targets[index], torch.zeros(x.shape[:2]), x)

    def evaluation(self) -> tuple[Tensor, Tensor]:
        """The points themselves, as in the published figure: a training error."""
        return _sine_points(self.points)


@functools.cache
def _sine_points(points: int) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(142_857)
    x = torch.rand(points, generator=source, dtype=torch.float64) * 2 - 1
    return x[:, None].float(), Sines.target(x).float()


def _indices(seeds: Sequence[int], size: int, count: int) -> Iterator[Tensor]:
    """Yield indices (S, m) below `count`, drawn with replacement."""
    sources = generators(seeds)
    while True:
        drawn = [torch.randint(count, (BLOCK, size), generator=source) for source in sources]
        yield from torch.stack(drawn, dim=1)


@dataclass(frozen=True)
class Buffer:
    """A fixed buffer of transitions, sampled with replacement."""

    name: str
    """Identifies the buffer in `repr`."""
    transitions: TransitionBatch = field(repr=False)
    """The buffer, as one batch with S = 1, m its size."""
    answer: tuple[Tensor, Tensor] = field(repr=False)
    """Inputs (N, d) and true values (N,)."""

    @property
    def width(self) -> int:
        """Input size of the buffer."""
        return self.transitions.inputs.shape[-1]

    def batches(self, seeds: Sequence[int], size: int) -> Iterator[TransitionBatch]:
        """Yield minibatches."""
        stored = [part[0] for part in self.transitions[:4]]
        for index in _indices(seeds, size, len(stored[1])):
            inputs, reward, discount, following = (part[index] for part in stored)
            yield TransitionBatch(inputs, reward, discount, following)

    def evaluation(self) -> tuple[Tensor, Tensor]:
        """Inputs and true values of the buffer."""
        return self.answer
