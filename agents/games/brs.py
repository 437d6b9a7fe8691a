"""Best response shaping (BRS, BRS-SP) on the coin game.

    detective:  θ₂ ← θ₂ + α₂ Σ_t A²_t ∇ log π_θ₂(b_t | π_θ₁', s_t),     θ₁' a noisy past agent
    agent:      θ₁ ← θ₁ + α₁ Σ_t A¹_t (∇ log π_θ₁(a_t|s_t) + ∇_θ₁ log π_θ₂(b_t | π_θ₁, s_t))
    BRS-SP:     θ₁ ← θ₁ + α₃ Σ_t A¹_t ∇ (log π_θ₁(a_t|s_t) + log π_θ₁(b_t|o_t)),  with itself

The detective learns the best response to any agent by querying it (`agents.games.detective`); the
agent learns to make the best response good for itself. The two terms of its gradient have an
optimizer each, and so has everything else.

Training plays the game itself; the environment's opponent is used in evaluations only.
A step is one joint step of such a game; those of simulations are not counted.

Source: T. Cooijmans, PhD thesis 2023, section 5.4, Algorithm 2 (whose misprints are θ₁' and the
missing brackets around both terms) and 5.A.2. It leaves open the widths, the entropy bonuses and
the number of updates. Advantages take no factor γ^t, and games end after their horizon.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semigradient.agents.games.detective import BRSNetworks, GameRollout, NetworkPlayer, Questions
from semigradient.envs.games.coin_versus import coin_game_behind
from semigradient.errors import require
from semigradient.gradients.self_play import self_play_return
from semigradient.training.agent import (
    AgentContext,
    Count,
    Policy,
    generator,
)
from semigradient.training.returns import gae


@dataclass(frozen=True)
class Config:
    """Hyperparameters; the published batch is `--num-envs 128`, its policy rate `--optim.lr`."""

    self_play: bool = False
    """Also train in self-play with reward sharing (BRS-SP)."""
    gamma: float = 0.96
    """Discount of one step, in [0, 1]."""
    gae_lambda: float = 1.0
    """Trace decay of the advantages; 1: Monte Carlo returns."""
    hidden: int = 64
    """Width of both networks."""
    question_samples: int = 16
    """Simulated games for each of the detective's questions."""
    question_steps: int = 4
    """Steps of each; a single one carries no information about how the agent reacts."""
    common_random_numbers: bool = False
    """Coins of all simulated games of a question reappear by the same draws (as in BRS-SP)."""
    buffer_size: int = 2048
    """Past agents that the detective learns from."""
    noise: float = 0.1
    """Standard deviation of the noise on their parameters."""
    lr_shaping: float = 0.0
    """Learning rate of the agent's second term; 0 takes the policy's.

    Adam normalises any gradient, so while the detective does not react yet this term is noise
    at the full learning rate."""
    lr_sharing: float = 0.0
    """Learning rate of self-play; 0 takes the policy's."""
    lr_detective: float = 3e-4
    """Learning rate of the detective's policy."""
    lr_value: float = 3e-4
    """Learning rate of both values."""
    entropy_coefficient: float = 0.1
    """Weight of the agent's entropy."""
    detective_entropy_coefficient: float = 0.1
    """Weight of the detective's entropy."""

    def __post_init__(self) -> None:
        def check(names: str, is_valid: Callable[[float], bool], accepted: str) -> None:
            for name in names.split():
                value = getattr(self, name)
                require(is_valid(value), f"{name}={value}: must be {accepted}")

        check("gamma gae_lambda", lambda value: 0 <= value <= 1, "in [0, 1]")
        check("hidden question_samples question_steps buffer_size", lambda value: value >= 1, "≥ 1")
        check(
            "noise entropy_coefficient detective_entropy_coefficient lr_shaping lr_sharing",
            lambda value: value >= 0,
            "≥ 0",
        )
        check("lr_detective lr_value", lambda value: value > 0, "> 0")


