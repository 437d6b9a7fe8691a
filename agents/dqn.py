"""Deep Q-learning and its usual variants.

    δ = R + γⁿ (1 - terminated) · Q̄(s', a*) - Q(s, a)

with a* the greedy action of the target network Q̄ (Mnih et al. 2015, "Human-level control through
deep reinforcement learning") or of the online network (van Hasselt et al. 2016, "Deep
reinforcement learning with double Q-learning"). Options: n-step returns, the dueling network
(Wang et al. 2016), prioritised replay, distributions of returns (`agents.q_distributions`), a hard
or exponentially averaged target, or no target network at all, where the bootstrap moves with every
update. Several discrete choices side by side (MultiDiscrete) have action values each, see
`agents.q_heads`. In environments with a clock `time` puts it into physical time, as the baseline of
Deep Advantage Updating (`domains.continuous_time.physical_learning`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from semigradient.agents.dqn_config import Config
from semigradient.agents.q_distributions import Distribution, distribution, rows_of
from semigradient.agents.q_exploration import Exploration, Falling, best
from semigradient.agents.q_heads import q_head
from semigradient.agents.q_losses import (
    mean_error,
    mean_of,
    td_loss,
    td_targets,
    temporal_difference,
    weighted_mean,
)
from semigradient.agents.q_parts import (
    make_exploration,
    make_memory,
    make_network,
    phase,
    refuse_in_stacks,
    require_single,
)
from semigradient.diagnostics.action_values import fresh_memory, value_experience
from semigradient.diagnostics.examples import Experience
from semigradient.domains.continuous_time.physical_learning import scale
from semigradient.envs import ExactVector
from semigradient.envs.clock import clock_of
from semigradient.errors import require
from semigradient.optim.physical_time import per_second
from semigradient.optim.temporal_difference import (
    DifferentiatesTemporalDifference,
    TemporalDifference,
    wants_temporal_difference,
)
from semigradient.training.agent import AgentContext, LearningRate, Policy, generator
from semigradient.training.compiling import maybe_compile
from semigradient.training.corrections import follows_target, warn_of_limits
from semigradient.training.draws import Generators, Random
from semigradient.training.gradients import clip_factor, clip_gradients, descend
from semigradient.training.prioritised_replay import PrioritisedReplay
from semigradient.training.replay import Batch
from semigradient.training.stepping import EnvStepper
from semigradient.training.targets import move_towards


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
        self.updates_per_phase, self.steps_per_phase = phase(config, envs.num_envs)
        self.head = q_head(envs.single_action_space)
        require_single(config, self.head, envs.single_action_space)
        self.distribution = distribution(config, setup.device)
        self.stepper = EnvStepper(envs, setup.timers)
        atoms = 1 if self.distribution is None else self.distribution.atoms
        make = partial(make_network, config, setup, self.head.outputs * atoms)
        self.network = make()
        self.target = make() if config.target != "none" else self.network
        self.target.load_state_dict(self.network.state_dict())
        has_errors = self.distribution is None
        parameters = list(self.network.parameters())
        self.optimizer = setup.make_optimizer(parameters, temporal_differences=has_errors)
        self.discount, self.step_reward = self._in_physical_time()
        if setup.learning:
            frozen = config.target != "none"
            warn_of_limits(self.optimizer, frozen, frozen, huber=config.loss == "huber")
        self.learning_rate = LearningRate(self.optimizer, config.schedule)
        self.memory = make_memory(config, setup)
        span = config.epsilon_fraction * setup.total_steps
        epsilon = Falling(config.epsilon_start, config.epsilon_end, span)
        self.exploration = make_exploration(
            config, setup, self.head, envs.num_envs, epsilon, (1, 4)
        )
        self.sampling: Random = generator(setup.seed, 2)
        self.updates = 0
        self._target_version = 0
        self.bind()

    def bind(self) -> None:
        """Join the parts that this agent has now; those of a stack take K runs at once."""
        if isinstance(self.sampling, Generators):
            refuse_in_stacks(self.config, len(self.sampling.each))
        self.progress = self.stepper
        self.learning_rate = self.learning_rate.of(self.optimizer)
        self._parameters = tuple(self.network.parameters())
        self._following = tuple(self.target.parameters())
        optimizer = self.optimizer
        self._observer = optimizer if wants_temporal_difference(optimizer) else None
        self._loss = maybe_compile(self._loss_and_values, self.setup.compile)

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
                made = (self.config, self.setup, self.head, len(obs), Falling(end, end, 0), (3, 5))
                exploration.append(make_exploration(*made))
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
        is_single = self.head.is_single and self.distribution is None
        require(is_single, "diagnose: accepts one temporal difference per transition")
        memory = (
            self.memory if envs is None else fresh_memory(self.policy(False), envs, steps, self)
        )
        return value_experience(self, memory)

    def _collect(self) -> None:
        stepper = self.stepper
        obs = stepper.obs
        with self.timers("act"):
            values = partial(self._values, obs)
            count = self.setup.envs.num_envs
            actions = self.exploration.act(values, count, stepper.mask, stepper.steps)
        step = stepper.step(actions)
        with self.timers("store"):
            reward, ended = self.learned_reward(step.reward), (step.terminated, step.truncated)
            self.memory.add(obs, actions, reward, *ended, step.next_obs, step.next_mask)

    @torch.no_grad()
    def _values(self, obs: np.ndarray) -> Tensor:
        """Action values (B, outputs), or (K, B, outputs) of K runs."""
        return self._means(self.network(torch.from_numpy(obs).to(self.setup.device)))

    def _means(self, outputs: Tensor) -> Tensor:
        """Action values (m, A) of the outputs of a network."""
        return outputs if self.distribution is None else self.distribution.means(outputs)

    def _learn_phase(self) -> tuple[Tensor, Tensor]:
        """The gradient steps of one phase; loss and mean prediction of the last.

        The memory is fixed during the phase and so is a hard target, so many minibatches are
        drawn and put through the target network at once.
        """
        config, count = self.config, self.updates_per_phase
        if config.target == "hard":
            self._copy_to_target()
        if isinstance(self.memory, PrioritisedReplay):
            self.memory.anneal(self.stepper.steps / self.setup.total_steps)
        for drawn in self.memory.samples(
            count, config.batch_size, self.sampling, self.discount, config.n_step
        ):
            batches = list(drawn.split(config.batch_size))
            next_q: Sequence[Tensor | None] = [None] * len(batches)
            if config.target == "hard":
                with torch.no_grad():
                    next_q = self.target(drawn.next_obs).split(config.batch_size, -2)
            for batch, values in zip(batches, next_q, strict=True):
                loss, value = self._learn(batch, values)
        return loss, value

    def _learn(self, batch: Batch, next_q: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One gradient step; `next_q` is Q̄(s', ·) where it is known."""
        config, observer = self.config, self._observer
        self.optimizer.zero_grad()
        if observer is not None and isinstance(observer, DifferentiatesTemporalDifference):
            shown = self._temporal_difference(batch, next_q, batch.weight)
            prediction, error = observer.backward(shown)
            error = error.view(len(batch.reward), -1)
            nothing = torch.zeros_like(error)
            loss = self.head.choices * td_loss(error, nothing, config.loss, batch.weight)
            error = mean_error(error, nothing)
            value = prediction.mean()
            norm = clip_gradients(self._parameters, config.max_grad_norm)
            observer.rescale(clip_factor(norm, config.max_grad_norm))
        else:
            loss, value, error = self._loss(batch, next_q)
            norm = descend(loss, self._parameters, config.max_grad_norm)
            if observer is not None:
                weight = clip_factor(norm, config.max_grad_norm).expand_as(batch.reward)
                weight = weight if batch.weight is None else weight * batch.weight
                observer.observe(self._temporal_difference(batch, next_q, weight))
        self.optimizer.step()
        if isinstance(self.memory, PrioritisedReplay):
            self.memory.update(batch.row, error)
        self.updates += 1
        if config.target == "ema":
            move_towards(self._following, self._parameters, config.target_rate)
        return loss.detach(), value

    def _loss_and_values(
        self, batch: Batch, next_q: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Loss, summed over choices, and mean prediction, 0-dim; (K,) each of K runs.

        Then the errors of samples (m,), where the memory wants them.
        """
        if self.distribution is not None:
            return self._distributional_loss(self.distribution, batch, next_q)
        target = self._td_target(batch, next_q)
        prediction = self.head.values(self.network(batch.obs), batch.action)
        runs, value = batch.reward.ndim - 1, prediction.detach()
        loss = td_loss(prediction, target, self.config.loss, batch.weight, runs)
        error = None if batch.row is None else mean_error(value, target)
        return self.head.choices * loss, mean_of(value, runs), error

    def _distributional_loss(
        self, distribution: Distribution, batch: Batch, next_q: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same of a distribution; a sample's error is its loss."""
        with torch.no_grad():
            ahead = self.target(batch.next_obs) if next_q is None else next_q
            chooser = self._chooser(batch, distribution.means(ahead))
            greedy = self.head.greedy(chooser, batch.next_mask)
            following = rows_of(ahead, greedy, distribution.atoms)
        outputs = self.network(batch.obs)
        chosen = rows_of(outputs, batch.action, distribution.atoms)
        losses = distribution.losses(chosen, batch.reward, batch.discount, following)
        value = distribution.means(chosen.detach()).mean()
        return weighted_mean(losses, batch.weight), value, losses.detach()

    def _chooser(self, batch: Batch, next_q: Tensor) -> Tensor:
        """Values (m, A) that choose a*: the online network's in double Q-learning."""
        double = self.config.double and self.target is not self.network
        return self._means(self.network(batch.next_obs)) if double else next_q

    @torch.no_grad()
    def _td_target(self, batch: Batch, next_q: Tensor | None = None) -> Tensor:
        """R + γⁿ (1 - terminated) Q̄(s', a*): (m,), or (m, K) of several choices."""
        if next_q is None:
            next_q = self.target(batch.next_obs)
        chooser = self._chooser(batch, next_q)
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
