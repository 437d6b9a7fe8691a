"""The Logistic Game: two scalar policies, so that the space of all pairs is a plane.

    f₁ = −4 σ(x₁)(1 − 2 σ(x₂)) − h,   f₂ = −4 σ(x₂)(1 − 2 σ(x₁)) − h,
    h = (x₁² x₂² + (x₁ − x₂)² (x₁ + x₂)²) / 10000

There are two stable points, A in the lower left and B in the upper right. Both players prefer B;
from A it is reached together or not at all.

Source: T. Cooijmans, PhD thesis (2024), equation 6.5.1, after A. Letcher (2018). The divisor is
10000: with the 1000 that Letcher prints the stable points would be at ±3.63 instead of ±5.03.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from semigradient.envs.core import Step
from semigradient.envs.games.differentiable import simultaneous_gradient
from semigradient.envs.games.two_player import FixedOpponentEnv
from semigradient.envs.options import Options
from semigradient.envs.pictures import INK, blank, finished, number, paste, write
from semigradient.validate import Count, NonNegative

DIVISOR = 10_000.0
RADIUS = 8.0
"""Initial policies are uniform in [−8, 8]."""


class LogisticGame:
    """The game as `envs.games.differentiable.Game` has it, with one number per policy."""

    parameters = 1
    symmetric = True

    def value(self, x: Tensor) -> Tensor:
        """Returns (…, 2) of policies (…, 2, 1)."""
        x = x.squeeze(-1)
        chosen = torch.sigmoid(x)
        squares = x * x
        first, second = squares.unbind(-1)
        penalty = (first * second + (first - second) ** 2) / DIVISOR
        return -4 * chosen * (1 - 2 * chosen.flip(-1)) - penalty.unsqueeze(-1)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Policies (count, 2, 1), uniform in [−8, 8]."""
        shape = (count, 2, 1)
        drawn = torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)
        return (2 * drawn - 1) * RADIUS

    def features(self, x: Tensor) -> Tensor:
        """Policies in units of ten."""
        return x / 10

    def divergence(self, old: Tensor, new: Tensor) -> Tensor:
        """Half the squared distance: these policies are numbers, not distributions."""
        return (new - old).square().sum(-1) / 2


class LogisticState(NamedTuple):
    """Running pairs of policies."""

    x: Tensor  # (B, 2) float64
    rounds: Tensor  # (B,) int64


class LogisticMetaGame:
    """`semigradient/LogisticGame-v0`: actions are policy updates; each step changes both policies.

    ## Action space
    `Box(-1, 1, (1,), float32)`: what is added to one's own policy.

    ## Observation space
    `Box(-inf, inf, (2,), float32)`: both policies, one's own first.

    ## Rewards
    Each player's return at the new pair of policies.

    ## Starting state
    Uniform in [−8, 8]².

    ## Episode end
    Truncated after `horizon` (200) updates.

    ## Opponents
    `opponent`: naive (default), which follows its own gradient with step size `lr`, or still.

    ## Version history
    v0: first version.
    """

    state_type: Any = LogisticState
    players = ("first", "second")

    def __init__(self, horizon: int = 200, device: str | torch.device = "cpu") -> None:
        self.game, self.horizon, self.device = LogisticGame(), horizon, torch.device(device)
        self.single_observation_space: spaces.Box = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.single_action_space: spaces.Space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.protocol: dict[str, Any] = {"horizon": horizon}

    def reset(
        self, n: int, generator: torch.Generator | None = None, **options: Any
    ) -> LogisticState:
        """`n` pairs; `x`: (2,) or (n, 2) places them."""
        if "x" in options:
            x = torch.as_tensor(options["x"], dtype=torch.float64, device=self.device)
            x = x.expand(n, 2).clone()
        else:
            x = self.game.draw(n, generator or torch.Generator(self.device)).squeeze(-1)
        return LogisticState(x, torch.zeros(n, dtype=torch.int64, device=self.device))

    def step(
        self, state: LogisticState, actions: Tensor, generator: torch.Generator | None = None
    ) -> Step:
        """Both change their policies, by (B, 2, 1)."""
        x = state.x + actions.squeeze(-1).clamp(-1, 1).double()
        rounds = state.rounds + 1
        never = torch.zeros_like(rounds, dtype=torch.bool)
        return Step(
            LogisticState(x, rounds),
            self.game.value(x.unsqueeze(-1)),
            never,
            rounds >= self.horizon,
        )

    def observe(self, state: LogisticState) -> Tensor:
        """(B, 2, 2) float32, each with its own policy first."""
        return torch.stack((state.x, state.x.flip(-1)), 1).float()

    def info(self, state: LogisticState) -> dict[str, Tensor]:
        """Updates made."""
        return {"rounds": state.rounds}

    def render(self, state: LogisticState) -> list[np.ndarray]:
        """The plane [−10, 10]²: both players' returns as colours, and where the pair is."""
        axis = torch.linspace(-10, 10, 100, dtype=torch.float64)
        grid = torch.stack(torch.meshgrid(axis, axis.flip(0), indexing="xy"), -1)
        colour = (self.game.value(grid.unsqueeze(-1)).numpy() + 4) / 8
        picture = np.stack((colour[..., 0], colour.mean(-1), colour[..., 1]), -1)
        picture = (picture.clip(0, 1) * 255).astype(np.uint8)
        return [_frame(picture, *pair) for pair in state.x.tolist()]


