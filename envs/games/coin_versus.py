"""`semigradient/CoinGame-v0`: the coin game against a fixed opponent, for one player."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from semigradient.envs.games.coin_game import CoinGame, Size
from semigradient.envs.games.coin_players import NAMES, scripted
from semigradient.envs.games.two_player import FixedOpponentEnv, Player
from semigradient.envs.options import Options
from semigradient.errors import UserError, unknown
from semigradient.validate import Count


@dataclass(frozen=True)
class CoinGameOptions(Options):
    """Options of the coin game."""

    size: Size = 3
    """Cells per side of the board."""
    horizon: Count = 50
    """Steps per game."""
    opponent: str | Player = "always-defect"
    """Second player: always-cooperate, always-cooperate-far, always-defect or random."""
    seat: Literal[0, 1] = 0
    """Play red (0) or blue (1)."""

    def check(self) -> None:
        """There is such an opponent."""
        if isinstance(self.opponent, str) and self.opponent not in NAMES:
            unknown("opponent", self.opponent, NAMES)

    def make(self, device: str = "cpu") -> FixedOpponentEnv:
        """The core of `semigradient/CoinGame-v0`."""
        game, player = CoinGame(self.size, self.horizon, device), self.opponent
        env = FixedOpponentEnv(
            game, scripted(game, player) if isinstance(player, str) else player, self.seat
        )
        name = player if isinstance(player, str) else type(player).__name__
        env.protocol = {"opponent": name, **env.protocol}
        return env


def coin_game_behind(envs: Any, agent: str, device: str | torch.device = "cpu") -> CoinGame:
    """The coin game of vector environments, on a learner's device; `UserError` for others."""
    core = getattr(envs, "core", None)
    if not isinstance(core, FixedOpponentEnv) or not isinstance(core.game, CoinGame):
        name = envs.spec.id if envs.spec is not None else type(envs).__name__
        raise UserError(f"--env {name}: {agent} plays semigradient/CoinGame-v0")
    return CoinGame(core.game.size, core.game.horizon, device)
