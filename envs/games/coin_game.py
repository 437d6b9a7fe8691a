"""The coin game: two players on a torus, one coin, and a penalty for whose coin is taken.

Rules as in the implementation that T. Cooijmans' thesis (chapter 5, 5.A.2) says it follows exactly,
that of S. Zhao et al. 2022 (POLA); observations are from each player's own view, which self-play
needs. The game is of A. Lerer and A. Peysakhovich 2017.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from semigradient.envs.core import Step
from semigradient.envs.games.coin_rendering import frame
from semigradient.validate import Count, conform, within

MOVES = ((0, 1), (0, -1), (1, 0), (-1, 0))
"""Right, left, down, up, as (rows, columns)."""


Size = Annotated[int, within(3, 32)]
"""Cells per side."""


class CoinGameState(NamedTuple):
    """Running games. Cells are numbered row by row, players 0 (red) and 1 (blue)."""

    cells: Tensor  # (B, 2) int64: where the players are
    coin: Tensor  # (B,) int64: where the coin is
    owner: Tensor  # (B,) int64: whose coin it is
    steps: Tensor  # (B,) int64
    picked: Tensor  # (B, 2) int64: in the last step 0 nothing, 1 the own coin, 2 the other's
    score: Tensor  # (B, 2) float64: rewards so far


class CoinGame:
    """`semigradient/CoinGame-v0`: take your coins, leave the other's.

    ## Action space
    `Discrete(4)` for each player: right, left, down, up. The board is a torus; nobody can stay,
    and both may stand on one cell.

    ## Observation space
    `Box(0, 1, (4 · size²,), float32)`: four flattened boards with ones at the own place, the
    other's place, the coin if it is one's own, the coin if it is the other's.

    ## Rewards
    Players move at once; whoever then stands on the coin gets +1, both of them if both do. If the
    other player stands on your coin, you get -2 (and still your +1 if you stand there too).

    ## Starting state
    Players on random cells, which may be the same, the coin on a random free cell, its colour by
    a fair toss. A taken coin reappears in the other colour, on a cell drawn uniformly from those
    that no player stands on after the move.

    ## Episode end
    Truncated after `horizon` (50) steps.

    ## Information
    `cells` (2,), `coin`, `owner`, `picked` (2,) in the last step (0 nothing, 1 the own coin, 2
    the other's), `score` (2,), players in the order red, blue.

    ## Arguments
    Those of `envs.games.coin_versus.CoinGameOptions`.

    ## Version history
    v0: first version.
    """

    state_type: Any = CoinGameState
    players = ("red", "blue")

    def __init__(
        self, size: int = 3, horizon: int = 50, device: str | torch.device = "cpu"
    ) -> None:
        self.size, self.horizon = conform("size", size, Size), conform("horizon", horizon, Count)
        self.count = size * size
        self.device = torch.device(device)
        self.single_observation_space: spaces.Box = spaces.Box(0, 1, (4 * self.count,), np.float32)
        self.single_action_space: spaces.Space = spaces.Discrete(len(MOVES))
        self.protocol: dict[str, Any] = {"size": size, "horizon": horizon}
        row, column = np.divmod(np.arange(self.count), size)
        ways = [(row + down) % size * size + (column + right) % size for down, right in MOVES]
        self._moves = torch.as_tensor(np.stack(ways, 1).ravel(), device=self.device)

    def reset(
        self, n: int, generator: torch.Generator | None = None, **options: Any
    ) -> CoinGameState:
        """`n` fresh games."""
        cells = torch.randint(self.count, (n, 2), generator=generator, device=self.device)
        owner = torch.randint(2, (n,), generator=generator, device=self.device)
        blank = torch.zeros_like(cells)
        return CoinGameState(
            cells,
            self._free(cells, generator),
            owner,
            torch.zeros_like(owner),
            blank,
            blank.double(),
        )

    def step(
        self,
        state: CoinGameState,
        actions: Tensor,
        generator: torch.Generator | None = None,
        uniform: Tensor | None = None,
    ) -> Step:
        """Both move (B, 2), coins are rewarded and replaced; rewards (B, 2).

        `uniform` (B,) in [0, 1), drawn if not given, decides where a taken coin reappears.
        """
        cells = self._moves.take(state.cells * len(MOVES) + actions)
        # By columns, because operations along an axis of two are slow.
        red, blue = ((column == state.coin).long() for column in cells.unbind(1))
        picked = torch.stack((red << state.owner, blue << 1 - state.owner), 1)
        reward = torch.stack((red - (picked[:, 1] & 2), blue - (picked[:, 0] & 2)), 1).double()
        is_taken = red | blue
        coin = torch.where(is_taken > 0, self._free(cells, generator, uniform), state.coin)
        steps = state.steps + 1
        truncated = steps >= self.horizon
        after = CoinGameState(
            cells, coin, state.owner ^ is_taken, steps, picked, state.score + reward
        )
        return Step(after, reward, torch.zeros_like(truncated), truncated)

    def observe(self, state: CoinGameState) -> Tensor:
        """(B, 2, 4 · size²) float32, each from its player's own view."""
        (red, blue), n = state.cells.unbind(1), self.count
        mine = 2 * n + state.coin + n * state.owner  # its place among the channels of red
        yours = 5 * n + 2 * state.coin - mine
        ones = torch.stack((red, n + blue, mine, 4 * n + blue, 5 * n + red, 4 * n + yours), 1)
        width = 8 * n
        ones += torch.arange(0, len(ones) * width, width, device=self.device)[:, None]
        obs = torch.zeros(len(ones), 2, width // 2, device=self.device)
        obs.view(-1).index_fill_(0, ones.view(-1), 1.0)
        return obs

    def info(self, state: CoinGameState) -> dict[str, Tensor]:
        """Everything but the number of steps."""
        return {name: value for name, value in state._asdict().items() if name != "steps"}

    def render(self, state: CoinGameState) -> list[np.ndarray]:
        """The board, and a caption of the last step."""
        rows = zip(*(field.tolist() for field in state), strict=True)
        return [frame(self.size, self.horizon, *row) for row in rows]

    def _free(
        self, cells: Tensor, generator: torch.Generator | None, uniform: Tensor | None = None
    ) -> Tensor:
        """A cell (B,) drawn uniformly from those where no player of (B, 2) is."""
        red, blue = cells.unbind(1)
        low, high = torch.minimum(red, blue), torch.maximum(red, blue)
        apart = (high != low).long()
        free = self.count - 1 - apart
        if uniform is None:
            uniform = torch.rand(len(cells), generator=generator, device=self.device)
        cell = (uniform * free).long()  # below `free`: a float32 in [0, 1) times at most 1023
        cell += cell >= low
        return cell + (cell >= high) * apart