def _frame(picture: np.ndarray, first: float, second: float) -> np.ndarray:
    """The plane (100, 100, 3) with the pair of policies on it, and axes: (368, 368, 3)."""
    left, top, side = 44, 10, 300
    canvas, draw = blank(368, 368)
    paste(canvas, picture.repeat(3, 0).repeat(3, 1), left, top)
    for share, value in ((0, -10), (0.25, -5), (0.5, 0), (0.75, 5), (1, 10)):
        across, up = left + share * side, top + (1 - share) * side
        draw.line((across, top + side, across, top + side + 4), fill=INK)
        draw.line((left - 4, up, left, up), fill=INK)
        write(draw, (across, top + side + 6), number(value), size=11, anchor="ma")
        write(draw, (left - 7, up), number(value), size=11, anchor="rm")
    across, up = ((min(max(value, -10), 10) + 10) / 20 for value in (first, second))
    x, y = left + across * side, top + (1 - up) * side
    draw.ellipse((x - 6, y - 6, x + 6, y + 6), fill=(255, 255, 255), outline=INK, width=2)
    words = f"first player (across) {first:.2f}, second (up) {second:.2f}"
    write(draw, (left + side / 2, top + side + 26), words, size=12, anchor="ma")
    return finished(canvas)


class _Naive:
    """Follows its own gradient."""

    width = 0

    def __init__(self, game: LogisticGame, lr: float) -> None:
        self.game, self.lr = game, lr

    def act(
        self, state: LogisticState, seat: int, memory: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        gradient = simultaneous_gradient(self.game, state.x.unsqueeze(-1))[:, seat]
        return self.lr * gradient, memory


@dataclass(frozen=True)
class LogisticOptions(Options):
    """Options of the logistic game."""

    NEEDS: ClassVar = {"lr": ("opponent", ("naive",))}

    opponent: Literal["naive", "still"] = "naive"
    """Second player: follows its own gradient (naive), or never moves (still)."""
    lr: NonNegative = 1.0
    """Learning rate of the naive opponent."""
    horizon: Count = 200
    """Updates of an episode."""

    def make(self, device: str = "cpu") -> FixedOpponentEnv:
        """The core of `semigradient/LogisticGame-v0`."""
        core = LogisticMetaGame(self.horizon, device)
        player = _Naive(core.game, self.lr if self.opponent == "naive" else 0.0)
        env = FixedOpponentEnv(core, player)
        env.protocol = {"opponent": self.opponent, **env.protocol}
        return env
