"""Monte-Carlo tree search on the coin game: a best response to any opponent that can be simulated.

At each move the searcher simulates games from the current state, with copies of the opponent's
memory and actions drawn from the opponent's policy. Its own actions follow an open-loop tree
(sequences of actions, independent of observations) by upper confidence bounds (Kocsis and
Szepesvári 2006), and are uniform below the tree. Every sequence that is tried is played by a few
games at once, and many games are searched in parallel.

The thesis (T. Cooijmans 2023, section 5.5.2) says of its own only that it does 1,000 rollouts of
the agent's policy in each state. What it leaves open is decided here and compared with the best
responses of `envs.games.coin_players.Oracle`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from semigradient.envs.games.coin_game import MOVES, CoinGame, CoinGameState
from semigradient.envs.games.two_player import Player
from semigradient.errors import require

_WAYS = len(MOVES)


class TreeSearch:
    """A player that searches a best response to `other`; its memory is the opponent's.

    Args:
        game: the rules.
        other: the opponent.
        rollouts: simulated games per move.
        abreast: how many of them try one sequence of actions together.
        levels: depth of the tree.
        steps: length of a simulated game.
        exploration: weight of the confidence bound, in units of reward.
    """

    def __init__(
        self,
        game: CoinGame,
        other: Player,
        rollouts: int = 1000,
        abreast: int = 8,
        levels: int = 4,
        steps: int = 8,
        exploration: float = 1.5,
    ) -> None:
        require(rollouts >= abreast >= 1, f"rollouts={rollouts}: must be ≥ abreast={abreast} ≥ 1")
        require(1 <= levels <= 8, f"levels={levels}: must be in [1, 8]")
        require(steps >= 1, f"steps={steps}: must be ≥ 1")
        self.game, self.other, self.width = game, other, other.width
        self.rounds, self.abreast = rollouts // abreast, abreast
        self.levels, self.steps, self.exploration = levels, steps, exploration
        self._nodes = sum(_WAYS**level for level in range(levels + 1))

    def act(
        self, state: CoinGameState, seat: int, memory: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """The most visited action (B,), and the opponent's next memory."""
        random = generator if generator is not None else torch.Generator(self.game.device)
        visits = torch.zeros(len(memory), self._nodes, device=self.game.device)
        totals = torch.zeros_like(visits)
        fork = CoinGameState(*(field.repeat_interleave(self.abreast, 0) for field in state))
        memories = memory.repeat_interleave(self.abreast, 0)
        left = self.game.horizon - int(state.steps.max())
        for _ in range(self.rounds):
            path, rewards = self._imagine(visits, totals, fork, seat, memories, left, random)
            to_go = rewards.flip(0).cumsum(0).flip(0)
            for level, node in enumerate(path):
                visits.scatter_add_(1, node, torch.ones_like(node, dtype=visits.dtype))
                totals.scatter_add_(1, node, to_go[level][:, None])
        _, after = self.other.act(state, 1 - seat, memory, random)
        return visits[:, 1 : 1 + _WAYS].argmax(1), after

    def _imagine(
        self,
        visits: Tensor,
        totals: Tensor,
        state: CoinGameState,
        seat: int,
        memory: Tensor,
        left: int,
        random: torch.Generator,
    ) -> tuple[list[Tensor], Tensor]:
        """Nodes (B, 1) of the sequence that was tried, rewards (steps, B) averaged abreast."""
        node = torch.zeros(len(visits), 1, dtype=torch.int64, device=visits.device)
        path, rewards = [], []
        for step in range(min(self.steps, left)):
            if step < self.levels:
                own = self._select(visits, totals, node, random)
                node = _WAYS * node + 1 + own[:, None]
                path.append(node)
                own = own.repeat_interleave(self.abreast)
            else:
                own = torch.randint(
                    _WAYS, (len(memory),), generator=random, device=self.game.device
                )
            theirs, memory = self.other.act(state, 1 - seat, memory, random)
            pair = (own, theirs) if seat == 0 else (theirs, own)
            state, reward, *_ = self.game.step(state, torch.stack(pair, 1), random)
            rewards.append(reward[:, seat].view(-1, self.abreast).mean(1).to(totals.dtype))
        return path, torch.stack(rewards)

    def _select(
        self, visits: Tensor, totals: Tensor, node: Tensor, random: torch.Generator
    ) -> Tensor:
        """The child (B,) with the highest upper bound; untried ones come first, in random order."""
        children = _WAYS * node + 1 + torch.arange(_WAYS, device=node.device)
        tried, total = visits.gather(1, children), totals.gather(1, children)
        log_all = tried.sum(1, keepdim=True).clamp(min=1).log()
        bound = total / tried + self.exploration * (log_all / tried).sqrt()
        uniform = torch.rand(bound.shape, generator=random, device=bound.device)
        return torch.where(tried > 0, bound, 1e6 + uniform).argmax(1)
