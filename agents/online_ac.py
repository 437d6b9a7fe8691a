"""Actor-critic(λ) on a recurrent network that learns at every step, without truncation.

    δ_t = r_t + γ V(o_{t+1}, s_{t+1}) - V(o_t, s_t)
    e_t = γ λ e_{t-1} + ĝ[log π(a_t)] + c_v ĝ[V_t],    θ ← θ + α (δ_t e_t + c_e ĝ[H_t])

where ĝ is an estimate of the gradient by the parameters through the whole past of the episode, by
any estimator of `gradients.recurrent`: with `rtrl` this is the exact recurrent actor-critic(λ) for
constant θ, with `uoro` its mean is, with `tbptt` it is truncated. Sources: C. Tallec, PhD thesis
2019, chapter 3 (UORO); R. Sutton and A. Barto 2018, section 13.5 (actor-critic with traces, here
without the factor γᵗ and with one λ). docs/recurrent_agents.md has the readings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from semigradient.errors import require
from semigradient.gradients import recurrent
from semigradient.nets.bricks import Flat, is_image
from semigradient.nets.cells import make_cell
from semigradient.nets.recurrent_actor_critic import RecurrentActorCritic
from semigradient.training import parts
from semigradient.training.action_box import BoxScale
from semigradient.training.agent import AgentContext, LearningRate, Policy, generator
from semigradient.training.conditions import only_with
from semigradient.training.gradients import clip_gradients
from semigradient.training.stepping import EnvStepper


@dataclass(frozen=True)
class Config:
    """Hyperparameters; the defaults are for small discrete tasks for memory."""

    cell: Literal["rnn", "leaky", "gated", "gru", "lstm"] = "gru"
    """Recurrent cell (docs/recurrent.md)."""
    units: int = 32
    """Units of the cell."""
    chrono: float = 0.0
    """Longest dependency in steps, for chrono initialisation, ≥ 2; 0: the usual one."""
    estimator: Literal[
        "rtrl", "uoro", "preuoro", "nobacktrack", "shaped-uoro", "artbp", "tbptt", "bptt"
    ] = "uoro"
    """Estimator of gradients through time."""
    truncation: int = field(default=4, metadata=only_with(estimator=("tbptt",)))
    """tbptt: steps between two cuts."""
    rank: int = field(default=1, metadata=only_with(estimator=("uoro",)))
    """uoro: independent traces that are averaged."""
    memory: int = field(default=1, metadata=only_with(estimator=("uoro",)))
    """uoro: steps of a block, inside which gradients are exact."""
    segment_mean: float = field(default=16.0, metadata=only_with(estimator=("artbp",)))
    """artbp: mean number of steps between two cuts."""
    gamma: float = 0.99
    """Discount of one step, in [0, 1]."""
    trace_decay: float = 0.9
    """λ, decay of the traces, in [0, 1]."""
    value_coefficient: float = 0.5
    """Weight c_v of the value's gradient."""
    entropy_coefficient: float = 0.01
    """Weight c_e of the entropy bonus."""
    max_grad_norm: float = 0.5
    """Largest norm of a step's gradient; 0: no clipping."""
    schedule: Literal["constant", "linear"] = "constant"
    """Learning rate over the run: constant, or falling linearly to 0."""
    log_std_init: float = 0.0
    """Initial log standard deviation of continuous actions."""

    def __post_init__(self) -> None:
        for name in ("units", "truncation", "rank", "memory"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)}: must be ≥ 1")
        chrono = self.chrono
        require(chrono == 0 or chrono >= 2, f"chrono={chrono}: must be ≥ 2, or 0 for none")
        for name in ("gamma", "trace_decay"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"{name}={value}: must be in [0, 1]")
        for name in ("value_coefficient", "entropy_coefficient", "max_grad_norm"):
            value = getattr(self, name)
            require(value >= 0, f"{name}={value}: must be ≥ 0")


