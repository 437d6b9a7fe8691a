"""The two networks of best response shaping on the coin game, and the games between them.

Both are GRUs. Besides its observation, the detective's inputs are the answers to four questions:
what is the return of action A now, and of random actions afterwards, against this agent? Each
answer is a mean over simulated games of a few steps,

    δ̂_A = mean_n Σ_k γ^k r²_{t+k} □(Σ_{j ≤ k} log π_θ(a_{t+j})),

which the magic box makes differentiable with respect to the agent (`gradients.dice`). So the
detective's actions depend on the agent differentiably.

Source: T. Cooijmans, PhD thesis 2023, sections 5.4.2 and 5.A.2. The superscripts of its eq. 5.4.4
name the wrong seat for the random player, which plays the detective's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from semigradient.envs.games.coin_game import CoinGame, CoinGameState
from semigradient.gradients.dice import dice_return
from semigradient.nets.recurrent import Recurrent, Weights

ACTIONS = 4


class Questions(NamedTuple):
    """Parameters of the simulations that answer the questions.

    Attributes:
        samples: simulated games for each question.
        steps: steps of each.
        discount: γ.
        common_random_numbers: whether the coins of all games of one question reappear by the same
            draws.
    """

    samples: int
    steps: int
    discount: float
    common_random_numbers: bool


class GameRollout(NamedTuple):
    """T steps of B games, seat 0 in [..., 0] and seat 1 in [..., 1]."""

    log_probs: Tensor  # (T, B, 2) of the actions taken
    values: Tensor  # (T, B, 2)
    entropies: Tensor  # (T, B, 2)
    rewards: Tensor  # (T, B, 2)
    picked: Tensor  # (T, B, 2) int64, as in `envs.games.coin_game.CoinGameState`


class BRSNetworks:
    """Architectures of agent and detective, and the games between them.

    Args:
        game: the coin game.
        hidden: width of both.
        questions: parameters of the simulations.
    """

    def __init__(self, game: CoinGame, hidden: int, questions: Questions) -> None:
        self.game, self.questions = game, questions
        inputs = 4 * game.count
        self.agent = Recurrent(inputs, hidden, ACTIONS + 1)
        self.detective = Recurrent(inputs, hidden, ACTIONS + 1, after=2, extra=ACTIONS)

    def play(
        self, agents: Tensor, detective: Tensor, count: int, random: torch.Generator
    ) -> GameRollout:
        """Games of agents against the detective, with gradients where the vectors require them.

        Args:
            agents: (G, P₁), G = 1 or `count`: seat 0.
            detective: (1, P₂): seat 1.
            count: games B.
            random: generator of actions, coins and simulations.
        """
        ours, theirs = self.agent.weights(agents), self.detective.weights(detective)
        state = self.game.reset(count, random)
        memory = agents.new_zeros(len(agents), count // len(agents), self.agent.hidden)
        clues = agents.new_zeros(1, count, self.detective.hidden)
        steps = []
        for _ in range(self.game.horizon):
            answers = self.answers(ours, state, memory, random)
            obs = self.game.observe(state)
            one, memory = self.agent(ours, obs[:, 0].reshape(*memory.shape[:2], -1), memory)
            two, clues = self.detective(theirs, obs[None, :, 1], clues, answers[None])
            outputs = torch.stack((one.flatten(0, 1), two[0]), 1)
            state, row = self._advance(state, outputs, random)
            steps.append(row)
        return _rollout(steps)

    def play_itself(self, agent: Tensor, count: int, random: torch.Generator) -> GameRollout:
        """Games of one agent (1, P₁) against itself."""
        weights = self.agent.weights(agent)
        state = self.game.reset(count, random)
        memory = agent.new_zeros(1, 2 * count, self.agent.hidden)
        steps = []
        for _ in range(self.game.horizon):
            outputs, memory = self.agent(
                weights, self.game.observe(state).view(1, 2 * count, -1), memory
            )
            state, row = self._advance(state, outputs.view(count, 2, -1), random)
            steps.append(row)
        return _rollout(steps)

    def answers(
        self, agents: Weights, state: CoinGameState, memory: Tensor, random: torch.Generator
    ) -> Tensor:
        """δ̂ (B, 4): expected returns of seat 1's actions, by simulation.

        Args:
            agents: weights of seat 0, of G networks.
            state: B games.
            memory: (G, B / G, hidden), recurrent state of seat 0 before it observes `state`.
            random: generator of the simulations.
        """
        count, questions = len(state.coin), self.questions
        copies = ACTIONS * questions.samples
        fork = CoinGameState(*(field.repeat_interleave(copies, 0) for field in state))
        memory = memory.repeat_interleave(copies, 1)
        first = torch.arange(ACTIONS, device=self.game.device).repeat_interleave(questions.samples)
        theirs = first.repeat(count)
        log_probs, rewards = [], []
        for step in range(questions.steps):
            obs = self.game.observe(fork)[:, 0].reshape(*memory.shape[:2], -1)
            outputs, memory = self.agent(agents, obs, memory)
            ours, log_prob, _ = choose(outputs.flatten(0, 1)[:, :ACTIONS], random)
            if step:
                theirs = torch.randint(
                    ACTIONS, theirs.shape, generator=random, device=self.game.device
                )
            coin_draws = self._common_draws(count, copies, random)
            fork, reward, *_ = self.game.step(
                fork, torch.stack((ours, theirs), 1), random, coin_draws
            )
            log_probs.append(log_prob)
            rewards.append(reward[:, 1].to(log_prob.dtype))
        shape = (questions.steps, count, ACTIONS, questions.samples)
        paid = torch.stack(rewards).view(shape)
        return dice_return(torch.stack(log_probs).view(shape), paid, questions.discount)

    def _common_draws(self, count: int, copies: int, random: torch.Generator) -> Tensor | None:
        """The same draw for all simulations of one game, or none."""
        if not self.questions.common_random_numbers:
            return None
        drawn = torch.rand(count, generator=random, device=self.game.device)
        return drawn.repeat_interleave(copies)

    def _advance(
        self, state: CoinGameState, outputs: Tensor, random: torch.Generator
    ) -> tuple[CoinGameState, tuple[Tensor, ...]]:
        """One step of both seats from their outputs (B, 2, 5)."""
        logits, values = outputs[..., :ACTIONS], outputs[..., ACTIONS]
        actions, log_probs, entropies = choose(logits.flatten(0, 1), random)
        after = self.game.step(state, actions.view(-1, 2), random)
        rewards = after.reward.to(values.dtype)
        row = (log_probs.view(-1, 2), values, entropies.view(-1, 2), rewards, after.state.picked)
        return after.state, row


def choose(logits: Tensor, random: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
    """Actions (N,) from logits (N, 4), drawn or, without a generator, the most likely ones.

    With their log-probabilities and the distributions' entropies, (N,) each.
    """
    log_probs = logits.log_softmax(-1)
    probabilities = log_probs.exp()
    if random is None:
        actions = logits.argmax(-1)
    else:
        drawn = torch.rand(len(logits), 1, generator=random, device=logits.device)
        bounds = probabilities.detach().cumsum(-1)[:, :-1]
        actions = (drawn >= bounds).sum(1)
    log_prob = log_probs.gather(1, actions[:, None]).squeeze(1)
    return actions, log_prob, -(probabilities * log_probs).sum(-1)


def _rollout(steps: list[tuple[Tensor, ...]]) -> GameRollout:
    return GameRollout(*(torch.stack(column) for column in zip(*steps, strict=True)))


class NetworkPlayer:
    """An agent's network as a player of the coin game (`envs.games.two_player.Player`).

    Args:
        networks: its shape.
        vector: (P₁,).
        deterministic: take the most likely action.
    """

    def __init__(self, networks: BRSNetworks, vector: Tensor, deterministic: bool = False) -> None:
        self.networks, self.deterministic = networks, deterministic
        self.weights = networks.agent.weights(vector.detach()[None])
        self.width = networks.agent.hidden

    @torch.no_grad()
    def act(
        self, state: CoinGameState, seat: int, memory: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Actions (B,) and the next recurrent state (B, hidden)."""
        return self.answer(self.networks.game.observe(state)[:, seat], memory, generator)

    @torch.no_grad()
    def answer(
        self, obs: Tensor, memory: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """The same for observations (B, …)."""
        outputs, memory = self.networks.agent(self.weights, obs[None], memory[None])
        random = None if self.deterministic else generator
        return choose(outputs[0, :, :ACTIONS], random)[0], memory[0]
