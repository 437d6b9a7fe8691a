"""Scripted players of the coin game, and the exact values of games between them.

A memoryless player is a table of probabilities (cells, cells, cells, 2, 4): own cell, the
other's, the coin's, whether the coin is the other's, action. With such a table for the opponent
the game is a decision process of 2 · size⁶ states, so expected returns and best responses follow
from dynamic programming: the reference for learned and searching players.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from semigradient.envs.games.coin_game import MOVES, CoinGame, CoinGameState
from semigradient.errors import require, unknown

NAMES = ("always-cooperate", "always-cooperate-far", "always-defect", "random")


class Scripted:
    """A player by its table of probabilities."""

    width = 0

    def __init__(self, game: CoinGame, probabilities: Tensor) -> None:
        self.game, self.probabilities = game, probabilities
        self._cumulative = probabilities.flatten(0, 3).cumsum(1)[:, :-1].float().to(game.device)

    def act(
        self, state: CoinGameState, seat: int, memory: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Draw from the table; there is no memory."""
        own, other = state.cells[:, seat], state.cells[:, 1 - seat]
        row = ((own * self.game.count + other) * self.game.count + state.coin) * 2
        bounds = self._cumulative.index_select(0, row + (state.owner != seat))
        drawn = torch.rand(len(own), 1, generator=generator, device=own.device)
        return (drawn >= bounds).sum(1), memory


def scripted(game: CoinGame, name: str) -> Scripted:
    """A scripted player by name.

    always-defect takes the shortest way to every coin, rows first. always-cooperate does so with
    its own coins and steps the opposite way from the other's; always-cooperate-far then goes
    where the coin is furthest, ties at random. random is uniform.
    """
    if name not in NAMES:
        unknown("opponent", name, NAMES)
    probabilities = torch.full(
        (game.count,) * 3 + (2, len(MOVES)), 1 / len(MOVES), dtype=torch.float64
    )
    if name != "random":
        towards, away, far = (table[:, None] for table in _ways(game))
        probabilities[..., 0, :] = towards
        probabilities[..., 1, :] = {"defect": towards, "cooperate": away, "far": far}[
            name.removeprefix("always-").split("-")[-1]
        ]
    return Scripted(game, probabilities)


