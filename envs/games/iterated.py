"""Iterated 2×2 matrix games as environments: `semigradient/IPD-v0` and its siblings.

Their exact values and the named strategies are in `envs.games.matrix_games`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from semigradient.envs.core import Step
from semigradient.envs.games.differentiable import game_behind
from semigradient.envs.games.matrix_games import SEEN_BY_OTHER, MatrixGame, strategy
from semigradient.envs.games.matrix_rendering import SHOWN, frame
from semigradient.envs.games.two_player import FixedOpponentEnv
from semigradient.envs.options import Options
from semigradient.envs.vector import ExactVector
from semigradient.errors import UserError
from semigradient.validate import Natural, Share, at_least


class IteratedGameState(NamedTuple):
    """Running games."""

    seen: Tensor  # (B,) int64: what the first player saw last, of start, AA, AB, BA, BB
    rounds: Tensor  # (B,) int64


class IteratedGame:
    """`semigradient/IPD-v0`, `MatchingPennies-v0`, `Chicken-v0`, `StagHunt-v0`, `MatrixGame-v0`.

    Two players choose A or B at once, again and again, and see the last round.

    ## Action space
    `Discrete(2)`: 0 is A (cooperate, heads, swerve, stag), 1 is B (defect, tails, straight, hare).

    ## Observation space
    `Box(0, 1, (5,), float32)`, one-hot: start, AA, AB, BA, BB of the last round, own action first.

    ## Rewards
    The game's payoffs, by default for AA, AB, BA, BB:
    Prisoner's Dilemma −1, −3, 0, −2; matching pennies 1, −1, −1, 1 to the first player and the
    opposite to the second; Chicken 0, −1, 1, −100; stag hunt 4, 1, 3, 2. `MatrixGame-v0` takes
    any: `payoff`, as in `envs.games.matrix_games.payoff_tensor`.

    ## Episode end
    With `horizon=0` (default) the game has no last round: after each one it is terminated with
    probability 1 − `discount`, so the expected sum of rewards is the exact discounted value.
    With `horizon=T` it is truncated after T rounds, and `discount` says only what `game` values.

    ## Opponents
    `opponent`: always-cooperate, always-defect, tit-for-tat (default), cynic-tit-for-tat, grim,
    pavlov, random, extortion (which keeps `slope` times its opponent's surplus over BB, where the
    payoffs allow that), or five probabilities of A after start, AA, AB, BA, BB.

    ## Version history
    v0: first version.
    """

    state_type: Any = IteratedGameState
    players = ("first", "second")
    remembers = SHOWN

    def __init__(self, game: MatrixGame, device: str | torch.device = "cpu") -> None:
        self.game, self.device = game, torch.device(device)
        self.single_observation_space: spaces.Box = spaces.Box(0, 1, (5,), np.float32)
        self.single_action_space: spaces.Space = spaces.Discrete(2)
        self.protocol: dict[str, Any] = {
            "payoff": game.payoff.tolist(),
            "discount": game.discount,
            "horizon": game.horizon,
        }
        self._rewards = game.payoff.T.contiguous().to(self.device)
        views = torch.eye(5)
        self._views = torch.stack((views, views[list(SEEN_BY_OTHER)]), 1).to(self.device)
        self._never = torch.zeros(1, dtype=torch.bool, device=self.device)

    def reset(
        self, n: int, generator: torch.Generator | None = None, **options: Any
    ) -> IteratedGameState:
        """`n` games before their first round."""
        nothing = torch.zeros(n, dtype=torch.int64, device=self.device)
        return IteratedGameState(nothing, nothing.clone())

    def step(
        self, state: IteratedGameState, actions: Tensor, generator: torch.Generator | None = None
    ) -> Step:
        """One round; actions (B, 2) of both players, rewards (B, 2)."""
        first, second = actions.unbind(1)
        joint = torch.add(second, first, alpha=2)
        rounds, count = state.rounds + 1, len(state.rounds)
        reward = self._rewards.index_select(0, joint)
        never = self._never.expand(count)
        if self.game.horizon:
            return Step(
                IteratedGameState(joint + 1, rounds), reward, never, rounds >= self.game.horizon
            )
        uniform = torch.rand(count, generator=generator, device=self.device)
        return Step(
            IteratedGameState(joint + 1, rounds), reward, uniform >= self.game.discount, never
        )

    def observe(self, state: IteratedGameState) -> Tensor:
        """(B, 2, 5) float32, one-hot, each from its player's own view."""
        return self._views.index_select(0, state.seen)

    def info(self, state: IteratedGameState) -> dict[str, Tensor]:
        """Rounds played."""
        return {"rounds": state.rounds}

    def render(
        self, state: IteratedGameState, past: Sequence[IteratedGameState] = ()
    ) -> list[np.ndarray]:
        """The table of payoffs with the last outcome lit, and both players' last moves."""
        payoff = self.game.payoff.cpu().numpy()
        seen, rounds = (
            torch.stack([getattr(one, name) for one in (*past, state)], 1).tolist()
            for name in ("seen", "rounds")
        )
        return [
            frame(payoff, _outcomes(*row), row[1][-1]) for row in zip(seen, rounds, strict=True)
        ]


def _outcomes(seen: list[int], rounds: list[int]) -> list[int]:
    """Outcomes of the running game among those of states one after the other, oldest first."""
    last = rounds[-1]
    back = min(last, len(seen))
    ages = range(back)
    same = [age for age in ages if rounds[-1 - age] == last - age]
    return [seen[-1 - age] - 1 for age in reversed(same)]


