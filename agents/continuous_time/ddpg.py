"""Deep deterministic policy gradients, as the baseline of Deep Advantage Updating.

    y = r h + (1 - terminated) γ^dt Q̄(s', π̄(s')),   Q descends (Q - y) ∂Q,   π ascends Q(s, π(s))

Lillicrap et al. 2016, "Continuous control with deep reinforcement learning"; with the settings of
C. Tallec, PhD thesis, 2019, algorithm 6 and appendix A: coherent noise, the discount γ^dt, and
rewards and rates in proportion to dt ("scaled") or to a constant step ("unscaled").
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from semigradient.domains.continuous_time.physical_learning import Explorer, PhysicalConfig, Time
from semigradient.domains.continuous_time.portraits import portraits
from semigradient.errors import UserError, require
from semigradient.nets.physical import Tower
from semigradient.optim.temporal_difference import TargetNetwork, TemporalDifference
from semigradient.training.agent import AgentContext, Policy
from semigradient.training.corrections import show, warn_of_limits
from semigradient.training.gradients import descend
from semigradient.training.replay import Batch
from semigradient.training.targets import move_towards


@dataclass(frozen=True)
class Config(PhysicalConfig):
    """Hyperparameters; the defaults are the published ones of the baseline's main figures."""

    time: Time = "unscaled"
    """Rewards and rates times dt (scaled), or times reference_step (unscaled)."""
    target_rate: float = 0.1
    """Share of the networks that the targets take in per gradient step; 1: no target networks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.target_rate <= 1, f"target_rate={self.target_rate}: must be in (0, 1]")


def critic_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Half the mean squared error, (…, m) each → (…,); its gradient is mean (Q - y) ∂Q."""
    return 0.5 * (prediction - target.detach()).square().mean(-1)


class DDPG:
    """Explores B environments and learns Q and π from replayed transitions."""

    STATE = ("networks", "targets", "optimizers", "explorer", "updates")
    POLICY = ("networks", "explorer")

    def __init__(self, config: Config, setup: AgentContext) -> None:
        self.config, self.setup, self.timers = config, setup, setup.timers
        self.explorer = Explorer(setup, config)
        actions = self.explorer.actions
        if actions.discrete:
            space = setup.envs.single_action_space
            raise UserError(f"action space {space}: ddpg accepts Box; dau and dqn accept Discrete")
        inputs = prod(setup.envs.single_observation_space.shape)
        axes = len(setup.envs.single_observation_space.shape)
        shape = (config.hidden, config.activation, config.layer_norm)
        critic = Tower(inputs + actions.outputs, 1, *shape, axes=axes)
        actor = Tower(inputs, actions.outputs, *shape, bounded=True, axes=axes)
        self.networks = nn.ModuleDict({"critic": critic, "actor": actor}).to(setup.device)
        self.targets = copy.deepcopy(self.networks) if config.target_rate < 1 else self.networks
        optimizer = self.explorer.optimizer
        self.optimizers = {
            "critic": optimizer(critic.parameters()),
            "actor": optimizer(actor.parameters(), config.lr_policy),
        }
        if setup.learning:
            frozen = self.targets is not self.networks
            warn_of_limits(self.optimizers["critic"], frozen, frozen)
        self.updates = 0
        self.bind()

    def bind(self) -> None:
        """Join the parts that this agent has now; those of a stack take K runs at once."""
        self.progress = self.explorer.stepper

    def iterate(self) -> Mapping[str, float | Tensor]:
        """One phase of acting, then, once learning has started, one of learning."""
        self.explorer.collect(self._outputs)
        hours = self.explorer.clock.hours(self.progress.steps)
        scalars: dict[str, float | Tensor] = {"hours": hours}
        if self.explorer.warm:
            with self.timers("learn"):
                for batch in self.explorer.minibatches():
                    loss, value = self._learn(batch)
            scalars |= {"loss": loss, "value": value.mean(-1), "updates": float(self.updates)}
        return scalars

    def policy(self, deterministic: bool = True) -> Policy:
        """The greedy policy, or that of exploration with noise of its own."""
        return self.explorer.policy(self._outputs, deterministic)

    @torch.no_grad()
    def values(self, obs: np.ndarray) -> np.ndarray:
        """Q(s, π(s)) (B,) of observations (B, *observation)."""
        rows = self.explorer.observe(obs)
        return self.networks["critic"](rows, self._outputs(rows)).squeeze(1).cpu().numpy()

    def pictures(self) -> dict[str, np.ndarray]:
        """On a pendulum, the portrait of value and policy."""
        return portraits(self)

    def _outputs(self, obs: Tensor) -> Tensor:
        return self.networks["actor"](obs)

    def _learn(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """One step of both networks from the same parameters; the loss and Q(s, a), detached."""
        critic, action = self.networks["critic"], self._outputs(batch.obs)
        held = action.detach().requires_grad_()
        (ascent,) = torch.autograd.grad(critic(batch.obs, held).sum(), held)
        prediction = critic(batch.obs, batch.action).squeeze(-1)
        loss = critic_loss(prediction, self._target(batch))
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        descend(loss - (ascent * action).sum(-1).mean(-1), (), 0.0)
        show(self.optimizers["critic"], lambda: [self._temporal_difference(batch)])
        show(self.optimizers["actor"], list)
        for optimizer in self.optimizers.values():
            optimizer.step()
        if self.targets is not self.networks:
            move_towards(self.targets, self.networks, self.config.target_rate)
        self.updates += 1
        return loss.detach(), prediction.detach()

    @torch.no_grad()
    def _temporal_difference(self, batch: Batch) -> TemporalDifference:
        """The critic's part, for an optimizer that knows that targets move."""
        critic, moving = self.networks["critic"], self.targets is self.networks
        later = {"obs": batch.next_obs, "action": self.targets["actor"](batch.next_obs)}
        copy_of = TargetNetwork(self.targets["critic"], later, batch.discount)
        return TemporalDifference(
            critic,
            {"obs": batch.obs, "action": batch.action},
            lambda call, s: call(s["obs"], s["action"]).squeeze(-1),
            bootstrap=later if moving else None,
            discount=batch.discount if moving else None,
            target=batch.reward if moving else self._target(batch),
            target_network=None if moving else copy_of,
        )

    @torch.no_grad()
    def _target(self, batch: Batch) -> Tensor:
        """Y (m,)."""
        action = self.targets["actor"](batch.next_obs)
        bootstrap = self.targets["critic"](batch.next_obs, action).squeeze(-1)
        return batch.reward + batch.discount * bootstrap
