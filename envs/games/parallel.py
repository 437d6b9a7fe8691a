"""Games of two as PettingZoo parallel environments: what `envs.make_parallel` makes.

Needs the `games` extra; nothing else imports this module.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from pettingzoo import ParallelEnv

from semigradient.envs.actions import checked
from semigradient.envs.adapters import frames_of, remember
from semigradient.envs.games.two_player import TwoPlayer
from semigradient.errors import UserError


class Parallel(ParallelEnv):
    """A batch of one game, controlled by both players.

    Args:
        game: the rules.
        render_mode: None or "rgb_array".
        name: what PettingZoo shows.
    """

    def __init__(
        self, game: TwoPlayer, render_mode: str | None = None, name: str = "two-player"
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise UserError(f"render_mode={render_mode!r}: accepted are None, 'rgb_array'")
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 4, "name": name}
        self.game, self.render_mode = game, render_mode
        self.possible_agents = list(game.players)
        self.agents: list[str] = []
        self.observation_spaces = dict.fromkeys(game.players, game.single_observation_space)
        self.action_spaces = dict.fromkeys(game.players, game.single_action_space)
        self.generator = torch.Generator(game.device)
        self.generator.seed()
        self.game_state: Any = None
        self.past: list[Any] = []

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        """Start a game; `options` are the game's own."""
        if seed is not None:
            self.generator.manual_seed(seed)
        self.agents = list(self.possible_agents)
        self.game_state = self.game.reset(1, self.generator, **(options or {}))
        return self._observe(), self._infos()

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        """Both act; dicts by player of observation, reward, terminated, truncated, info."""
        if not self.agents:
            return {}, {}, {}, {}, {}
        both = np.stack(
            [checked(self.action_spaces[agent], actions[agent]) for agent in self.agents]
        )
        if self.render_mode is not None:
            remember(self.game, self.past, self.game_state)
        pair = torch.as_tensor(both[None], device=self.game.device)
        after = self.game.step(self.game_state, pair, self.generator)
        self.game_state = after.state
        results = self._observe(), dict(zip(self.agents, after.reward[0].tolist(), strict=True))
        terminated, truncated = bool(after.terminated.item()), bool(after.truncated.item())
        ends = dict.fromkeys(self.agents, terminated), dict.fromkeys(self.agents, truncated)
        infos = self._infos()
        if terminated or truncated:
            self.agents = []
        return *results, *ends, infos

    def observation_space(self, agent: str) -> spaces.Space:
        """The same space object each time."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space:
        """The same space object each time."""
        return self.action_spaces[agent]

    def render(self) -> np.ndarray | None:
        """RGB frame, when made with render_mode="rgb_array"."""
        if self.render_mode is None or self.game_state is None:
            return None
        return frames_of(self.game, self.game_state, self.past)[0]

    def state(self) -> np.ndarray:
        """Both observations in a row."""
        return self.game.observe(self.game_state)[0].flatten().cpu().numpy()

    def _observe(self) -> dict[str, np.ndarray]:
        rows = self.game.observe(self.game_state)[0].cpu().numpy()
        return {agent: row.copy() for agent, row in zip(self.agents, rows, strict=True)}

    def _infos(self) -> dict[str, dict[str, Any]]:
        info = {key: value[0].tolist() for key, value in self.game.info(self.game_state).items()}
        return {agent: dict(info) for agent in self.agents}
