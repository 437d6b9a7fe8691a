"""Where the trajectories of a flow network come from: policy, memory, or a fixed set."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from semigradient.agents.gflownet.config import Config
from semigradient.agents.gflownet.networks import Network
from semigradient.domains.flows.estimates import Estimates, distinct
from semigradient.domains.flows.local_search import Found, search
from semigradient.domains.flows.table_sampler import Built, TableSampler
from semigradient.domains.flows.trajectories import (
    Memory,
    Trajectories,
    backward,
    edges,
    forward,
    join,
    running_sum,
    uniform,
    uniform_draws,
)
from semigradient.envs.constructions.construction import Construction, Parents, Table
from semigradient.nets.flow_network import FlowNetwork
from semigradient.training.agent import remaining

Look = Callable[[Tensor], Estimates]
"""Estimates, without gradient, at states (u,) that increase (or at more states)."""


_MANY = 32


class Mixed(NamedTuple):
    """What to learn from, and where it comes from."""

    paths: Trajectories  # new ones (if any), then remembered ones
    new: Trajectories  # to be remembered
    log_reward: Tensor | None  # of what the new ones became, where there is a memory
    places: Tensor | None  # in memory, of the remembered ones


class Batches:
    """Makes the batches of a run, and remembers.

    Args:
        rules: of the construction.
        config: hyperparameters.
        network: whose policy builds.
        generator: decides everything random here.
    """

    STATE = ("memory",)

    def __init__(
        self,
        rules: Construction,
        config: Config,
        network: Network,
        generator: torch.Generator,
    ) -> None:
        self.rules, self.config, self.generator = rules, config, generator
        self.exponent = config.reward_exponent  # β of the present batch
        self.sampler: TableSampler | None = None
        if isinstance(rules, Table) and isinstance(network, FlowNetwork):
            on_cpu = rules.device.type == "cpu"
            self.sampler = TableSampler(rules, network) if on_cpu else None
        self.memory: Memory | None = None
        stop = rules.actions - 1
        if config.replay != "none":
            horizon = 1 if config.replay == "transitions" else rules.horizon
            size = config.replay_size
            self.memory = Memory(size, horizon, stop, rules.device, config.replay_top)
        if config.offline != "none":
            fixed = self._fixed_set()
            self.memory = Memory(config.offline_size, rules.horizon, stop, rules.device)
            self.memory.add(fixed, torch.zeros(len(fixed.length), device=rules.device))

    def build(self, look: Look, whole: Estimates | None, progress: tuple[int, int]) -> Built:
        """New trajectories of the behaviour policy.

        Args:
            look: estimates at states.
            whole: estimates at all states of a table, if they are there already.
            progress: steps of the run so far, and in all.
        """
        config = self.config
        falling = config.random_schedule == "linear"
        chance = config.random_actions * (remaining(*progress) if falling else 1.0)
        if self.sampler is not None:
            draws = uniform_draws(self.rules, config.batch_size, self.generator)
            return self._in_numpy(self.sampler, draws, whole, chance)
        ready = None if whole is None else behaviour(whole, config.sharpness, chance)

        def cumulative(states: Tensor) -> Tensor:
            if ready is not None:
                return ready.index_select(0, states)
            # Few constructions rarely meet, and finding out where they do takes time as well.
            once = states if len(states) < _MANY else distinct(self.rules, states)
            at = look(once)
            sums = behaviour(at, config.sharpness, chance)
            return sums if once is states else sums.index_select(0, at.rows(states))

        draws = uniform_draws(self.rules, config.batch_size, self.generator)
        return Built(forward(self.rules, cumulative, draws), None)

    def _in_numpy(
        self, sampler: TableSampler, draws: Tensor, whole: Estimates | None, chance: float
    ) -> Built:
        config = self.config
        if whole is not None:
            logits = whole.log_edges.detach()
            return sampler.forward_knowing(logits, draws, config.sharpness, chance)
        alone = self.memory is None and not config.local_search
        and_parents = alone and sampler.can_recall and config.asks_parents
        return sampler.forward(draws, config.sharpness, chance, and_parents)

    def search(self, fresh: Trajectories, look: Look) -> list[Found]:
        """Steps of local search from what was built."""
        config, objects, steps = self.config, fresh.objects, []
        for _ in range(config.local_search):
            found = search(
                self.rules,
                look,
                objects,
                lambda states: self.exponent * self.rules.log_reward(states),
                self.generator,
                config.local_search_back,
                config.local_search_filter,
            )
            steps.append(found)
            objects = found.paths.objects
        return steps

    def mix(self, fresh: Trajectories, look: Look) -> Mixed:
        """The new trajectories, or their edges, and as many remembered ones as are wanted."""
        config, memory = self.config, self.memory
        if memory is None:
            return Mixed(fresh, fresh, None, None)
        new, log_reward = fresh, self.exponent * self.rules.log_reward(fresh.objects)
        if config.replay == "transitions":
            new, log_reward = edges(fresh), log_reward[fresh.valid.nonzero(as_tuple=True)[1]]
        if len(memory) == 0 or config.replay_share == 0:
            return Mixed(new, new, log_reward, None)
        count, share = len(new.length), config.replay_share
        if share < 1:
            count = max(1, round(count * share / (1 - share)))
        power = 0.0 if config.replay_priority == "uniform" else config.replay_power
        old, places = memory.sample(count, self.generator, power)
        if config.replay == "terminals":
            old = backward(self.rules, old.objects, self.generator, self._parents(look))
        paths = old if share == 1 else join([new, old], self.rules.actions - 1)
        return Mixed(paths, new, log_reward, places)

    def remember(self, mixed: Mixed, penalty: Tensor) -> None:
        """Keep what is new, and note what remembered ones cost now: (B,) of `mixed.paths`."""
        if self.memory is None or mixed.log_reward is None:
            return
        priority = mixed.log_reward
        if self.config.replay_priority == "loss":
            cost = (penalty + 1e-12).log().double()
            learned = 0 if self.config.replay_share == 1 else len(mixed.new.length)
            # What has not been learned from comes first.
            highest = self.memory.highest()
            priority = torch.full_like(priority, highest)
            priority[:learned] = cost[:learned]
            if mixed.places is not None:
                self.memory.priority[mixed.places] = cost[learned:]
        self.memory.add(mixed.new, priority)

    def from_fixed_set(self) -> Trajectories:
        """A batch of the fixed set."""
        assert self.memory is not None, "there is no fixed set"
        return self.memory.sample(self.config.batch_size, self.generator, 0.0)[0]

    def referenced(self) -> Tensor:
        """States that are remembered, each once."""
        if self.memory is None:
            return torch.zeros(0, dtype=torch.int64, device=self.rules.device)
        return self.memory.everything().state.unique()

    def _parents(self, look: Look) -> Callable[[Tensor, Parents], Tensor] | None:
        """A learned backward policy; None for the uniform one."""
        if self.config.backward != "learned":
            return None
        rules = self.rules
        return lambda states, parents: look(distinct(rules, states)).log_parents(states, parents)

    def _fixed_set(self) -> Trajectories:
        """The trajectories of offline learning."""
        rules, count = self.rules, self.config.offline_size
        if self.config.offline == "random-policy":
            return forward(rules, uniform(rules), uniform_draws(rules, count, self.generator))
        objects = rules.objects  # type: ignore[attr-defined]  # a table, as the agent has checked
        drawn = torch.randint(len(objects), (count,), generator=self.generator, device=rules.device)
        return backward(rules, objects[drawn], self.generator)


def behaviour(at: Estimates, sharpness: float, random: float) -> Tensor:
    """Running sums (u, A) of (1 - ε) softmax(κ log P) + ε / (number of legal actions)."""
    with torch.no_grad():
        logits = at.log_edges if sharpness == 1 else sharpness * at.log_edges
        chance = logits.softmax(1)
        if random > 0:
            legal = at.legal.to(chance.dtype)
            chance = (1 - random) * chance + random * legal / legal.sum(1, keepdim=True).clamp(1)
        return running_sum(chance)
