"""Games of two players: the protocol of their batched cores, and a single-player adapter.

A game's core is like any other (`envs.core.Core`), except that actions and rewards are (B, 2) and
observations (B, 2, *observation), each from its player's own view. `envs.core.advance` steps it
with autoreset; `envs.games.parallel` wraps it as a PettingZoo environment. `FixedOpponentEnv` puts
a fixed player on one seat: the result is a single-player core, for which all adapters work.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from semigradient.envs.core import State, Step
from semigradient.errors import require


class TwoPlayer(Protocol):
    """Rules of a game of two, on batches of tensors.

    Attributes:
        state_type: the `NamedTuple` class of its states.
        players: names of the two.
        device: where its tensors live.
        single_observation_space: space of one player's observation.
        single_action_space: space of one player's action.
        protocol: how scores are to be interpreted.
    """

    state_type: Any
    players: tuple[str, str]
    device: torch.device
    single_observation_space: spaces.Box
    single_action_space: spaces.Space
    protocol: dict[str, Any]

    def reset(self, n: int, generator: torch.Generator | None = None, **options: Any) -> State:
        """`n` fresh games; options are the game's own."""
        ...

    def step(self, state: State, actions: Tensor, generator: torch.Generator | None = None) -> Step:
        """Both act, (B, 2, *action); rewards are (B, 2)."""
        ...

    def observe(self, state: State) -> Tensor:
        """(B, 2, *observation): what each of the two sees."""
        ...

    def info(self, state: State) -> dict[str, Tensor]:
        """Further information about the games: tensors (B, …)."""
        ...

    def render(self, state: State) -> list[np.ndarray]:
        """RGB frames (H, W, 3) uint8, one per game."""
        ...


@runtime_checkable
class Player(Protocol):
    """A player of a game: scripted, searching or trained and frozen.

    Attributes:
        width: size of the memory that it carries through a game, initially 0.
    """

    width: int

    def act(
        self, state: State, seat: int, memory: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Actions (B, *action) and the next memory (B, width) of the player on `seat`, 0 or 1."""
        ...


class FunctionPlayer:
    """A player without memory made of a function from observations (B, …) to actions (B,)."""

    width = 0

    def __init__(self, game: TwoPlayer, policy: Callable[[Tensor], Tensor]) -> None:
        self.game, self.policy = game, policy

    def act(
        self, state: State, seat: int, memory: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """The function of the seat's observation."""
        return self.policy(self.game.observe(state)[:, seat]), memory


class FixedOpponentEnv:
    """A game against a fixed opponent, as an environment for one player.

    Args:
        game: the rules.
        opponent: the player on the other seat.
        seat: 0 or 1, whose side the environment is for.
    """

    def __init__(self, game: TwoPlayer, opponent: Player, seat: int = 0) -> None:
        require(seat in (0, 1), f"seat={seat}: must be 0 or 1")
        self.game, self.opponent, self.seat = game, opponent, seat
        self.device = game.device
        self.single_observation_space = game.single_observation_space
        self.single_action_space = game.single_action_space
        self.protocol = {"seat": seat, **game.protocol}
        self._state = _state_type((*game.state_type._fields, "memory"))

    def reset(self, n: int, generator: torch.Generator | None = None, **options: Any) -> State:
        """`n` fresh games, the opponent without memories."""
        memory = torch.zeros(n, self.opponent.width, device=self.device)
        return self._state(*self.game.reset(n, generator, **options), memory)

    def step(self, state: State, actions: Tensor, generator: torch.Generator | None = None) -> Step:
        """Act (B, *action); the opponent acts at the same time."""
        game = self._game(state)
        theirs, memory = self.opponent.act(game, 1 - self.seat, state.memory, generator)
        pair = (actions, theirs) if self.seat == 0 else (theirs, actions)
        after = self.game.step(game, torch.stack(pair, 1), generator)
        return after._replace(
            state=self._state(*after.state, memory), reward=after.reward[:, self.seat]
        )

    def observe(self, state: State) -> Tensor:
        """(B, *observation) of this seat."""
        return self.game.observe(self._game(state))[:, self.seat].contiguous()

    def info(self, state: State) -> dict[str, Tensor]:
        """The game's."""
        return self.game.info(self._game(state))

    @property
    def remembers(self) -> int:
        """Past states that the game's pictures show."""
        return getattr(self.game, "remembers", 0)

    def render(self, state: State, past: Sequence[State] = ()) -> list[np.ndarray]:
        """The game's frames."""
        if not self.remembers:
            return self.game.render(self._game(state))
        show: Any = self.game.render
        frames: list[np.ndarray] = show(self._game(state), [self._game(one) for one in past])
        return frames

    def _game(self, state: State) -> State:
        return self.game.state_type(*state[:-1])


def _state_type(fields: tuple[str, ...]) -> Any:
    return namedtuple("FixedOpponentState", fields)
