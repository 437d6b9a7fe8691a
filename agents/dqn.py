"""Deep Q-learning and its usual variants.

    δ = R + γⁿ (1 - terminated) · Q̄(s', a*) - Q(s, a)

with a* the greedy action of the target network Q̄ (Mnih et al. 2015, "Human-level control through
deep reinforcement learning") or of the online network (van Hasselt et al. 2016, "Deep
reinforcement learning with double Q-learning"). Options: n-step returns, the dueling network
(Wang et al. 2016), a hard or exponentially averaged target, or no target network at all, where
the bootstrap moves with every update. Several discrete choices side by side (MultiDiscrete) have
action values each, see `agents.q_heads`. In environments with a clock `time` puts it into
physical time, as the baseline of Deep Advantage Updating
(`domains.continuous_time.physical_learning`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from semigradient.agents.dqn_config import Config
from semigradient.agents.q_exploration import (
    EpsilonGreedy,
    Exploration,
    Falling,
    NoisyValues,
    best,
)
from semigradient.agents.q_heads import q_head
from semigradient.agents.q_losses import td_loss, td_targets, temporal_difference
from semigradient.diagnostics.action_values import fresh_memory, value_experience
from semigradient.diagnostics.examples import Experience
from semigradient.domains.continuous_time.physical_learning import scale
from semigradient.envs import ExactVector
from semigradient.envs.clock import clock_of
from semigradient.errors import UserError, require
from semigradient.nets import torso
from semigradient.nets.q_network import QNetwork
from semigradient.nets.score_network import ScoreQNetwork, ScoreTrunk
from semigradient.optim.physical_time import per_second
from semigradient.optim.temporal_difference import (
    DifferentiatesTemporalDifference,
    TemporalDifference,
    wants_temporal_difference,
)
from semigradient.training.agent import AgentContext, LearningRate, Policy, generator, maybe_compile
from semigradient.training.corrections import follows_target, warn_of_limits
from semigradient.training.exploration import Noise, NoiseConfig
from semigradient.training.gradients import clip_factor, clip_gradients
from semigradient.training.replay import Batch, Replay
from semigradient.training.stepping import EnvStepper


class DQN:
    """Explores in B environments and learns from replayed transitions."""

    STATE = (
        "network",
        "target",
        "optimizer",
        "memory",
        "stepper",
        "exploration",
        "sampling",
        "updates",
        "_target_version",
    )
    POLICY = ("network",)

    def __init__(self, config: Config, setup: AgentContext) -> None:
        self.config, self.setup, self.timers = config, setup, setup.timers
        envs = setup.envs
        self.updates_per_phase, self.steps_per_phase = _phase(config, envs.num_envs)
        self.head = q_head(envs.single_action_space)
        require(
            self.head.is_single or not config.dueling,
            f"dueling=True: accepts Discrete actions, not {envs.single_action_space}",
        )
        self.progress = self.stepper = EnvStepper(envs, setup.timers)
        self.network = self._make_network()
        self.target = self._make_network() if config.target != "none" else self.network
        self.target.load_state_dict(self.network.state_dict())
        self._parameters = list(self.network.parameters())
        self.optimizer = setup.make_optimizer(self._parameters, temporal_differences=True)
        self.discount, self.step_reward = self._in_physical_time()
        if setup.learning:
            frozen = config.target != "none"
            warn_of_limits(self.optimizer, frozen, frozen, huber=config.loss == "huber")
        self.learning_rate = LearningRate(self.optimizer, config.schedule)
        self.memory = self._make_memory()
        span = config.epsilon_fraction * setup.total_steps
        epsilon = Falling(config.epsilon_start, config.epsilon_end, span)
        self.exploration = self._make_exploration(envs.num_envs, epsilon, (1, 4))
        self.sampling = generator(setup.seed, 2)
        self.updates = 0
        self._loss = maybe_compile(self._loss_and_values, setup.compile)
        self._target_version = 0

    def iterate(self) -> Mapping[str, float | Tensor]:
        """One phase of acting, then, once learning has started, one of learning."""
        for _ in range(self.steps_per_phase):
            self._collect()
        steps = self.stepper.steps
        scalars = self.exploration.scalars(steps)
        if steps > self.config.learning_starts:
            rate = self.learning_rate.set(steps, self.setup.total_steps)
            with self.timers("learn"):
                loss, value = self._learn_phase()
            scalars |= {"loss": loss, "value": value, "updates": float(self.updates), "lr": rate}
        return scalars

    def policy(self, deterministic: bool = True) -> Policy:
        """Greedy policy, or one that explores as at the end of the run, with its own generator."""
        exploration: list[Exploration] = []

        def act(obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
            if deterministic:
                return best(self.head, self._values(obs), mask)
            if not exploration:
                end = self.config.epsilon_end
                exploration.append(self._make_exploration(len(obs), Falling(end, end, 0), (3, 5)))
            return exploration[0].act(partial(self._values, obs), len(obs), mask, 0)

        return act

    def learned_reward(self, reward: np.ndarray) -> np.ndarray:
        """Rewards (B,) to learn from: clipped if configured, and scaled to the time step."""
        clipped = np.clip(reward, -1, 1) if self.config.clip_rewards else reward
        return clipped * self.step_reward

    def experience(
        self, envs: ExactVector | None = None, steps: int = 0, seed: int = 0
    ) -> Experience:
        """For observers: the replay memory, or `steps` instants of the policy in `envs`."""
        require(self.head.is_single, "diagnose: accepts one temporal difference per transition")
        memory = (
            self.memory if envs is None else fresh_memory(self.policy(False), envs, steps, self)
        )
        return value_experience(self, memory)

    def _collect(self) -> None:
        stepper = self.stepper
        obs = stepper.obs
        with self.timers("act"):
            values = partial(self._values, obs)
            actions = self.exploration.act(values, len(obs), stepper.mask, stepper.steps)
        step = stepper.step(actions)
        with self.timers("store"):
            self.memory.add(
                obs,
                actions,
                self.learned_reward(step.reward),
                step.terminated,
                step.truncated,
                step.next_obs,
                step.next_mask,
            )

    @torch.no_grad()
    def _values(self, obs: np.ndarray) -> Tensor:
        """Action values (B, outputs)."""
        return self.network(torch.from_numpy(obs).to(self.setup.device))

    def _learn_phase(self) -> tuple[Tensor, Tensor]:
        """The gradient steps of one phase; loss and mean prediction of the last.

        The memory is fixed during the phase and so is a hard target, so many minibatches are
        drawn and put through the target network at once.
        """
        config, count = self.config, self.updates_per_phase
        if config.target == "hard":
            self._copy_to_target()
        for drawn in self.memory.samples(
            count, config.batch_size, self.sampling, self.discount, config.n_step
        ):
            batches = list(drawn.split(config.batch_size))
            next_q: Sequence[Tensor | None] = [None] * len(batches)
            if config.target == "hard":
                with torch.no_grad():
                    next_q = self.target(drawn.next_obs).split(config.batch_size)
            for batch, values in zip(batches, next_q, strict=True):
                loss, value = self._learn(batch, values)
        return loss, value

    def _learn(self, batch: Batch, next_q: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One gradient step; `next_q` is Q̄(s', ·) where it is known."""
        config, optimizer = self.config, self.optimizer
        optimizer.zero_grad()
        if isinstance(optimizer, DifferentiatesTemporalDifference):
            prediction, error = optimizer.backward(self._temporal_difference(batch, next_q))
            loss = self.head.choices * td_loss(error, torch.zeros_like(error), config.loss)
            value = prediction.mean()
            optimizer.rescale(self._clipped())
        else:
            loss, value = self._loss(batch, next_q)
            loss.backward()
            factor = self._clipped()
            if wants_temporal_difference(optimizer):
                weight = factor.expand_as(batch.reward)
                optimizer.observe(self._temporal_difference(batch, next_q, weight))
        optimizer.step()
        self.updates += 1
        if config.target == "ema":
            self._average_into_target()
        return loss.detach(), value

    def _clipped(self) -> Tensor:
        """Clip the gradients; returns the factor."""
        limit = self.config.max_grad_norm
        return clip_factor(clip_gradients(self._parameters, limit), limit)

    def _loss_and_values(self, batch: Batch, next_q: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Loss, summed over choices, and mean prediction, 0-dim."""
        target = self._td_target(batch, next_q)
        prediction = self.head.values(self.network(batch.obs), batch.action)
        loss = self.head.choices * td_loss(prediction, target, self.config.loss)
        return loss, prediction.detach().mean()

    @torch.no_grad()
    def _td_target(self, batch: Batch, next_q: Tensor | None = None) -> Tensor:
        """R + γⁿ (1 - terminated) Q̄(s', a*): (m,), or (m, K) of several choices."""
        if next_q is None:
            next_q = self.target(batch.next_obs)
        double = self.config.double and self.target is not self.network
        chooser = self.network(batch.next_obs) if double else next_q
        return td_targets(batch, self.head.bootstrap(chooser, next_q, batch.next_mask))

    def _temporal_difference(
        self, batch: Batch, next_q: Tensor | None, weight: Tensor | None = None
    ) -> TemporalDifference:
        return self.temporal_difference(self.network, batch, next_q, weight)

    @torch.no_grad()
    def temporal_difference(
        self,
        network: nn.Module,
        batch: Batch,
        next_q: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> TemporalDifference:
        """The minibatch for an optimizer that knows that targets move.

        Args:
            network: of Q: this agent's, or a copy of it.
            batch: transitions.
            next_q: (m, outputs) Q̄(s', ·) where it is known.
            weight: (m,) factor by which the gradient was clipped.
        """
        config, rest = self.config, (self.config.loss, weight, self.head.place)
        if self.target is self.network:
            greedy = self.head.greedy(network(batch.next_obs), batch.next_mask)
            return temporal_difference(network, batch, batch.reward, greedy, *rest)
        next_q = self.target(batch.next_obs) if next_q is None else next_q
        chooser = network(batch.next_obs) if config.double else next_q
        bootstrap = self.head.bootstrap(chooser, next_q, batch.next_mask)
        follows = follows_target(self.optimizer)
        later = self.head.greedy(chooser, batch.next_mask) if follows else None
        target = td_targets(batch, bootstrap)
        return temporal_difference(network, batch, target, later, *rest, following=self.target)

    @torch.no_grad()
    def _average_into_target(self) -> None:
        """Move the target network towards the online one by `target_rate`."""
        pairs = zip(self.target.parameters(), self.network.parameters(), strict=True)
        old, new = zip(*pairs, strict=True)
        torch._foreach_lerp_(old, new, self.config.target_rate)

    def _copy_to_target(self) -> None:
        """Copy the online network when another `target_update_every` steps are full."""
        version = self.stepper.steps // self.config.target_update_every
        if version > self._target_version:
            self.target.load_state_dict(self.network.state_dict())
            self._target_version = version

    def _in_physical_time(self) -> tuple[float, float]:
        """Discount of a step and weight of its reward; the optimizer's rates are scaled alike."""
        config = self.config
        if config.time == "steps":
            return config.gamma, 1.0
        dt = clock_of(self.setup.envs).dt
        discount, step = scale(config.time, dt, config.gamma, config.reference_step)
        per_second(self.optimizer, step)
        return discount, step

    def _make_network(self) -> QNetwork | ScoreQNetwork:
        config, device = self.config, self.setup.device
        space, outputs = self.setup.envs.single_observation_space, self.head.outputs
        width, depth = config.torso_width, config.torso_depth
        if config.torso == "coconet":
            return ScoreQNetwork(ScoreTrunk(space, outputs, width, depth)).to(device)
        make_torso = partial(torso, kind=config.torso, channels=width, depth=depth)
        layers = config.hidden, config.activation, config.dueling
        return QNetwork(space, outputs, *layers, make_torso, config.layer_norm).to(device)

    def _make_memory(self) -> Replay:
        envs = self.setup.envs
        return Replay(
            self.config.buffer_size if self.setup.learning else envs.num_envs,
            envs.num_envs,
            envs.single_observation_space,
            envs.single_action_space,
            self.setup.device,
            stacked=envs.stacked_frames,
        )

    def _make_exploration(
        self, count: int, epsilon: Falling, streams: tuple[int, int]
    ) -> Exploration:
        """Exploration of `count` environments; `streams` of the generators of ε and of noise."""
        config, seed = self.config, self.setup.seed
        if config.exploration == "epsilon":
            return EpsilonGreedy(self.head, epsilon, np.random.default_rng((seed, streams[0])))
        kind = NoiseConfig(config.exploration, config.kappa, config.sigma)
        shape, dt = (count, self.head.outputs), clock_of(self.setup.envs).dt
        random = generator(seed, streams[1], self.setup.device)
        return NoisyValues(self.head, Noise(kind, shape, dt, random))


def _phase(config: Config, num_envs: int) -> tuple[int, int]:
    """(gradient steps, vector steps) of a phase, keeping gradient steps per environment step."""
    every = config.train_every
    if every % num_envs == 0:
        return config.gradient_steps, every // num_envs
    if num_envs % every == 0:
        return config.gradient_steps * num_envs // every, 1
    raise UserError(f"train_every={every}: must be a multiple or a divisor of num_envs={num_envs}")
