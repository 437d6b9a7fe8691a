"""A genetic algorithm over constructions, to set beside samplers: it only wants the best objects.

The genes of an object are the actions that built it. A child is the beginning of one parent's
construction followed by the end of another's; then single actions are replaced, inserted or left
out. A gene that is illegal where it comes up gives way to a random legal action, so every child is
an object. The best distinct objects so far, children included, are the next generation (selection
by truncation, after J. H. Jensen 2019, "A graph-based genetic algorithm"). On molecules this is
crossover and mutation of block trees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from semigradient.domains.flows.constructions import random_policy, rules_of
from semigradient.domains.flows.sample_counts import SampleCounts
from semigradient.domains.flows.trajectories import Trajectories, choose, running_sum
from semigradient.envs.constructions.construction import Construction
from semigradient.errors import require
from semigradient.training.agent import AgentContext, Count, Policy, generator

ANY = -1
"""The gene that stands for a random legal action."""


@dataclass(frozen=True)
class Config:
    """Size of a population and how it breeds."""

    population: int = 100
    """Objects that survive."""
    offspring: int = 64
    """Objects built in one generation."""
    crossover: float = 0.8
    """Probability that a child has two parents, in [0, 1]."""
    mutation: float = 0.5
    """Probability that a child has an action replaced, inserted or left out, in [0, 1]."""
    pressure: float = 2.0
    """How often the best one breeds, where a mean one breeds once, in [1, 2]."""
    window: int = 200_000
    """Objects behind the empirical distribution."""

    def __post_init__(self) -> None:
        for name in ("population", "offspring", "window"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)}: must be ≥ 1")
        for name in ("crossover", "mutation"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"{name}={value}: must be in [0, 1]")
        require(1 <= self.pressure <= 2, f"pressure={self.pressure}: must be in [1, 2]")


def grow(rules: Construction, genes: Tensor, draws: Tensor) -> Trajectories:
    """The constructions that genes prescribe, with random legal actions where they cannot.

    Args:
        rules: of the construction.
        genes: (T, B) actions or `ANY`; beyond the end, stop.
        draws: (horizon, B) uniform on [0, 1), which decide the random ones.
    """
    stop, count, device = rules.actions - 1, genes.shape[1], rules.device
    now = torch.full((count,), rules.root, device=device)
    length, over = torch.zeros_like(now), torch.zeros(count, dtype=torch.bool, device=device)
    states, actions = [now], []
    for step, draw in enumerate(draws):
        legal = rules.legal(now)
        wanted = genes[step] if step < len(genes) else torch.full_like(now, stop)
        fits = (wanted >= 0) & legal.gather(1, wanted.clamp(min=0)[:, None])[:, 0]
        open_ = legal | over[:, None]
        any_ = choose(running_sum(open_.float()), open_, draw)
        taken = torch.where(over, stop, torch.where(fits, wanted, any_))
        alive = (~over).nonzero()[:, 0]
        now = now.index_copy(0, alive, rules.child(now[alive], taken[alive]))
        length[alive] += 1
        states.append(now)
        actions.append(taken)
        over = over | (taken == stop) | rules.finished(now)
        if over.all():
            break
    return Trajectories(torch.stack(states), torch.stack(actions), length)


def cross(one: Trajectories, other: Trajectories, cut: Tensor) -> Tensor:
    """The beginning of one's actions and the end of the other's: genes (2 T, B).

    Args:
        one: B constructions of at most T actions.
        other: B more, padded to as many.
        cut: (2, B) uniform on [0, 1): where the beginning ends, and where the end begins.
    """
    kept = (cut[0] * (one.length + 1)).long()  # of the first: none to all
    start = (cut[1] * (other.length + 1)).long()
    steps = torch.arange(2 * len(one.action), device=cut.device)[:, None]
    behind = (steps - kept + start).clamp(max=len(other.action) - 1)
    tail = other.action.gather(0, behind.clamp(min=0))
    tail = torch.where(steps - kept + start < len(other.action), tail, other.action[-1])
    head = one.action.gather(0, steps.clamp(max=len(one.action) - 1).expand(-1, len(kept)))
    return torch.where(steps < kept, head, tail)


def mutate(genes: Tensor, length: Tensor, draws: Tensor) -> Tensor:
    """One action replaced by a random one, a random one inserted, or one left out: (T, B).

    Args:
        genes: (T, B).
        length: (B,) of the constructions that the genes come from.
        draws: (2, B) uniform on [0, 1): where, and which of the three.
    """
    place, kind = (draws[0] * length).long(), (draws[1] * 3).long()
    steps = torch.arange(len(genes), device=genes.device)[:, None]
    shift = torch.where(kind == 1, -1, torch.where(kind == 2, 1, 0))
    moved = torch.where(steps >= place, steps + shift, steps).clamp(0, len(genes) - 1)
    found = genes.gather(0, moved)
    return torch.where((steps == place) & (kind < 2), ANY, found)


class Genetic:
    """Breeds constructions, and counts what it meets."""

    STATE = ("known", "best", "progress", "visits", "generator")
    POLICY = ()
    HAS_OPTIMIZER = False

    def __init__(self, config: Config, setup: AgentContext) -> None:
        self.config, self.setup, self.timers = config, setup, setup.timers
        self.rules = rules = rules_of(setup, "genetic")
        self.generator = generator(setup.seed, 1, rules.device)
        self.visits = SampleCounts(rules, config.window)
        empty = torch.zeros((rules.horizon + 1, 0), dtype=torch.int64, device=rules.device)
        self.best = Trajectories(empty, empty[1:], empty[0])  # by falling reward
        self.progress = Count()

    @property
    def log_reward(self) -> Tensor:
        """Of the population, falling: (p,)."""
        return self.rules.log_reward(self.best.objects)

    def iterate(self) -> Mapping[str, float | Tensor]:
        """One generation."""
        self.rules.evict_unused(lambda: self.best.state)
        with self.timers("act"):
            children = grow(self.rules, self._genes(), self._draws(self.rules.horizon))
            self.progress.steps += int(children.length.sum())
            self.visits.add(children.objects)
            reward = self.rules.log_reward(children.objects).exp()
            self.progress.note(reward, children.length)
            self._select(children)
        alive = self.log_reward.exp()
        found = {"best": float(alive[0]), "population": float(alive.mean())}
        return {**found, **self.visits.metrics()}

    @property
    def known(self) -> dict[str, Tensor]:
        """What remembered states stand for, where their numbers alone do not say it."""
        return self.rules.export_states(self.best.state)

    @known.setter
    def known(self, saved: dict[str, Tensor]) -> None:
        self.rules.import_states(saved)

    def policy(self, deterministic: bool = True) -> Policy:
        """Random legal actions: a search has no policy of construction."""
        return random_policy(self.setup.seed, self.rules.actions)

    def _draws(self, rows: int) -> Tensor:
        shape = (rows, self.config.offspring)
        return torch.rand(shape, generator=self.generator, device=self.rules.device)

    def _genes(self) -> Tensor:
        """Of the next children: (T, B); all random while nothing is alive."""
        config, alive = self.config, len(self.best.length)
        if alive == 0:
            shape = (self.rules.horizon, config.offspring)
            return torch.full(shape, ANY, device=self.rules.device)
        # Linear ranking: the best one has weight `pressure`, a mean one 1.
        rank = torch.linspace(config.pressure, 2 - config.pressure, alive, device=self.rules.device)
        parents = torch.multinomial(
            rank.clamp(min=1e-9), 2 * config.offspring, True, generator=self.generator
        )
        one, other = (
            Trajectories(self.best.state[:, p], self.best.action[:, p], self.best.length[p])
            for p in parents.split(config.offspring)
        )
        draws = self._draws(6)
        both = cross(one, other, draws[:2])
        alone = torch.cat([one.action, one.action[-1:].expand(len(one.action), -1)])
        genes = torch.where(draws[2] < config.crossover, both, alone)
        changed = mutate(genes, one.length, draws[4:])
        return torch.where(draws[3] < config.mutation, changed, genes)

    def _select(self, children: Trajectories) -> None:
        """The best distinct objects of old and new; the older of two that are alike."""
        stop, horizon = self.rules.actions - 1, self.rules.horizon
        missing = horizon - len(children.action)
        state = torch.cat([children.state, children.state[-1:].expand(missing, -1)])
        blank = children.action.new_full((missing, children.action.shape[1]), stop)
        action = torch.cat([children.action, blank])
        state = torch.cat([self.best.state, state], 1)
        action = torch.cat([self.best.action, action], 1)
        length = torch.cat([self.best.length, children.length])
        order = self.rules.log_reward(state[-1]).argsort(descending=True, stable=True)
        met: set[int] = set()
        kept = []
        for place in order.tolist():
            number = int(state[-1, place])
            if number not in met:
                met.add(number)
                kept.append(place)
            if len(kept) == self.config.population:
                break
        self.best = Trajectories(state[:, kept], action[:, kept], length[kept])