class OnlineActorCritic:
    """One step of B environments and one step of the optimizer at a time."""

    STATE = ("network", "optimizer", "stepper", "generator", "noise", "estimator", "trace")
    POLICY = ("network",)

    def __init__(self, config: Config, setup: AgentContext) -> None:
        self.config, self.setup, self.timers = config, setup, setup.timers
        require(not setup.compile, "compile=True: online-ac takes its gradients step by step")
        envs, kind = setup.envs, config.estimator
        several = f"estimator='bptt', num_envs={envs.num_envs}: its graph ends where all episodes "
        require(
            kind != "bptt" or envs.num_envs == 1 or not setup.learning,
            several + "do, so that it needs num_envs=1; the other estimators take any number",
        )
        observation, action = envs.single_observation_space, envs.single_action_space
        scale = 1 / 255 if is_image(observation) else 1.0
        self.flat = Flat(observation.shape, scale)
        cell = make_cell(config.cell, self.flat.width, config.units, chrono=config.chrono or None)
        self.network = RecurrentActorCritic(cell, action, config.log_std_init).to(setup.device)
        self.optimizer = setup.make_optimizer(self.network.parameters())
        self.learning_rate = LearningRate(self.optimizer, config.schedule)
        self.stepper = self.progress = EnvStepper(envs, setup.timers)
        self.generator = generator(setup.seed, 1, setup.device)
        self.noise = generator(setup.seed, 2)
        options = _options(config)
        examples = envs.num_envs if setup.learning else 1
        self.estimator = recurrent.make(kind, self.network, examples, self.noise, **options)
        count = sum(parameter.numel() for parameter in self.network.parameters())
        self.trace = torch.zeros(examples, count, device=setup.device)
        self._scale = BoxScale(action) if isinstance(action, spaces.Box) else None

    def iterate(self) -> Mapping[str, float | Tensor]:
        """Act once in every environment, and learn from it."""
        config, network = self.config, self.network
        rate = self.learning_rate.set(self.progress.steps, self.setup.total_steps)
        with self.timers("act"):
            output = self.estimator.step(self._seen(self.stepper.obs)).requires_grad_()
            parameters, value = network.split(output, self._tensor(self.stepper.mask))
            noise = network.distribution.noise(value.shape, self.generator)
            action = network.distribution.sample(parameters.detach(), noise)
        step = self.stepper.step(self._to_env(action))
        with self.timers("learn"):
            log_prob, entropy = network.distribution.log_prob_entropy(parameters, action)
            ended = self._tensor(step.terminated | step.truncated)
            error = self._error(step.reward, step.terminated, step.next_obs, value.detach())
            objective = (log_prob + config.value_coefficient * value).sum()
            direction = self._toward(objective, output, keep=True)
            self.trace = config.gamma * config.trace_decay * self.trace + direction
            gradient = (error[:, None] * self.trace).mean(0)
            if config.entropy_coefficient > 0:
                bonus = self._toward(entropy.sum(), output).mean(0)
                gradient = gradient + config.entropy_coefficient * bonus
            recurrent.set_gradient(network, -gradient)
            if config.max_grad_norm > 0:
                clip_gradients(list(network.parameters()), config.max_grad_norm)
            self.optimizer.step()
            self._begin(ended)
        return {
            "td_error": error.square().mean(),
            "entropy": entropy.detach().mean(),
            "trace_norm": self.trace.norm(dim=1).mean(),
            "lr": rate,
        }

    def policy(self, deterministic: bool = True) -> Policy:
        """The most probable action, or a sample; it remembers until it is told to `forget`."""
        return _Policy(self, deterministic)

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore a saved state; where episodes start afresh, so does what was remembered."""
        parts.restore(self, self.STATE, saved)
        if not self.stepper.exact:
            self._begin(torch.ones(len(self.trace), dtype=torch.bool, device=self.setup.device))

    def state_dict(self) -> dict[str, Any]:
        """All parts."""
        return parts.save(self, self.STATE)

    def _toward(self, objective: Tensor, output: Tensor, keep: bool = False) -> Tensor:
        """ĝ (B, θ) of what is a sum of each example's function of its newest output."""
        (cotangent,) = torch.autograd.grad(objective, output, retain_graph=keep)
        return self.estimator.gradient(cotangent)

    @torch.no_grad()
    def _error(
        self, reward: np.ndarray, terminated: np.ndarray, later: np.ndarray, value: Tensor
    ) -> Tensor:
        """δ (B,); what follows a cut is valued at the true successor, with what is remembered."""
        output, _ = self.network(self._seen(later), self.estimator.state)
        after = torch.where(self._tensor(terminated), 0, self.network.split(output)[1])
        return self._tensor(reward).to(value) + self.config.gamma * after - value

    def _begin(self, rows: Tensor) -> None:
        """Nothing reaches from one episode into the next: rows (B,) start from zeros."""
        if rows.any():
            self.estimator.reset(rows)
            self.trace = torch.where(rows[:, None], 0, self.trace)

    def _seen(self, obs: np.ndarray) -> Tensor:
        return self.flat(self._tensor(obs))

    def _tensor(self, array: np.ndarray | None) -> Any:
        return None if array is None else torch.from_numpy(array).to(self.setup.device)

    def _to_env(self, action: Tensor) -> np.ndarray:
        chosen = action.cpu().numpy()
        return chosen if self._scale is None else self._scale(chosen)


class _Policy:
    """Acts in B environments, with a state for each."""

    def __init__(self, agent: OnlineActorCritic, deterministic: bool) -> None:
        self.agent, self.deterministic = agent, deterministic
        self.own = generator(agent.setup.seed, 3, agent.setup.device)
        self.state: Tensor | None = None

    def forget(self, rows: np.ndarray | None = None) -> None:
        """Rows (B,) begin an episode; None: all."""
        if rows is None or self.state is None:
            self.state = None
        else:
            self.state[torch.from_numpy(rows).to(self.state.device)] = 0

    @torch.no_grad()
    def __call__(self, obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Actions (B, *action); another number of rows than before begins anew."""
        agent, network = self.agent, self.agent.network
        if self.state is None or len(self.state) != len(obs):
            self.state = network.cell.start(len(obs))
        output, self.state = network(agent._seen(obs), self.state)
        parameters, value = network.split(output, agent._tensor(mask))
        if self.deterministic:
            return agent._to_env(network.distribution.mode(parameters))
        noise = network.distribution.noise(value.shape, self.own)
        return agent._to_env(network.distribution.sample(parameters, noise))


def _options(config: Config) -> dict[str, Any]:
    """Options of the chosen estimator."""
    if config.estimator == "tbptt":
        return {"length": config.truncation}
    if config.estimator == "uoro":
        return {"rank": config.rank, "memory": config.memory}
    return {"mean": config.segment_mean} if config.estimator == "artbp" else {}