class MemoryOne:
    """Plays A with probabilities (5,), by what it saw, own action first."""

    width = 0

    def __init__(self, probabilities: Tensor, device: torch.device) -> None:
        both = torch.stack((probabilities, probabilities[list(SEEN_BY_OTHER)])).to(device)
        self.certain = bool(((both == 0) | (both == 1)).all())
        # By seat, and by what the first player saw.
        self._plays_b = (both < 0.5).long() if self.certain else (1 - both).float()

    def act(
        self, state: IteratedGameState, seat: int, memory: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Actions (B,) int64; there is no memory."""
        plays_b = self._plays_b[seat].index_select(0, state.seen)
        if self.certain:
            return plays_b, memory
        drawn = torch.rand(len(plays_b), generator=generator, device=plays_b.device)
        return (drawn < plays_b).long(), memory


def matrix_game_behind(envs: ExactVector) -> MatrixGame:
    """The 2×2 game that environments play; `UserError` if there is none."""
    game = game_behind(envs)
    if not isinstance(game, MatrixGame):
        raise UserError(
            f"--env {envs.spec.id if envs.spec else '?'}: is no 2×2 game; accepted are "
            "semigradient/IPD-v0, MatchingPennies-v0, Chicken-v0, StagHunt-v0 and MatrixGame-v0"
        )
    return game


def memory_one(
    chance: Tensor, generator: torch.Generator | None = None
) -> Callable[[np.ndarray, np.ndarray | None], np.ndarray]:
    """Actions (B,) for one-hot observations (B, 5), by probabilities of A (5,).

    Drawn by `generator`; without one, the more probable action.
    """
    chance = chance.detach().cpu().double()

    def act(obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        plays_a = torch.from_numpy(obs).double() @ chance
        drawn = 0.5 if generator is None else torch.rand(plays_a.shape, generator=generator)
        return (plays_a < drawn).long().numpy()

    return act


@dataclass(frozen=True)
class IteratedOptions(Options):
    """Options of any iterated 2×2 game."""

    opponent: Any = "tit-for-tat"
    """Second player: always-cooperate, always-defect, tit-for-tat, cynic-tit-for-tat, grim, pavlov,
    random, extortion, or five probabilities of A."""
    discount: Share = 0.96
    """Probability that the game continues after a round, below 1 without a horizon."""
    horizon: Natural = 0
    """Rounds after which it is cut off; 0: it has no last round."""

    payoffs: ClassVar[Any] = "prisoners-dilemma"

    def check(self) -> None:
        """The game and its opponent exist."""
        self.player()

    def game(self) -> MatrixGame:
        """Payoffs and exact values."""
        return MatrixGame(self.payoffs, self.discount, self.horizon)

    def player(self) -> Tensor:
        """The opponent's probabilities of A (5,)."""
        # It is the second player: its own payoffs come first, in its own order of actions.
        own = self.game().payoff.flip(0)[:, [0, 2, 1, 3]]
        return strategy(self.opponent, own, self.discount, self.surplus())

    def surplus(self) -> float:
        """How many times its opponent's surplus extortion keeps."""
        return 3.0

    def make(self, device: str = "cpu") -> FixedOpponentEnv:
        """The core of an iterated game."""
        core = IteratedGame(self.game(), device)
        name = self.opponent if isinstance(self.opponent, str) else str(list(self.opponent))
        if name == "extortion":
            name += f" (slope {self.surplus():g})"
        env = FixedOpponentEnv(core, MemoryOne(self.player(), core.device))
        env.protocol = {"opponent": name, **env.protocol}
        return env


@dataclass(frozen=True)
class DilemmaOptions(IteratedOptions):
    """Options of the iterated Prisoner's Dilemma."""

    NEEDS: ClassVar = {"slope": ("opponent", ("extortion",))}

    slope: Annotated[float, at_least(1)] = 3.0
    """How many times its opponent's surplus extortion keeps."""

    def surplus(self) -> float:
        """How many times its opponent's surplus extortion keeps."""
        return self.slope


@dataclass(frozen=True)
class ChickenOptions(DilemmaOptions):
    """Options of iterated Chicken."""

    payoffs: ClassVar[Any] = "chicken"


@dataclass(frozen=True)
class StagHuntOptions(DilemmaOptions):
    """Options of the iterated stag hunt."""

    payoffs: ClassVar[Any] = "stag-hunt"


@dataclass(frozen=True)
class MatchingPenniesOptions(IteratedOptions):
    """Options of iterated matching pennies; the learner wins where both are equal."""

    payoffs: ClassVar[Any] = "matching-pennies"
    opponent: Any = "random"
    """Second player: always-cooperate, always-defect, tit-for-tat, cynic-tit-for-tat, grim, pavlov,
    random, or five probabilities of A."""


@dataclass(frozen=True)
class MatrixGameOptions(DilemmaOptions):
    """Options of an iterated game with custom payoffs."""

    payoff: Any = "prisoners-dilemma"
    """prisoners-dilemma, matching-pennies, chicken, stag-hunt, or numbers: 2 players × 4 joint
    actions (AA, AB, BA, BB)."""

    def game(self) -> MatrixGame:
        """Payoffs and exact values."""
        return MatrixGame(self.payoff, self.discount, self.horizon)