class BRS:
    """One detective step, one agent step and, for BRS-SP, one step of self-play per iteration."""

    STATE = ("agent", "detective", "optimizers", "past", "pushed", "progress", "random")
    POLICY = ("agent",)

    def __init__(self, config: Config, setup: AgentContext) -> None:
        self.config, self.setup, self.timers = config, setup, setup.timers
        require(not setup.compile, "compile=True: best response shaping is not compiled")
        self.game = coin_game_behind(setup.envs, "brs", setup.device)
        self.random = generator(setup.seed, 1, setup.device)
        questions = Questions(
            config.question_samples,
            config.question_steps,
            config.gamma,
            config.common_random_numbers,
        )
        self.networks = BRSNetworks(self.game, config.hidden, questions)
        first = generator(setup.seed, 2)
        self.agent, self.detective = (
            nn.Parameter(net.initial(first)[None].to(setup.device))
            for net in (self.networks.agent, self.networks.detective)
        )
        self.optimizers = self._optimizers()
        size = config.buffer_size if setup.learning else 1
        self.past = torch.zeros(size, self.networks.agent.parameters, device=setup.device)
        self.progress, self.pushed = Count(), 0
        self._push()

    def iterate(self) -> Mapping[str, float | Tensor]:
        """Train the detective, then the agent, then store the agent."""
        with self.timers("detective"):
            scalars = self._teach_detective()
        with self.timers("agent"):
            scalars |= self._teach_agent()
        if self.config.self_play:
            with self.timers("self-play"):
                scalars |= self._teach_sharing()
        self._push()
        return scalars

    def _teach_detective(self) -> dict[str, Tensor]:
        """REINFORCE and value of seat 1, against noisy agents of the past."""
        count, stored = self.setup.envs.num_envs, min(self.pushed, len(self.past))
        rows = torch.randint(stored, (count,), generator=self.random, device=self.past.device)
        agents = self.past[rows]
        noise = torch.randn(agents.shape, generator=self.random, device=agents.device)
        record = self._play(agents + self.config.noise * noise, self.detective)
        advantage, value_loss = self._judge(record, 1)
        bonus = self.config.detective_entropy_coefficient * record.entropies[..., 1].mean()
        loss = -(advantage * record.log_probs[..., 1]).mean() - bonus
        self._step(detective=loss, detective_value=value_loss)
        return {
            "detective_return": record.rewards[..., 1].sum(0).mean(),
            "detective_entropy": record.entropies[..., 1].detach().mean(),
            "detective_value_loss": value_loss.detach(),
        }

    def _teach_agent(self) -> dict[str, Tensor]:
        """Both terms of the agent's gradient and its value; θ₂ is a constant here."""
        record = self._play(self.agent, self.detective.detach())
        advantage, value_loss = self._judge(record, 0)
        bonus = self.config.entropy_coefficient * record.entropies[..., 0].mean()
        own = -(advantage * record.log_probs[..., 0]).mean() - bonus
        shaping = -(advantage * record.log_probs[..., 1]).mean()
        gradients = self._step(agent=own, shaping=shaping, agent_value=value_loss)
        total = record.rewards.sum(0)
        self.progress.note(total[:, 0], torch.full_like(total[:, 0], self.game.horizon))
        picked = record.picked
        return {
            "agent_return": total[:, 0].mean(),
            "opponent_return": total[:, 1].mean(),
            "agent_entropy": record.entropies[..., 0].detach().mean(),
            "agent_value_loss": value_loss.detach(),
            "gradient_norm": gradients["agent"].norm(),
            "shaping_gradient_norm": gradients["shaping"].norm(),
            "agent_takes_opponents_coin": (picked[..., 0] == 2).double().mean(),
            "detective_takes_opponents_coin": (picked[..., 1] == 2).double().mean(),
        }

    def _teach_sharing(self) -> dict[str, Tensor]:
        """Self-play with reward sharing; both seats' log-probabilities have gradients."""
        count = self.setup.envs.num_envs
        record = self.networks.play_itself(self.agent, count, self.random)
        self.progress.steps += count * self.game.horizon
        advantage, _ = self._judge(record, 0)
        own, other = record.log_probs.unbind(2)
        objective = self_play_return(own, other, advantage) / self.game.horizon
        self._step(sharing=-objective)
        return {"self_play_return": record.rewards.sum(0).mean()}

    def _play(self, agents: Tensor, detective: Tensor) -> GameRollout:
        count = self.setup.envs.num_envs
        self.progress.steps += count * self.game.horizon
        return self.networks.play(agents, detective, count, self.random)

    def _judge(self, record: GameRollout, seat: int) -> tuple[Tensor, Tensor]:
        """Advantages (T, B), constants, and the Huber loss of the values."""
        reward, value = record.rewards[..., seat], record.values[..., seat]
        ended = torch.zeros_like(reward, dtype=torch.bool)
        ended[-1] = True
        following = torch.cat((value[1:], torch.zeros_like(value[:1]))).detach()
        config = self.config
        advantage, target = gae(
            reward,
            ended,
            torch.zeros_like(ended),
            value.detach(),
            following,
            config.gamma,
            config.gae_lambda,
        )
        return advantage, F.huber_loss(value, target)

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """One per term: the chosen optimizer, with its own learning rate or that of the config."""
        config = self.config
        plan: dict[str, tuple[nn.Parameter, float | None]] = {
            "agent": (self.agent, None),
            "shaping": (self.agent, config.lr_shaping or None),
            "sharing": (self.agent, config.lr_sharing or None),
            "agent_value": (self.agent, config.lr_value),
            "detective": (self.detective, config.lr_detective),
            "detective_value": (self.detective, config.lr_value),
        }
        if not config.self_play:
            del plan["sharing"]
        optimizers = {}
        for name, (parameter, rate) in plan.items():
            optimizers[name] = self.setup.make_optimizer([parameter])
            for group in optimizers[name].param_groups:
                group["lr"] = group["lr"] if rate is None else rate
        return optimizers

    def _step(self, **losses: Tensor) -> dict[str, Tensor]:
        """Take one step per loss, after computing all gradients at the same parameters."""
        gradients = {}
        for name, loss in losses.items():
            (gradients[name],) = torch.autograd.grad(loss, self._parameter(name), retain_graph=True)
        for name, gradient in gradients.items():
            self._parameter(name).grad = gradient
            self.optimizers[name].step()
            self._parameter(name).grad = None
        return gradients

    def _parameter(self, name: str) -> nn.Parameter:
        """The parameter vector of an optimizer."""
        return self.optimizers[name].param_groups[0]["params"][0]

    def _push(self) -> None:
        self.past[self.pushed % len(self.past)] = self.agent.detach()[0]
        self.pushed += 1

    def player(self, deterministic: bool = False) -> NetworkPlayer:
        """The current agent as a player of the game."""
        return NetworkPlayer(self.networks, self.agent[0].clone(), deterministic)

    def policy(self, deterministic: bool = True) -> Policy:
        """Acts with a recurrent state of its own, which is reset at the end of each game.

        All games begin together and last equally long, so the step count determines the end.
        """
        own, player = generator(self.setup.seed, 3, self.setup.device), self.player(deterministic)
        step, memory = 0, torch.zeros(0)

        def act(obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
            nonlocal step, memory
            if step % self.game.horizon == 0:
                memory = torch.zeros(len(obs), player.width, device=self.setup.device)
            step += 1
            rows = torch.from_numpy(obs).to(self.setup.device)
            actions, memory = player.answer(rows, memory, own)
            return actions.cpu().numpy()

        return act
