"""A value network that learns from recorded episodes, and the gain of its updates nearby in time.

    J(s, a) = (f(s, a) - y)² / 2,    f = Q, or V with a single output

Objectives differ in their targets y: a table of all T steps, computed once or at intervals
(returns, an expert's values, lambda-returns or Q-learning from a frozen copy), or one-step targets
from a moving average of the network or the network itself.

Source: E. Bengio, PhD thesis, section 3.2.2.4, eq. 3.17, 3.19. The factor 1/2 is that of
`diagnostics`; the thesis has none.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from semigradient import optim
from semigradient.diagnostics.examples import Examples, Experience, Params, last_hidden
from semigradient.diagnostics.gain import pointwise_gain
from semigradient.diagnostics.interference import OFFSETS
from semigradient.diagnostics.observer import View
from semigradient.nets.padded import padded_cnn
from semigradient.nets.q_network import QNetwork
from semigradient.optim.configs import OptimizerConfig
from semigradient.optim.temporal_difference import (
    Call,
    Samples,
    TemporalDifference,
    wants_temporal_difference,
)
from semigradient.reproductions.td.recorded import Recorded
from semigradient.training.agent import generator
from semigradient.training.replay import Batch
from semigradient.training.returns import max_q_bootstrap, td_target

MINIBATCH = 32


class Targets(Protocol):
    """Regression targets of the values."""

    moving: bool
    """Whether targets depend on the parameters (learning ignores that derivative)."""
    sarsa: bool
    """Whether moving targets bootstrap from the next action instead of the greedy one."""

    def renew(self, network: nn.Module, updates: int) -> None:
        """Update the targets: before the first update (`updates` 0) and after each."""
        ...

    def at(self, batch: Batch, index: Tensor, next_action: Tensor) -> Tensor:
        """Targets (m,) of the steps `index` (m,)."""
        ...


class TargetTable:
    """Targets (T,) of all steps from `make(network)`, computed once or every `every` updates."""

    moving = sarsa = False

    def __init__(self, make: Callable[[nn.Module], Tensor], every: int = 0) -> None:
        self.make, self.every = make, every
        self.values: Tensor | None = None

    def renew(self, network: nn.Module, updates: int) -> None:
        """Recompute the table if due."""
        if self.values is None or (self.every and updates % self.every == 0):
            self.values = self.make(network)

    def at(self, batch: Batch, index: Tensor, next_action: Tensor) -> Tensor:
        """Look up the targets."""
        assert self.values is not None
        return self.values[index]


class OneStep:
    """r + gamma Q̄(s', a') with Q̄ <- (1 - rate) Q̄ + rate Q after each update; rate 1: Q itself.

    With `every` > 0 instead Q̄ <- Q every `every` updates.
    """

    def __init__(self, rate: float = 1.0, every: int = 0, sarsa: bool = False) -> None:
        self.rate, self.every, self.sarsa = rate, every, sarsa
        self.moving = rate == 1 and every == 0
        self.network: nn.Module | None = None

    @torch.no_grad()
    def renew(self, network: nn.Module, updates: int) -> None:
        """Update the copy."""
        if self.network is None:
            self.network = network if self.moving else copy.deepcopy(network)
        elif self.every and updates % self.every == 0:
            self.network.load_state_dict(network.state_dict())
        elif not self.every and not self.moving:
            pairs = zip(self.network.parameters(), network.parameters(), strict=True)
            for mean, parameter in pairs:
                mean.lerp_(parameter, self.rate)

    @torch.no_grad()
    def at(self, batch: Batch, index: Tensor, next_action: Tensor) -> Tensor:
        """One-step targets."""
        assert self.network is not None
        following = self.network(batch.next_obs)
        if self.sarsa:
            bootstrap = following.gather(1, next_action[:, None])[:, 0]
        else:
            bootstrap = max_q_bootstrap(following)
        return td_target(batch.reward, batch.discount, bootstrap)


def network(recorded: Recorded, seed: int, outputs: int = 0) -> nn.Module:
    """An untrained network of action values, or with `outputs` outputs.

    Two hidden layers of 64 units, or for frames the published convolutional network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        outputs = outputs or recorded.actions
        if recorded.memory.is_stacked:
            made: nn.Module = padded_cnn(outputs, channels=recorded.observation.shape[0])
        else:
            made = QNetwork(recorded.observation, outputs, (64, 64), "leaky_relu", False)
    return made.to(recorded.action.device)


def q_learning(recorded: Recorded) -> Callable[[nn.Module], Tensor]:
    """One-step targets of all steps, from the values of a network."""

    def make(frozen: nn.Module) -> Tensor:
        following = max_q_bootstrap(recorded.evaluate(frozen, successors=True))
        return td_target(recorded.reward, recorded.discount, following)

    return make


