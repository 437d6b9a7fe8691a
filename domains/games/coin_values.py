"""Exact values of the coin game between players who remember who took the last coins.

The game does not depend on where on the torus it is played. Seen by one player, a state is where
the other is and where the coin is, both relative to the own cell; whose coin it is; and two
memories: whether the other took the player's last coin, and whether the player took the other's
last one. That is 8 · size⁴ states, 648 on the board of 3×3, so returns against any policy, and
those of best responses, are dynamic programming, and differentiable.

Source of the game and of best responses to it: T. Cooijmans, PhD thesis 2023, sections 5.4, 5.5.2.
Without memory nobody can retaliate: the two bits are the smallest that suffices.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from semigradient.envs.games.coin_game import MOVES, CoinGameState
from semigradient.envs.games.coin_players import Scripted
from semigradient.errors import require

ACTIONS = len(MOVES)
MEMORIES = 4  # 2 · (the other took my last coin) + (I took the other's last coin)


class Values(NamedTuple):
    """Expected returns of both players."""

    start: Tensor  # (2,) from the random start, the first player's first
    states: Tensor  # (S, 2) with the whole horizon ahead


class CoinValues:
    """Backups over all S = 8 · size⁴ states as the first player sees them.

    A policy is a tensor (S, 4) of probabilities, by the states of the player's own view.

    Args:
        size: cells per side of the board.
        dtype: of all values.
    """

    def __init__(self, size: int = 3, dtype: torch.dtype = torch.float64) -> None:
        require(3 <= size <= 5, f"size={size}: must be in [3, 5] for dynamic programming")
        self.size, self.cells, self.dtype = size, size * size, dtype
        self.shape = (self.cells, self.cells, 2, MEMORIES)
        self.states = self.cells * self.cells * 2 * MEMORIES
        other, coin, owner, memory = self.parts(torch.arange(self.states))
        self.mirror = self.number(
            self._minus(0, other), self._minus(coin, other), 1 - owner, _swapped(memory)
        )
        self._transitions(other, coin, owner, memory)
        cell = torch.arange(self.cells)
        free = ((cell != 0) & (cell != cell[:, None])).to(dtype)
        self._free = free / free.sum(1, keepdim=True)  # (other, coin)

    def number(self, other: Tensor, coin: Tensor, owner: Tensor, memory: Tensor) -> Tensor:
        """Numbers of states: relative cells, 0 for the own coin or 1, memories."""
        return ((other * self.cells + coin) * 2 + owner) * MEMORIES + memory

    def parts(self, states: Tensor) -> tuple[Tensor, ...]:
        """The reverse of `number`."""
        rest, memory = states // MEMORIES, states % MEMORIES
        rest, owner = rest // 2, rest % 2
        return rest // self.cells, rest % self.cells, owner, memory

    def seen(self, state: CoinGameState, seat: int, memory: Tensor) -> Tensor:
        """Numbers (B,) of running games as one player sees them, with its memories (B,)."""
        own, other = state.cells[:, seat], state.cells[:, 1 - seat]
        owner = (state.owner != seat).long()
        return self.seen_from(own, other, state.coin, owner, memory)

    def seen_from(
        self, own: Tensor, other: Tensor, coin: Tensor, owner: Tensor, memory: Tensor
    ) -> Tensor:
        """Numbers (B,) of games by cells on the board, each (B,)."""
        return self.number(self._minus(other, own), self._minus(coin, own), owner, memory)

    def policy(self, player: Scripted) -> Tensor:
        """A scripted player's probabilities (S, 4), which no memory changes."""
        other, coin, owner, _ = self.parts(torch.arange(self.states))
        return player.probabilities[torch.zeros_like(other), other, coin, owner]

    def pair(self, first: Tensor, second: Tensor, horizon: int, discount: float = 1.0) -> Values:
        """Returns of two policies (S, 4), each by its own view; differentiable."""
        joint = (first[:, :, None] * second[self.mirror][:, None]).flatten(1)
        value = first.new_zeros(self.states, 2)
        for _ in range(horizon):
            value = torch.einsum("sj,sjk->sk", joint, self.ahead(value, discount))
        return Values(self.mean(value), value)

    def best_response(
        self, agent: Tensor, horizon: int, discount: float = 1.0, temperature: float = 0.0
    ) -> Values:
        """Returns of an agent (S, 4), the first, and of the best response to it; differentiable.

        The reply with k steps to go is softmax(Q_k / temperature) of the second player's own
        action values against the agent, k = 1, …, horizon; temperature 0 is the best reply, with
        ties shared.
        """
        value = agent.new_zeros(self.states, 2)
        for _ in range(horizon):
            ahead = self.ahead(value, discount).unflatten(1, (ACTIONS, ACTIONS))
            expected = torch.einsum("sa,sabk->sbk", agent, ahead)
            reply = _reply(expected[..., 1], temperature)
            value = torch.einsum("sb,sbk->sk", reply, expected)
        return Values(self.mean(value), value)

    def ahead(self, value: Tensor, discount: float) -> Tensor:
        """Reward and discounted value (S, 16, 2) after each pair of actions, the first's first."""
        drawn = torch.einsum("oc,ocnk->onk", self._free, value.view(*self.shape[:2], -1, 2))
        later = torch.cat((value, drawn.flatten(0, 1)))
        return self._reward + discount * later[self._next]

    def mean(self, value: Tensor) -> Tensor:
        """(2,): over the random start, when nobody remembers anything."""
        fresh = value.view(*self.shape, 2)[..., 0, :]
        # Players anywhere, the coin on a free cell, its colour by a fair toss.
        return torch.einsum("oc,ocwk->k", self._free, fresh) / (2 * self.cells)

    def _transitions(self, other: Tensor, coin: Tensor, owner: Tensor, memory: Tensor) -> None:
        """`_reward` (S, 16, 2), and `_next` (S, 16): states, then (other, owner, memory) drawn."""
        step = torch.tensor(
            [down % self.size * self.size + right % self.size for down, right in MOVES]
        )
        first, second = (moves.flatten() for moves in torch.meshgrid(step, step, indexing="ij"))
        other, coin, owner, memory = (part[:, None] for part in (other, coin, owner, memory))
        later = self._minus(self._plus(other, second), first)
        left = self._minus(coin, first)
        own_takes, other_takes = left == 0, left == later
        is_mine = owner == 0
        reward = (
            own_takes.double() - 2 * (other_takes & is_mine),
            other_takes.double() - 2 * (own_takes & ~is_mine),
        )
        self._reward = torch.stack(reward, -1).to(self.dtype)
        taken = own_takes | other_takes
        remembered = torch.where(
            is_mine, 2 * other_takes.long() + memory % 2, memory // 2 * 2 + own_takes.long()
        )
        kept = self.number(later, left, owner, memory)
        fresh = (later * 2 + (1 - owner)) * MEMORIES + remembered
        self._next = torch.where(taken, self.states + fresh, kept)

    def _plus(self, one: Tensor, other: Tensor) -> Tensor:
        return self._combine(one, other, 1)

    def _minus(self, one: Tensor | int, other: Tensor) -> Tensor:
        return self._combine(torch.as_tensor(one), other, -1)

    def _combine(self, one: Tensor, other: Tensor, sign: int) -> Tensor:
        """Sum or difference of cells on the torus."""
        size = self.size
        row = (one // size + sign * (other // size)) % size
        return row * size + (one % size + sign * (other % size)) % size


def _swapped(memory: Tensor) -> Tensor:
    """The same memories from the other's view."""
    return memory % 2 * 2 + memory // 2


def _reply(values: Tensor, temperature: float) -> Tensor:
    """Probabilities (S, 4) of a reply with these values."""
    if temperature > 0:
        return (values / temperature).softmax(1)
    best = (values >= values.amax(1, keepdim=True) - 1e-12).to(values.dtype)
    return best / best.sum(1, keepdim=True)
