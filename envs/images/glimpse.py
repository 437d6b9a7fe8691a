"""Classify an image that is seen through a moving window (Bengio 2022, section 3.2.2.2).

An image classification data set becomes an episodic, deterministic, partially observed decision
process, so that reinforcement and supervised learning can be compared on the same training and
test images. The index of an image takes the place of a random seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from semigradient.envs.core import Step
from semigradient.envs.images.datasets import ImageOptions
from semigradient.errors import require
from semigradient.validate import Count, Natural

ActionMode = Literal["factored", "flat"]
_MOVES = 4
_STAY = 4  # a fifth column of the table of moves


@dataclass(frozen=True)
class GlimpseOptions(ImageOptions):
    """Options of a glimpse environment."""

    window: Natural = 0
    """Pixels per side, an even number; 0: a quarter of the image's height (8 of 32)."""
    max_steps: Count = 20
    """Steps after which an episode is cut off."""
    correct_reward: float = 1.0
    """Reward of the right guess."""
    step_penalty: float = 0.1
    """Penalty of everything else."""
    action_mode: ActionMode = "factored"
    """Guess and move in every step (factored), or one of them (flat)."""

    def check(self) -> None:
        """The window has a middle."""
        require(self.window % 2 == 0, f"window={self.window}: must be even")

    def make(self, device: str = "cpu") -> Glimpse:
        """The environment on the data set."""
        core = Glimpse(*self.images(), self, device=device)
        core.protocol = {"dataset": self.dataset, "split": self.split, **core.protocol}
        return core


class GlimpseState(NamedTuple):
    """Running episodes; only `image` and the visited cells decide the observation."""

    image: Tensor  # (B,) int64: which one
    cell: Tensor  # (B,) int64: where the window is, among all reachable places
    revealed: Tensor  # (B, H·W) uint8: 255 where the image has been seen
    steps: Tensor  # (B,) int64
    guess: Tensor  # (B,) int64: the latest guess, -1 for none


