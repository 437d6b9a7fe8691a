"""Deep Q-learning and its usual variants.

    δ = r + γⁿ (1 - terminated) · Q̄(s', a*) - Q(s, a)

with a* the greedy action of the target network Q̄ (Mnih et al. 2015, "Human-level control through
deep reinforcement learning") or of the online network (van Hasselt et al. 2016, "Deep
reinforcement learning with double Q-learning"). Options: n-step returns, the dueling network
(Wang et al. 2016), a hard or exponentially averaged target, or no target network at all, where
the bootstrap moves with every update. Several discrete choices side by side (MultiDiscrete) have
action values each, see `agents.factored`. In environments with a clock `time` puts it into
physical time, as the baseline of Deep Advantage Updating (`domains.continuous_time.physical_time`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import prod
from typing import cast

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from semigradient.agents import factored
from semigradient.agents.dqn_config import Config
from semigradient.diagnostics.action_values import fresh_memory, value_experience
from semigradient.diagnostics.examples import Experience
from semigradient.domains.continuous_time.physical_time import scale
from semigradient.envs import ExactVector
from semigradient.envs.clock import clock_of
from semigradient.errors import UserError, require
from semigradient.nets import torso
from semigradient.nets.q_network import QNetwork
from semigradient.nets.score_network import ScoreQNetwork, ScoreTrunk
from semigradient.optim.physical_time import per_second
from semigradient.optim.temporal_difference import (
    HALF_SQUARE,
    DifferentiatesTemporalDifference,
    TemporalDifference,
    huber,
    wants_temporal_difference,
)
from semigradient.training.agent import (
    LearningRate,
    Policy,
    Setup,
    generator,
    maybe_compile,
)
from semigradient.training.exploration import Noise, NoiseConfig
from semigradient.training.gradients import clip_factor, clip_gradients
from semigradient.training.replay import Batch, Replay
from semigradient.training.returns import double_q_bootstrap, max_q_bootstrap, td_target
from semigradient.training.stepping import Stepper


def td_loss(prediction: Tensor, target: Tensor, loss: str) -> Tensor:
    """Mean loss of predictions (m,) against constant targets (m,): 0-dim.

    Both kinds are ½δ² near zero, so their derivative by the prediction is -δ.
    """
    if loss == "huber":
        return F.smooth_l1_loss(prediction, target)
    return 0.5 * F.mse_loss(prediction, target)


def epsilon(step: int, total_steps: int, config: Config) -> float:
    """Exploration at `step`: linear over the first `epsilon_fraction` of the run, then constant."""
    span = config.epsilon_fraction * total_steps
    progress = min(1.0, step / span) if span > 0 else 1.0
    return config.epsilon_start + progress * (config.epsilon_end - config.epsilon_start)


class DQN:
    """Acts ε-greedily in B environments and learns from replayed transitions."""

    STATE = (
        "network",
        "target",
        "optimizer",
        "memory",
        "stepper",
        "rng",
        "noise",
        "sampling",
        "updates",
        "_target_version",
    )
    POLICY = ("network",)

    def __init__(self, config: Config, setup: Setup) -> None:
        self.config, self.setup, self.timers = config, setup, setup.timers
        envs = setup.envs
        self.updates_per_phase, self.steps_per_phase = _phase(config, envs.num_envs)
        observation, action = envs.single_observation_space, envs.single_action_space
        self.heads = _heads(action, config.dueling)
        self.actions, self.factored = sum(self.heads), isinstance(action, spaces.MultiDiscrete)
        self.progress = self.stepper = Stepper(envs, setup.timers)
        self.network = self._make_network(observation)
        self.target = self._make_network(observation) if config.target != "none" else self.network
        self.target.load_state_dict(self.network.state_dict())
        self._parameters = list(self.network.parameters())
        self.optimizer = setup.make_optimizer(self._parameters, not self.factored)
        self.discount, self.step_reward = config.gamma, 1.0
        if config.time != "steps":
            dt = clock_of(envs).dt
            self.discount, self.step_reward = scale(
                config.time, dt, config.gamma, config.reference_step
            )
            per_second(self.optimizer, self.step_reward)
        self.learning_rate = LearningRate(self.optimizer, config.schedule)
        self.memory = self._make_memory(observation, action)
        self.rng = np.random.default_rng((setup.seed, 1))
        self.noise = self._make_noise(envs.num_envs, stream=4)
        self.sampling = generator(setup.seed, 2)
        self.updates = 0
        self._loss = maybe_compile(self._loss_and_values, setup.compile)
        self._target_version = 0
        transition_bytes = 2 * observation.dtype.itemsize * prod(observation.shape)
        self._updates_per_draw = max(1, _DRAWN_BYTES // (transition_bytes * config.batch_size))

    def iterate(self) -> Mapping[str, float | Tensor]:
        """One phase of acting, then, when enough has been seen, one of learning."""
        for _ in range(self.steps_per_phase):
            self._collect()
        scalars: dict[str, float | Tensor] = {"epsilon": self._epsilon()}
        if self.stepper.steps > self.config.learning_starts:
            rate = self.learning_rate.set(self.stepper.steps, self.setup.total_steps)
            with self.timers("learn"):
                for batch, next_q in self._minibatches():
                    loss, value = self._learn(batch, next_q)
                scalars |= {
                    "loss": loss,
                    "value": value,
                    "updates": float(self.updates),
                    "lr": rate,
                }
        return scalars

    def policy(self, deterministic: bool = True) -> Policy:
        """Greedy policy, or ε-greedy at the run's final exploration with its own generator."""
        rng = None if deterministic else np.random.default_rng((self.setup.seed, 3))
        noise: list[Noise] = []

        def act(obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
            if rng is not None and self.noise is not None:
                if not noise:
                    noise.append(cast(Noise, self._make_noise(len(obs), stream=5)))
                return self._greedy(obs, mask, noise[0])
            actions = self._greedy(obs, mask)
            if rng is not None:
                self._explore(actions, mask, self.config.epsilon_end, rng)
            return actions

        return act

    def learned_reward(self, reward: np.ndarray) -> np.ndarray:
        """What is learned from raw rewards (B,): clipped if so wanted, and per step of time."""
        clipped = np.clip(reward, -1, 1) if self.config.clip_rewards else reward
        return clipped * self.step_reward

    def _collect(self) -> None:
        stepper = self.stepper
        obs = stepper.obs
        with self.timers("act"):
            rate = self._epsilon()
            if self.noise is not None:
                actions = self._greedy(obs, stepper.mask, self.noise)
                rate = 0.0
            elif rate >= 1:
                shape = (len(obs), len(self.heads)) if self.factored else len(obs)
                actions = np.zeros(shape, dtype=np.int64)
            else:
                actions = self._greedy(obs, stepper.mask)
            self._explore(actions, stepper.mask, rate, self.rng)
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

    def _minibatches(self) -> Iterator[tuple[Batch, Tensor | None]]:
        """The minibatches of one phase, with Q̄(s', ·) where it stands still meanwhile.

        The memory does not change within a phase and neither does a hard target, so many
        minibatches are drawn and put through the target network at once.
        """
        config, size, left = self.config, self.config.batch_size, self.updates_per_phase
        if config.target == "hard":
            self._copy_to_target()
        while left > 0:
            count = min(left, self._updates_per_draw)
            left -= count
            drawn = self.memory.sample(count * size, self.sampling, self.discount, n=config.n_step)
            next_q: Sequence[Tensor | None] = [None] * count
            if config.target == "hard":
                with torch.no_grad():
                    next_q = self.target(drawn.next_obs).split(size)
            columns = [[None] * count if rows is None else rows.split(size) for rows in drawn]
            for *rows, values in zip(*columns, next_q, strict=True):
                yield Batch(*rows), values

    def _learn(self, batch: Batch, next_q: Tensor | None) -> tuple[Tensor, Tensor]:
        config, optimizer = self.config, self.optimizer
        optimizer.zero_grad()
        if isinstance(optimizer, DifferentiatesTemporalDifference):
            prediction, error = optimizer.backward(self._temporal_difference(batch, next_q))
            loss, value = td_loss(error, torch.zeros_like(error), config.loss), prediction.mean()
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
            self._move_target()
        return loss.detach(), value

    def _clipped(self) -> Tensor:
        """Clip the gradients; by what factor."""
        limit = self.config.max_grad_norm
        return clip_factor(clip_gradients(self._parameters, limit), limit)

    def _loss_and_values(self, batch: Batch, next_q: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Loss and mean prediction, 0-dim."""
        target = self._td_target(batch, next_q)
        prediction = self._prediction(batch)
        loss = len(self.heads) * td_loss(prediction, target, self.config.loss)
        return loss, prediction.detach().mean()

    def _prediction(self, batch: Batch) -> Tensor:
        """Q(s, a): (m,), or (m, K) of factored actions."""
        if self.factored:
            return factored.values(self.network(batch.obs), batch.action, self.heads)
        return self.network(batch.obs).gather(1, batch.action[:, None]).squeeze(1)

    @torch.no_grad()
    def _td_target(self, batch: Batch, next_q: Tensor | None = None) -> Tensor:
        """R + γⁿ (1 - terminated) Q̄(s', a*): (m,), or (m, K) of factored actions.

        `next_q` is Q̄(s', ·) where it is known.
        """
        if next_q is None:
            next_q = self.target(batch.next_obs)
        double = self.config.double and self.target is not self.network
        chooser = self.network(batch.next_obs) if double else next_q
        if self.factored:
            best = factored.bootstrap(chooser, next_q, self.heads)
            reward, discount = batch.reward[:, None], batch.discount[:, None]
            return td_target(reward.expand_as(best), discount.expand_as(best), best)
        if double:
            bootstrap = double_q_bootstrap(chooser, next_q, batch.next_mask)
        else:
            bootstrap = max_q_bootstrap(next_q, batch.next_mask)
        return td_target(batch.reward, batch.discount, bootstrap)

    @torch.no_grad()
    def _temporal_difference(
        self, batch: Batch, next_q: Tensor | None, weight: Tensor | None = None
    ) -> TemporalDifference:
        """The minibatch for an optimizer that knows that targets move.

        Without a target network the bootstrap is the prediction at (s', a*). With one it does
        not move with the parameters. `weight` (m,): the factor by which the gradient was clipped.
        """
        bootstrap = None
        if self.target is self.network:
            greedy = _greedy_actions(self.network(batch.next_obs), batch.next_mask)
            bootstrap = {"obs": batch.next_obs, "action": greedy}
        return TemporalDifference(
            self.network,
            samples={"obs": batch.obs, "action": batch.action},
            prediction=lambda call, s: call(s["obs"]).gather(0, s["action"]),
            bootstrap=bootstrap,
            discount=None if bootstrap is None else batch.discount,
            weight=weight,
            target=self._td_target(batch, next_q) if bootstrap is None else batch.reward,
            loss=huber() if self.config.loss == "huber" else HALF_SQUARE,
        )

    @torch.no_grad()
    def _move_target(self) -> None:
        """Take the target network a little of the way to the online one."""
        pairs = zip(self.target.parameters(), self.network.parameters(), strict=True)
        old, new = zip(*pairs, strict=True)
        torch._foreach_lerp_(old, new, self.config.target_rate)

    def _copy_to_target(self) -> None:
        """Copy the online network when another `target_update_every` steps are full."""
        version = self.stepper.steps // self.config.target_update_every
        if version > self._target_version:
            self.target.load_state_dict(self.network.state_dict())
            self._target_version = version

    @torch.no_grad()
    def _greedy(
        self, obs: np.ndarray, mask: np.ndarray | None, noise: Noise | None = None
    ) -> np.ndarray:
        """Best legal actions (B,), of values that `noise` perturbs."""
        q = self.network(torch.from_numpy(obs).to(self.setup.device))
        if noise is not None:
            q = q + noise()
        if self.factored:
            return factored.greedy(q, self.heads).cpu().numpy()
        legal = None if mask is None else torch.from_numpy(mask).to(q.device)
        return _greedy_actions(q, legal).cpu().numpy()

    def _explore(
        self, actions: np.ndarray, mask: np.ndarray | None, rate: float, rng: np.random.Generator
    ) -> None:
        """Replace actions, in place, by uniform legal ones with probability `rate`."""
        explore = rng.random(len(actions)) < rate
        if self.factored:
            uniform = rng.integers(self.heads, size=actions.shape)
        elif mask is None:
            uniform = rng.integers(self.actions, size=len(actions))
        else:
            uniform = (rng.random(mask.shape) * mask).argmax(1)
        actions[explore] = uniform[explore]

    def _epsilon(self) -> float:
        return epsilon(self.stepper.steps, self.setup.total_steps, self.config)

    def _make_network(self, observation: spaces.Box) -> QNetwork | ScoreQNetwork:
        config = self.config
        if config.torso == "coconet":
            trunk = ScoreTrunk(observation, self.actions, config.torso_width, config.torso_depth)
            return ScoreQNetwork(trunk).to(self.setup.device)
        make_torso = partial(
            torso, kind=config.torso, channels=config.torso_width, depth=config.torso_depth
        )
        return QNetwork(
            observation,
            self.actions,
            config.hidden,
            config.activation,
            config.dueling,
            make_torso,
            config.layer_norm,
        ).to(self.setup.device)

    def _make_noise(self, count: int, stream: int) -> Noise | None:
        """Noise on the values of `count` environments, if that is how they are explored."""
        config = self.config
        if config.exploration == "epsilon":
            return None
        random = generator(self.setup.seed, stream, self.setup.device)
        noise = NoiseConfig(config.exploration, config.kappa, config.sigma)
        return Noise(noise, (count, self.actions), clock_of(self.setup.envs).dt, random)

    def _make_memory(self, observation: spaces.Box, action: spaces.Space) -> Replay:
        count, device = self.setup.envs.num_envs, self.setup.device
        capacity = self.config.buffer_size if self.setup.learning else count
        masked = self.stepper.mask is not None
        stacked = self.setup.envs.stacked_frames
        return Replay(capacity, count, observation, action, device, masked, stacked)

    def experience(
        self, envs: ExactVector | None = None, steps: int = 0, seed: int = 0
    ) -> Experience:
        """For observers: the replay memory, or `steps` instants of the policy in `envs`."""
        require(not self.factored, "diagnose: accepts one temporal difference per transition")
        memory = (
            self.memory if envs is None else fresh_memory(self.policy(False), envs, steps, self)
        )
        return value_experience(self, memory)


_DRAWN_BYTES = 16 * 2**20  # of observations that are sampled at once


def _heads(action: spaces.Space, dueling: bool) -> tuple[int, ...]:
    """Numbers of actions: one, or one for each choice of a MultiDiscrete space."""
    if isinstance(action, spaces.MultiDiscrete) and action.nvec.ndim == 1:
        require(not dueling, f"dueling=True: accepts Discrete actions, not {action}")
        return tuple(action.nvec.tolist())
    if not isinstance(action, spaces.Discrete) or action.start != 0:
        raise UserError(
            f"action space {action}: Q-learning accepts Discrete (from 0), MultiDiscrete"
        )
    return (int(action.n),)


def _greedy_actions(q: Tensor, legal: Tensor | None) -> Tensor:
    """Best legal actions (B,) of values (B, A)."""
    return (q if legal is None else q.where(legal, -torch.inf)).argmax(1)


def _phase(config: Config, num_envs: int) -> tuple[int, int]:
    """(gradient steps, vector steps) of a phase, keeping gradient steps per environment step."""
    every = config.train_every
    if every % num_envs == 0:
        return config.gradient_steps, every // num_envs
    if num_envs % every == 0:
        return config.gradient_steps * num_envs // every, 1
    raise UserError(f"train_every={every}: must be a multiple or a divisor of num_envs={num_envs}")