class ReplayedLearner:
    """Minibatches of recorded steps, drawn uniformly, and one optimizer step on each.

    A network with one output learns V, otherwise Q; the seed determines the minibatches.
    """

    def __init__(
        self,
        network: nn.Module,
        recorded: Recorded,
        targets: Targets,
        optimizer: OptimizerConfig,
        seed: int,
        batch_size: int = MINIBATCH,
    ) -> None:
        self.network, self.recorded, self.targets = network, recorded, targets
        self.make_optimizer = lambda params: optim.make(optimizer, params)
        self.optimizer = self.make_optimizer(network.parameters())
        self.batch_size = batch_size
        self.drawing = generator(seed, 7)
        self.updates = 0
        first = recorded.at(torch.zeros_like(recorded.action[:1])).obs
        one, zero = network(first).shape[1] == 1, torch.zeros_like(recorded.action)
        self.action = zero if one else recorded.action
        self.next_action = zero if one else recorded.next_action
        self.targets.renew(network, 0)

    def draw(self, count: int) -> Tensor:
        """Indices of steps (count,), uniform with replacement."""
        drawn = torch.randint(self.recorded.size, (count,), generator=self.drawing)
        return drawn.to(self.action.device)

    def learn(self, index: Tensor) -> None:
        """One update on the steps `index` (m,)."""
        batch = self.recorded.at(index)
        target = self.targets.at(batch, index, self.next_action[index])
        prediction = self.network(batch.obs).gather(1, self.action[index][:, None])[:, 0]
        loss = 0.5 * (prediction - target).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        if wants_temporal_difference(self.optimizer):
            self.optimizer.observe(self._temporal_difference(batch, index))
        self.optimizer.step()
        self.updates += 1
        self.targets.renew(self.network, self.updates)

    def parameters(self) -> Params:
        """A copy of the present parameters, by name."""
        return {name: p.detach().clone() for name, p in self.network.named_parameters()}

    def examples(self, index: Tensor, table: Tensor | None = None) -> Examples:
        """The regression at the steps `index`, for observers; to `table` (T,) if given."""
        batch = self.recorded.at(index)
        samples = {"obs": batch.obs, "action": self.action[index]}
        if table is None and self.targets.moving:
            samples |= {
                "reward": batch.reward,
                "discount": batch.discount,
                "next_obs": batch.next_obs,
                "next_action": self.next_action[index],
            }
            return Examples(self.network, samples, _value, self._bootstrapped, moving=True)
        if table is not None:
            samples["target"] = table[index]
        else:
            samples["target"] = self.targets.at(batch, index, self.next_action[index])
        return Examples(self.network, samples, _value, lambda call, s: s["target"])

    def experience(self) -> Experience:
        """All recorded steps, for observers."""
        return Experience(
            self.network,
            self.optimizer,
            self.make_optimizer,
            0.0,
            self.batch_size,
            times=self.recorded.size,
            capacity=self.recorded.size,
            num_envs=1,
            at=self.examples,
            ended=lambda number: self.recorded.terminated[number],
            hidden=last_hidden(self.network),
            continuous=False,
        )

    def view(self, samples: int, seed: int) -> View:
        """The view of an observer without held-out data."""
        return View(self.experience(), self.experience, generator(seed, 8), samples)

    def _bootstrapped(self, call: Call, sample: Samples) -> Tensor:
        following = call(sample["next_obs"])
        if self.targets.sarsa:
            bootstrap = following.gather(0, sample["next_action"])
        else:
            bootstrap = following.max(0).values
        return sample["reward"] + sample["discount"] * bootstrap

    def _temporal_difference(self, batch: Batch, index: Tensor) -> TemporalDifference:
        samples = {"obs": batch.obs, "action": self.action[index]}
        if not self.targets.moving:
            return TemporalDifference(self.network, samples, _value)
        action = self.next_action[index]
        if not self.targets.sarsa:
            with torch.no_grad():
                action = self.network(batch.next_obs).argmax(1)
        following = {"obs": batch.next_obs, "action": action}
        return TemporalDifference(self.network, samples, _value, following, batch.discount)


def nearby_gain(
    learner: ReplayedLearner, index: Tensor, table: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Learn from the steps `index` (m,) and measure the gain at steps around them.

    Losses before and after use the same targets: those of the learner before the update, or
    `table` (T,).

    Returns:
        Sum of the gains by distance in time, -30 to 30, and their number, (61,) each; steps of
        other episodes are ignored.
    """
    offsets = torch.arange(-OFFSETS, OFFSETS + 1, device=index.device)
    number, valid = learner.experience().around(index, offsets)
    examples = learner.examples(number.flatten(), table)
    before = learner.parameters()
    learner.learn(index)
    gain = pointwise_gain(examples, before, learner.parameters()).view_as(number)
    return torch.where(valid, gain, 0.0).sum(1), valid.sum(1)


def _value(call: Call, sample: Samples) -> Tensor:
    return call(sample["obs"]).gather(0, sample["action"])
