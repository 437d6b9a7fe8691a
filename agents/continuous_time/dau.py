"""Deep Advantage Updating: Q-learning that survives small time steps.

As dt → 0, Q(s, a) tends to V(s) and forgets the action. Here Q = V + dt A, with

    A(s, a) = Ā(s, a) - Ā(s, π(s))                                            (8.27)
    δQ = dt A(s, a) + V(s) - (r dt + (1 - terminated) γ^dt V(s'))             (8.33)

and V and Ā descend along δQ/dt ∂V(s) and δQ/dt ∂A(s, a), at learning rates in proportion to dt.
Continuous actions: π is a network that ascends Ā(s, π(s)) (algorithm 4). Discrete actions: π(s) is
the maximum of Ā (algorithm 5). C. Tallec, PhD thesis, 2019, chapter 8 and appendix A, after
C. Tallec, L. Blier and Y. Ollivier, "Making deep Q-learning methods robust to time discretization".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from semigradient.domains.continuous_time.physical_learning import Explorer, PhysicalConfig
from semigradient.domains.continuous_time.portraits import portraits
from semigradient.nets.physical import Tower
from semigradient.optim.temporal_difference import TemporalDifference
from semigradient.training.agent import AgentContext, Policy
from semigradient.training.corrections import show, warn_of_limits
from semigradient.training.gradients import descend
from semigradient.training.replay import Batch


@dataclass(frozen=True)
class Config(PhysicalConfig):
    """Hyperparameters; the defaults are the published ones."""

    advantage_scale: Literal["dt", "one"] = "dt"
    """Q = V + dt A, or Q = V + A as in dueling networks: the reparameterisation alone."""
    bootstrap_at: Literal["successor", "state"] = "successor"
    """Where the target's V is taken: at s', or at s (a misprint of algorithms 4 and 5)."""


def residual(
    value: Tensor, advantage: Tensor, reward: Tensor, bootstrap: Tensor, scale: float
) -> Tensor:
    """δQ / scale: (m,) of V(s), A(s, a), r·h and (1 - terminated) γ^dt V(s'), (m,) each."""
    return (scale * advantage + value - reward - bootstrap) / scale


def critic_loss(error: Tensor, value: Tensor, advantage: Tensor) -> Tensor:
    """Whose gradients are mean δQ/dt ∂V(s) and mean δQ/dt ∂A(s, a): (…, m) each → (…,)."""
    return (error.detach() * (value + advantage)).mean(-1)


def discrete_advantage(outputs: Tensor, action: Tensor) -> Tensor:
    """Ā(s, a) - max Ā(s, ·): (…, m) of (…, m, A) and (…, m)."""
    return outputs.gather(-1, action.unsqueeze(-1)).squeeze(-1) - outputs.max(-1).values


class Critic(nn.Module):
    """V and Ā as one network, for optimizers that know that targets move.

    Gives V(s) + A(s, a), whose derivative the gradient has, and what is taken off it, beside the
    reward, to make δQ / scale: V(s) (1 - 1/scale) + discount V(s') / scale; (m,) each.
    """

    def __init__(self, value: nn.Module, advantage: nn.Module, scale: float) -> None:
        super().__init__()
        self.value, self.advantage, self.scale = value, advantage, scale

    def forward(
        self,
        obs: Tensor,
        later: Tensor,
        action: Tensor,
        discount: Tensor,
        policy: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Both, of observations s and s', actions, discounts and (continuous) π(s)."""
        value, following = (self.value(rows).squeeze(1) for rows in (obs, later))
        if policy is None:
            advantage = discrete_advantage(self.advantage(obs), action)
        else:
            at_policy = self.advantage(obs, policy)
            advantage = (self.advantage(obs, action) - at_policy).squeeze(1)
        bootstrap = value * (1 - 1 / self.scale) + discount * following / self.scale
        return value + advantage, bootstrap


class DAU:
    """Explores B environments coherently and learns V, Ā and, for continuous actions, π."""

    STATE = ("networks", "optimizers", "explorer", "updates")
    POLICY = ("networks", "explorer")

    def __init__(self, config: Config, setup: AgentContext) -> None:
        self.config, self.setup, self.timers = config, setup, setup.timers
        self.explorer = Explorer(setup, config)
        self.discrete = self.explorer.actions.discrete
        outputs = self.explorer.actions.outputs
        inputs = prod(setup.envs.single_observation_space.shape)
        axes = len(setup.envs.single_observation_space.shape)
        tower = partial(
            Tower,
            hidden=config.hidden,
            activation=config.activation,
            layer_norm=config.layer_norm,
            axes=axes,
        )
        critic = (inputs, outputs) if self.discrete else (inputs + outputs, 1)
        self.networks = nn.ModuleDict({"value": tower(inputs, 1), "advantage": tower(*critic)})
        actor = None if self.discrete else tower(inputs, outputs, bounded=True)
        self.networks.to(setup.device)
        optimizer = self.explorer.optimizer
        self.optimizers = {"critic": optimizer(self.networks.parameters())}
        if actor is not None:
            self.networks["actor"] = actor.to(setup.device)
            self.optimizers["actor"] = optimizer(actor.parameters(), config.lr_policy)
        self.scale = self.explorer.scale.step if config.advantage_scale == "dt" else 1.0
        if setup.learning:
            warn_of_limits(self.optimizers["critic"])
        self.updates = 0
        self.bind()

    def bind(self) -> None:
        """Join the parts that this agent has now; those of a stack take K runs at once."""
        self.progress = self.explorer.stepper
        self.value, self.advantage = self.networks["value"], self.networks["advantage"]
        if not self.discrete:
            self.actor = self.networks["actor"]
        self.critic = Critic(self.value, self.advantage, self.scale)
        self._losses = self._discrete if self.discrete else self._continuous

    def iterate(self) -> Mapping[str, float | Tensor]:
        """One phase of acting, then, once learning has started, one of learning."""
        self.explorer.collect(self._outputs)
        hours = self.explorer.clock.hours(self.progress.steps)
        scalars: dict[str, float | Tensor] = {"hours": hours}
        if self.explorer.warm:
            with self.timers("learn"):
                for batch in self.explorer.minibatches():
                    error, value, advantage = self._learn(batch)
            scalars |= {
                "error": error.square().mean(-1).sqrt(),
                "value": value.mean(-1),
                "advantage_std": advantage.std(-1, correction=0),
                "updates": float(self.updates),
            }
        return scalars

    def policy(self, deterministic: bool = True) -> Policy:
        """The greedy policy, or that of exploration with noise of its own."""
        return self.explorer.policy(self._outputs, deterministic)

    @torch.no_grad()
    def values(self, obs: np.ndarray) -> np.ndarray:
        """V(s) (B,) of observations (B, *observation)."""
        return self.value(self.explorer.observe(obs)).squeeze(1).cpu().numpy()

    @torch.no_grad()
    def advantages(self, obs: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """A(s, a) (B,); actions are indices (B,), or in [-1, 1] (B, K)."""
        rows = self.explorer.observe(obs)
        chosen = torch.as_tensor(actions, device=rows.device)
        if self.discrete:
            return discrete_advantage(self.advantage(rows), chosen).cpu().numpy()
        advantage = self.advantage(rows, chosen.float()) - self.advantage(rows, self.actor(rows))
        return advantage.squeeze(1).cpu().numpy()

    def pictures(self) -> dict[str, np.ndarray]:
        """On a pendulum, the portrait of value and policy."""
        return portraits(self)

    def _outputs(self, obs: Tensor) -> Tensor:
        """Outputs that exploration perturbs: π(s), or the advantages of all actions."""
        return self.advantage(obs) if self.discrete else self.actor(obs)

    def _learn(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """One step of every network, all from the same parameters; δQ/dt, V and A, detached."""
        loss, error, value, advantage = self._losses(batch)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        descend(loss, (), 0.0)
        show(self.optimizers["critic"], lambda: [self._temporal_difference(batch)])
        if not self.discrete:
            show(self.optimizers["actor"], list)
        for optimizer in self.optimizers.values():
            optimizer.step()
        self.updates += 1
        return error.detach(), value.detach(), advantage.detach()

    @torch.no_grad()
    def _temporal_difference(self, batch: Batch) -> TemporalDifference:
        """The critic's part: the gradient is δQ/dt ∂(V + A), and δQ/dt moves with V, V' and A."""
        scale, at_successor = self.scale, self.config.bootstrap_at == "successor"
        samples = {
            "obs": batch.obs,
            "later": batch.next_obs if at_successor else batch.obs,
            "action": batch.action,
            "discount": batch.discount,
        }
        if not self.discrete:
            samples["policy"] = self.actor(batch.obs)
        return TemporalDifference(
            self.critic,
            samples,
            lambda call, s: call(**s)[0],
            bootstrap=lambda call, s: call(**s)[1],
            discount=torch.ones_like(batch.reward),
            target=batch.reward / scale,
        )

    def _discrete(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        advantage = discrete_advantage(self.advantage(batch.obs), batch.action)
        value = self.value(batch.obs).squeeze(-1)
        error = self._residual(batch, value, advantage)
        return critic_loss(error, value, advantage), error, value, advantage

    def _continuous(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The critic's loss, to which the policy's is added: they share no parameter."""
        action = self.actor(batch.obs)
        held = action.detach().requires_grad_()  # constant for the critic
        at_policy = self.advantage(batch.obs, held)
        (ascent,) = torch.autograd.grad(at_policy.sum(), held, retain_graph=True)
        advantage = (self.advantage(batch.obs, batch.action) - at_policy).squeeze(-1)
        value = self.value(batch.obs).squeeze(-1)
        error = self._residual(batch, value, advantage)
        policy_loss = -(ascent * action).sum(-1).mean(-1)
        loss = critic_loss(error, value, advantage) + policy_loss
        return loss, error, value, advantage

    def _residual(self, batch: Batch, value: Tensor, advantage: Tensor) -> Tensor:
        with torch.no_grad():
            at_successor = self.config.bootstrap_at == "successor"
            next_value = self.value(batch.next_obs).squeeze(-1) if at_successor else value
            return residual(value, advantage, batch.reward, batch.discount * next_value, self.scale)