def _ways(game: CoinGame) -> tuple[Tensor, Tensor, Tensor]:
    """Ways to a coin, opposite to that, and furthest from it: (cells, cells, 4) probabilities."""
    size = game.size
    row, column = torch.arange(game.count) // size, torch.arange(game.count) % size
    down = (row[None] - row[:, None]) % size  # from the player (first) to the coin (second)
    right = (column[None] - column[:, None]) % size
    upright = torch.where(down <= size // 2, 2, 3)
    level = torch.where(right <= size // 2, 0, 1)
    towards = torch.where(down > 0, upright, level)
    away = towards ^ 1  # neighbours in `MOVES` are opposites
    shift = torch.tensor(MOVES)
    left_over = [(gap[..., None] - shift[:, axis]) % size for axis, gap in ((0, down), (1, right))]
    distance = sum(torch.minimum(gap, size - gap) for gap in left_over)
    assert isinstance(distance, Tensor)
    best = (distance == distance.amax(-1, keepdim=True)).double()
    sure = torch.eye(len(MOVES), dtype=torch.float64)
    return sure[towards], sure[away], best / best.sum(-1, keepdim=True)


class Answer(NamedTuple):
    """Values of a game from its random start."""

    values: Tensor  # (2,) float64: expected returns of the two
    policy: Tensor | None  # (horizon, cells, cells, cells, 2) int64: best actions, or none


class Oracle:
    """Dynamic programming over all states of the game, seen by the first player.

    Args:
        game: the rules; a board of 3×3 has 1,458 states, one of 5×5 31,250.
    """

    def __init__(self, game: CoinGame) -> None:
        require(game.size <= 5, f"size={game.size}: must be ≤ 5 for dynamic programming")
        self.game = game
        self.shape = (game.count,) * 3 + (2,)
        own, other, coin, owner = torch.cartesian_prod(
            *(torch.arange(size) for size in self.shape)
        ).unbind(1)
        zeros = torch.zeros_like(torch.stack((own, other), 1))
        every = CoinGameState(
            torch.stack((own, other), 1), coin, owner, zeros[:, 0], zeros, zeros.double()
        )
        joint = torch.cartesian_prod(torch.arange(4), torch.arange(4))
        random = torch.Generator().manual_seed(0)  # decides only where coins reappear
        steps = [game.step(every, pair.expand(len(own), 2), random) for pair in joint]
        self.reward = torch.stack([step.reward for step in steps], 1)  # (S, 16, 2)
        self._taken = torch.stack([(step.state.picked > 0).any(1) for step in steps], 1)
        cells = torch.stack([step.state.cells for step in steps], 1)
        self._pair = cells[..., 0] * game.count + cells[..., 1]  # (S, 16)
        same = torch.stack([step.state.coin * 2 + step.state.owner for step in steps], 1)
        self._kept = self._pair * 2 * game.count + same
        self._other_colour = 1 - owner[:, None]
        first, second = torch.cartesian_prod(*[torch.arange(game.count)] * 2).unbind(1)
        cell = torch.arange(game.count)
        free = ((cell != first[:, None]) & (cell != second[:, None])).double()
        self._free = free / free.sum(1, keepdim=True)  # (cells², cells)

    def pair(self, first: Scripted, second: Scripted, discount: float = 1.0) -> Answer:
        """Expected returns of two scripted players."""
        probabilities = self._own(first)[:, :, None] * self._others(second)[:, None]
        value = torch.zeros(len(probabilities), 2, dtype=torch.float64)
        for _ in range(self.game.horizon):
            value = (probabilities.flatten(1)[..., None] * self._ahead(value, discount)).sum(1)
        return Answer(self._start(value), None)

    def best_response(self, opponent: Scripted, discount: float = 1.0) -> Answer:
        """The first player's best response, and what both get."""
        probabilities = self._others(opponent)[:, None, :, None]
        value = torch.zeros(len(probabilities), 2, dtype=torch.float64)
        policy = []
        for _ in range(self.game.horizon):
            ahead = self._ahead(value, discount).view(-1, 4, 4, 2)
            expected = (probabilities * ahead).sum(2)
            best = expected[..., 0].argmax(1)
            value = expected[torch.arange(len(best)), best]
            policy.append(best.view(self.shape))
        return Answer(self._start(value), torch.stack(policy[::-1]))

    def most_welfare(self, discount: float = 1.0) -> float:
        """Largest sum of both returns under one control."""
        value = torch.zeros(len(self.reward), 2, dtype=torch.float64)
        for _ in range(self.game.horizon):
            ahead = self._ahead(value, discount)
            value = ahead[torch.arange(len(ahead)), ahead.sum(2).argmax(1)]
        return float(self._start(value).sum())

    def _ahead(self, value: Tensor, discount: float) -> Tensor:
        """Reward and discounted value (S, 16, 2) after each pair of actions."""
        by_coin = value.view(self.game.count**2, self.game.count, 2, 2)
        drawn = torch.einsum("pc,pcoi->poi", self._free, by_coin)
        renewed = drawn[self._pair, self._other_colour.expand_as(self._pair)]
        after = torch.where(self._taken[..., None], renewed, value[self._kept])
        return self.reward + discount * after

    def _start(self, value: Tensor) -> Tensor:
        """Mean over the random start."""
        by_coin = value.view(self.game.count**2, self.game.count, 2, 2)
        return torch.einsum("pc,pcoi->i", self._free, by_coin) / (2 * self.game.count**2)

    def _own(self, player: Scripted) -> Tensor:
        return player.probabilities.flatten(0, 3)

    def _others(self, player: Scripted) -> Tensor:
        """The same table, read by states as the first player sees them: (S, 4)."""
        return player.probabilities.flip(3).transpose(0, 1).reshape(-1, len(MOVES))
