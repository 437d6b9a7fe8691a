"""The fourth face of a game: a PettingZoo environment, where both seats are played from outside.

Needs the extra `games` (pettingzoo). `envs.make_parallel(id)` makes one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.utils import seeding
from pettingzoo import ParallelEnv

from envs.two_player import JointCore
from errors import require

AGENTS = ("player_0", "player_1")


class CoreParallel(ParallelEnv):
    """One game over a joint core: a batch of one.

    Args:
        core: the rules.
        name: of the environment, in its metadata.
        render_mode: None or "rgb_array".
    """

    def __init__(self, core: JointCore, name: str, render_mode: str | None = None) -> None:
        good = render_mode in (None, "rgb_array")
        require(good, f"render_mode={render_mode!r}: accepted are None, 'rgb_array'")
        self.core, self.render_mode = core, render_mode
        self.metadata = {"name": name, "render_modes": ["rgb_array"], "is_parallelizable": True}
        self.possible_agents = list(AGENTS)
        self.agents: list[str] = []
        self.observation_spaces = dict.fromkeys(AGENTS, core.single_observation_space)
        self.action_spaces = dict.fromkeys(AGENTS, core.single_action_space)
        self.generator = torch.Generator(core.device)
        self._seeds, _ = seeding.np_random()
        self.state_: Any = None

    def observation_space(self, agent: str) -> Any:
        """Of one player."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Any:
        """Of one player."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start a game; `options` are the core's own."""
        if seed is not None:
            self._seeds, _ = seeding.np_random(seed)
        self.generator.manual_seed(int(self._seeds.integers(2**63)))
        self.agents = list(AGENTS)
        self.state_ = self.core.reset(1, self.generator, **(options or {}))
        return self._observations(), {agent: {} for agent in AGENTS}

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, float], dict[str, bool], dict[str, bool], dict[str, Any]]:
        """Both act; after the end nobody is left."""
        if not self.agents:
            return {}, {}, {}, {}, {}
        first, second = (
            torch.as_tensor(np.asarray(actions[agent])[None], device=self.core.device)
            for agent in AGENTS
        )
        self.state_, reward, terminated, truncated = self.core.step(
            self.state_, (first, second), self.generator
        )
        ended, cut = bool(terminated.item()), bool(truncated.item())
        if ended or cut:
            self.agents = []
        return (
            self._observations(),
            dict(zip(AGENTS, reward[0].tolist(), strict=True)),
            dict.fromkeys(AGENTS, ended),
            dict.fromkeys(AGENTS, cut),
            {agent: {} for agent in AGENTS},
        )

    def render(self) -> np.ndarray | None:
        """RGB frame (H, W, 3) uint8, when made with render_mode="rgb_array"."""
        if self.render_mode is None or self.state_ is None:
            return None
        return self.core.render(self.state_)[0]

    def close(self) -> None:
        """Nothing to release."""

    def _observations(self) -> dict[str, Any]:
        return {
            agent: self.core.observe(self.state_, player)[0].cpu().numpy()
            for player, agent in enumerate(AGENTS)
        }