class Glimpse:
    """`semigradient/Glimpse-v0`: look around, guess the class.

    ## Action space
    With `action_mode="factored"` (the default) `MultiDiscrete([10, 4])`: every step is a guess of
    the class and a move of the window. With `"flat"` `Discrete(14)`: a step is a guess (0 to 9,
    the window stays) or a move (10 to 13, no guess). The moves are up, down, left and right by
    the window's width; the window's centre stays inside the image, and the part of the window
    that is outside is cut off. The published description allows both interpretations; its network,
    with 10 + 4 outputs, serves either.

    ## Observation space
    `Box(0, 255, (1 + C, H, W), uint8)`: first the current window (255 inside, 0 outside), then
    the image's C channels where they have been revealed, 0 elsewhere. Divided by 255, as the
    networks here do, these are the published observations in [0, 1].

    ## Rewards
    `correct_reward` (1) for the right guess; `-step_penalty` (-0.1) for a wrong guess, and for a
    move in the flat mode.

    ## Starting state
    An image uniformly at random from the pool, or `options={"index": i}`; the window in the
    middle, around (row H/2, column W/2), its content revealed.

    ## Episode end
    Terminated by the right guess, truncated after `max_steps` (20) steps.

    ## Information
    `index` and `label` of the image, `correct` (the guess just made was right), `position` (row,
    column of the window's centre), `visible_fraction` of the image.

    ## Arguments
    Those of `GlimpseOptions`. Directly: images (N, C, H, W) uint8, labels (N,) int64, options
    (those of the data are ignored) and `pool` (P,), the indices that episodes are drawn from
    (default: all).

    ## Version history
    v0: first version.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        options: GlimpseOptions | None = None,
        pool: Tensor | None = None,
        classes: int = 10,
        device: str | torch.device = "cpu",
    ) -> None:
        require(images.dim() == 4 and images.dtype == torch.uint8, "images: (N, C, H, W) uint8")
        require(len(labels) == len(images) > 0, "labels: as many as images, at least one")
        options = GlimpseOptions() if options is None else options
        inside = bool(((labels >= 0) & (labels < classes)).all())
        require(inside, f"labels: must be in [0, {classes})")
        self.device = torch.device(device)
        self.labels = labels.to(self.device)
        self._canvases = _with_window_channel(images).to(self.device)
        everything = torch.arange(len(images))
        self.pool = (everything if pool is None else pool).to(self.device)
        self.max_steps, self.classes = options.max_steps, classes
        self.action_mode = options.action_mode
        rewards = [-options.step_penalty, options.correct_reward]
        self._rewards = torch.tensor(rewards, dtype=torch.float64, device=self.device)
        _, channels, self.height, self.width = images.shape
        window = options.window or self.height // 4
        self.single_observation_space = spaces.Box(
            0, 255, (1 + channels, self.height, self.width), np.uint8
        )
        self.single_action_space: spaces.Space = spaces.Discrete(classes + _MOVES)
        if self.action_mode == "factored":
            self.single_action_space = spaces.MultiDiscrete([classes, _MOVES])
        self.protocol: dict[str, Any] = {
            "images": len(self.pool),
            "action_mode": self.action_mode,
            "window": window,
            "max_steps": self.max_steps,
            "step_penalty": options.step_penalty,
        }
        self._lay_out(window)

    def reset(
        self,
        n: int,
        generator: torch.Generator | None = None,
        index: int | list[int] | Tensor | None = None,
    ) -> GlimpseState:
        """Begin `n` episodes, on random images of the pool or on those that `index` names."""
        if index is None:
            draw = torch.randint(len(self.pool), (n,), generator=generator, device=self.device)
            image = self.pool[draw]
        else:
            image = torch.as_tensor(index, dtype=torch.int64, device=self.device).expand(n).clone()
            is_valid = bool(((image >= 0) & (image < len(self.labels))).all())
            require(is_valid, f"index={index}: must be in [0, {len(self.labels)})")
        cell = torch.full((n,), self._start, device=self.device)
        return GlimpseState(
            image,
            cell,
            self._windows.index_select(0, cell),
            torch.zeros_like(cell),
            torch.full_like(cell, -1),
        )

    def step(
        self, state: GlimpseState, actions: Tensor, generator: torch.Generator | None = None
    ) -> Step:
        """Guess, then move, then reveal. Actions are (B, 2) when factored, (B,) when flat."""
        guess, move = self._read(actions)
        correct = guess == self.labels[state.image]
        steps = state.steps + 1
        cell = self._moves[state.cell, move]
        revealed = state.revealed | self._windows.index_select(0, cell)
        reward = self._rewards[correct.long()]
        truncated = (steps >= self.max_steps) & ~correct
        return Step(
            GlimpseState(state.image, cell, revealed, steps, guess), reward, correct, truncated
        )

    def observe(self, state: GlimpseState) -> Tensor:
        """(B, 1 + C, H, W) uint8."""
        # One copy of whole rows, with room for the window, then masks in place.
        obs = self._canvases.index_select(0, state.image)
        obs[:, 1:] &= state.revealed[:, None]
        obs[:, 0] = self._windows.index_select(0, state.cell)
        return obs.view(-1, *self.single_observation_space.shape)

    def info(self, state: GlimpseState) -> dict[str, Tensor]:
        """Index, label, correct, position (B, 2) and visible fraction."""
        label = self.labels[state.image]
        # As a signed byte 255 is -1, which sums quickly.
        seen = -state.revealed.view(torch.int8).sum(1, dtype=torch.int32)
        return {
            "index": state.image,
            "label": label,
            "correct": state.guess == label,
            "position": self._centres[state.cell],
            "visible_fraction": seen / (self.height * self.width),
        }

    def render(self, state: GlimpseState) -> list[np.ndarray]:
        """Each episode: what has been revealed, the window's outline, the guess in words."""
        from semigradient.envs.images.glimpse_rendering import frame

        obs, info = self.observe(state).cpu().numpy(), self.info(state)
        rows = zip(state.guess.tolist(), info["label"].tolist(), state.steps.tolist(), strict=True)
        revealed = state.revealed.view(-1, self.height, self.width).cpu().numpy() > 0
        return [
            frame(image[1:], image[0] > 0, seen, guess, label, step, self.max_steps)
            for image, seen, (guess, label, step) in zip(obs, revealed, rows, strict=True)
        ]

    def _read(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Guesses (-1 for none) and moves (4 for none), (B,) each."""
        if self.action_mode == "factored":
            return actions[:, 0], actions[:, 1]
        guessing = actions < self.classes
        return (
            torch.where(guessing, actions, -1),
            torch.where(guessing, _STAY, actions - self.classes),
        )

    def _lay_out(self, window: int) -> None:
        """Number the places the window can reach; tabulate where moves lead and what is seen."""
        rows, columns = (_places(size, window) for size in (self.height, self.width))
        count = len(columns)
        centres = torch.tensor([(row, column) for row in rows for column in columns])
        place = {tuple(centre): cell for cell, centre in enumerate(centres.tolist())}
        self._start = place[(self.height // 2, self.width // 2)]
        last = torch.tensor([self.height, self.width]) - 1
        steps = torch.tensor([(-window, 0), (window, 0), (0, -window), (0, window), (0, 0)])
        moved = (centres[:, None] + steps).clamp(min=torch.zeros(2, dtype=torch.int64), max=last)
        moves = [[place[tuple(centre)] for centre in row] for row in moved.tolist()]
        seen_rows, seen_columns = (
            _seen(places, size, window)
            for places, size in ((rows, self.height), (columns, self.width))
        )
        cells = torch.arange(len(centres))
        windows = seen_rows[cells // count][:, :, None] & seen_columns[cells % count][:, None, :]
        self._centres = centres.to(self.device)
        self._moves = torch.tensor(moves).to(self.device)
        self._windows = windows.flatten(1).to(self.device)


@lru_cache(maxsize=8)
def _with_window_channel(images: Tensor) -> Tensor:
    """(N, 1 + C, H·W): images behind an empty channel; environments on one data set share them."""
    return F.pad(images.flatten(2), (0, 0, 1, 0))


def _places(size: int, window: int) -> list[int]:
    """Centres that moves by `window`, clipped to the image, reach from the middle of an axis."""
    reached, new = set[int](), {size // 2}
    while new:
        reached |= new
        steps = {
            min(max(centre + move, 0), size - 1) for centre in new for move in (-window, window)
        }
        new = steps - reached
    return sorted(reached)


def _seen(places: list[int], size: int, window: int) -> Tensor:
    """(places, size) uint8: 255 where a window around each place covers the axis."""
    distance = torch.arange(size) - torch.tensor(places)[:, None]
    return ((distance >= -(window // 2)) & (distance < window // 2)).to(torch.uint8) * 255
