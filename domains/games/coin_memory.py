"""Players of the coin game that remember who took the last coin of each colour."""

from __future__ import annotations

import torch
from torch import Tensor

from semigradient.domains.games.coin_values import CoinValues
from semigradient.envs.games.coin_game import CoinGame, CoinGameState


def remember(memory: Tensor, picked: Tensor, seat: int) -> Tensor:
    """Memories (B,) of one player after a step.

    Args:
        memory: (B,) int64 before, 2 · (the other took my last coin) + (I took the other's last).
        picked: (B, 2) as in `envs.games.coin_game.CoinGameState`: 1 the own coin, 2 the other's.
        seat: the player's.
    """
    own, other = picked[:, seat], picked[:, 1 - seat]
    robbed = torch.where(other == 2, 1, torch.where(own == 1, 0, memory // 2))
    robber = torch.where(own == 2, 1, torch.where(other == 1, 0, memory % 2))
    return 2 * robbed + robber


class RememberingPlayer:
    """A policy (S, 4) over the states of `CoinValues`, as a player of the game.

    Args:
        values: numbers the states.
        policy: probabilities (S, 4).
        deterministic: take the most likely action.
    """

    width = 1

    def __init__(self, values: CoinValues, policy: Tensor, deterministic: bool = False) -> None:
        self.values, self.policy, self.deterministic = values, policy, deterministic
        self._bounds = policy.cumsum(1)[:, :-1].float()
        self._best = policy.argmax(1)

    def act(
        self, state: CoinGameState, seat: int, memory: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Actions (B,) and the next memory (B, 1)."""
        remembered = remember(memory[:, 0].long(), state.picked, seat)
        row = self.values.seen(state, seat, remembered)
        return self.answer(row, generator), remembered[:, None].to(memory.dtype)

    def answer(self, row: Tensor, generator: torch.Generator | None) -> Tensor:
        """Actions (B,) in the states with these numbers (B,)."""
        if self.deterministic:
            return self._best[row]
        drawn = torch.rand(len(row), 1, generator=generator)
        return (drawn >= self._bounds[row]).sum(1)


class Spectator:
    """Keeps one seat's memory by watching its observations, where nothing else is given.

    Args:
        values: numbers the states.
        horizon: steps per game; all games begin together.
    """

    def __init__(self, values: CoinValues, horizon: int) -> None:
        self.values, self.horizon, self.steps = values, horizon, 0
        self._memory = self._coin = self._owner = torch.zeros(0, dtype=torch.int64)

    def see(self, obs: Tensor) -> Tensor:
        """Numbers (B,) of the states behind observations (B, 4 · size²) of successive steps."""
        own, other, mine, theirs = obs.view(len(obs), 4, -1).unbind(1)
        own, other, coin = own.argmax(1), other.argmax(1), (mine + theirs).argmax(1)
        owner = (theirs.sum(1) > 0).long()
        if self.steps % self.horizon == 0:
            self._memory = torch.zeros_like(own)
        else:
            # A taken coin reappears in the other colour.
            kinds = torch.stack((1 + self._owner, 2 - self._owner), 1)
            there = torch.stack((own, other), 1) == self._coin[:, None]
            taken = (owner != self._owner)[:, None]
            self._memory = remember(self._memory, kinds * (there & taken), 0)
        self._coin, self._owner = coin, owner
        self.steps += 1
        return self.values.seen_from(own, other, coin, owner, self._memory)


def inputs(game: CoinGame, values: CoinValues) -> Tensor:
    """Features (S, 4 · size² + 2) of all states: the observation from the corner, the memories."""
    other, coin, owner, memory = values.parts(torch.arange(values.states))
    corner = torch.zeros_like(other)
    empty = torch.stack((corner, corner), 1)
    state = CoinGameState(
        torch.stack((corner, other), 1), coin, owner, corner, empty, empty.double()
    )
    bits = torch.stack((memory // 2, memory % 2), 1)
    return torch.cat((game.observe(state)[:, 0], bits.float()), 1)
