"""Best response shaping on the coin game without sampling: the best response is computed.

    reply with k steps to go:  π₂ᵏ(b|s; θ) = softmax(Q₂ᵏ(s, b; θ) / τ),   Q₂ᵏ against π_θ
    agent:                     θ ← θ + α ∇_θ (R¹(π_θ, π₂(θ)) + w R¹(π_θ, π_θ))

The opponent's reply follows from its own action values against the agent by dynamic programming
over all states (`domains.games.coin_values`), and the agent's gradient goes through all of it:
through its own actions, and through how the reply changes with its policy. w = 0 is BRS, w = 1
BRS-SP, where the gradient goes through both seats of the agent's games with itself. The
temperature τ falls during training, so that the reply becomes the best response.

The agent has two memories, which are what retaliation takes: whether the other took its last coin,
and whether it took the other's. Its policy is a table of logits, or a perceptron on the
observation and these bits.

Source: T. Cooijmans, PhD thesis 2023, equations 5.4.1 and 5.4.2, sections 5.4 and 5.5.2; there the
best response is a learned detective and the agent a GRU (`agents.games.brs`). Computing it, the
memories and the temperature are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from semigradient.domains.games.coin_memory import RememberingPlayer, Spectator, inputs
from semigradient.domains.games.coin_values import ACTIONS, MEMORIES, CoinValues
from semigradient.envs.games.coin_versus import coin_game_behind
from semigradient.errors import require
from semigradient.nets.bricks import mlp
from semigradient.training.agent import AgentContext, Count, Policy, generator
from semigradient.validate import Count as AtLeastOne
from semigradient.validate import Natural, NonNegative, Positive, Share, check_fields


@dataclass(frozen=True)
class Config:
    """Hyperparameters; a step is an update."""

    self_play: NonNegative = 0.0
    """Weight of self-play with reward sharing: 0 for BRS, 1 for BRS-SP."""
    gamma: Share = 0.96
    """Discount of one step, in [0, 1]."""
    lookahead: AtLeastOne = 20
    """Steps of the games that are learned from, at most; the environment's horizon may be less."""
    temperature: Positive = 1.0
    """Temperature of the opponent's reply, at first."""
    final_temperature: Positive = 0.2
    """Temperature at the end; it falls geometrically."""
    memory: bool = True
    """Whether the policy sees who took the last coins."""
    hidden: Natural = 0
    """Width of a perceptron with two ReLU layers; 0: a table of logits."""
    initial_scale: NonNegative = 0.1
    """Standard deviation of the table's logits at first."""

    def __post_init__(self) -> None:
        check_fields(self)
        require(
            self.hidden == 0 or self.initial_scale == 0.1,
            f"initial_scale={self.initial_scale}: is for a table, hidden=0",
        )


class Table(nn.Module):
    """Logits of every state, (S, 4), or of every state but for the memories."""

    def __init__(self, states: int, scale: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(scale * torch.randn(states, ACTIONS))

    def forward(self, _features: Tensor) -> Tensor:
        """The logits."""
        return self.logits


class ExactBRS:
    """One exact gradient step per iteration."""

    STATE = ("network", "optimizer", "progress")
    POLICY = ("network",)

    def __init__(self, config: Config, setup: AgentContext) -> None:
        self.config, self.setup, self.timers = config, setup, setup.timers
        require(not setup.compile, "compile=True: exact best response shaping is not compiled")
        self.game = coin_game_behind(setup.envs, "brs-exact")
        self.values = CoinValues(self.game.size)
        self.lookahead = min(config.lookahead, self.game.horizon)
        self._features = inputs(self.game, self.values)
        if not config.memory:
            self._features = self._features.view(-1, MEMORIES, self._features.shape[1])[:, 0]
        sizes = (self._features.shape[1], config.hidden, config.hidden, ACTIONS)
        table = Table(len(self._features), config.initial_scale)
        self.network = mlp(sizes, "relu") if config.hidden else table
        self.optimizer = setup.make_optimizer(self.network.parameters())
        self.progress = Count()

    def iterate(self) -> Mapping[str, float | Tensor]:
        """Ascend the agent's return against the reply, and against itself."""
        config, values = self.config, self.values
        with self.timers("learn"):
            temperature = self._temperature()
            policy = self._policy()
            ours, theirs = values.best_response(policy, self.lookahead, config.gamma, temperature)[
                0
            ]
            objective, scalars = ours, {"return": ours.detach(), "response_return": theirs.detach()}
            if config.self_play:
                own = values.pair(policy, policy, self.lookahead, config.gamma).start[0]
                objective = objective + config.self_play * own
                scalars["self_play_return"] = own.detach()
            self.optimizer.zero_grad()
            (-objective).backward()
            self.optimizer.step()
        self.progress.steps += 1
        entropy = -(policy * policy.log()).sum(1).mean().detach()
        return {**scalars, "entropy": entropy, "temperature": temperature}

    @torch.no_grad()
    def probabilities(self) -> Tensor:
        """The policy (S, 4), by the states of `domains.games.coin_values`."""
        return self._policy()

    def player(self, deterministic: bool = False) -> RememberingPlayer:
        """The current agent as a player of the game."""
        return RememberingPlayer(self.values, self.probabilities(), deterministic)

    def policy(self, deterministic: bool = True) -> Policy:
        """Acts with the memories that its observations tell; all games begin together."""
        own, player = generator(self.setup.seed, 3), self.player(deterministic)
        spectator = Spectator(self.values, self.game.horizon)

        def act(obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
            return player.answer(spectator.see(torch.from_numpy(obs)), own).numpy()

        return act

    def _policy(self) -> Tensor:
        """Probabilities (S, 4), float64."""
        logits = self.network(self._features).to(self.values.dtype)
        if not self.config.memory:
            logits = logits.repeat_interleave(MEMORIES, 0)
        return logits.softmax(1)

    def _temperature(self) -> float:
        """Geometrically from the first to the last."""
        config = self.config
        share = min(1.0, self.progress.steps / max(1, self.setup.total_steps - 1))
        return config.temperature * (config.final_temperature / config.temperature) ** share
