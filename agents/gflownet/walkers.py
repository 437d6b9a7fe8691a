"""Samplers that learn nothing, to set beside flow networks: Metropolis-Hastings, random actions.

The chain walks over objects; a move is proposed uniformly among symmetric ones and accepted with
probability min{1, (R(x') / R(x))^β}. A rejected move repeats the object where the chain is, and
that repetition is a sample. The published baseline counts accepted moves only, which converges to
p(x) times the mean acceptance at x: `--accepted-only` does the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from semigradient.domains.flows.constructions import random_policy, rules_of
from semigradient.domains.flows.sample_counts import SampleCounts, distance
from semigradient.domains.flows.trajectories import forward, uniform, uniform_draws
from semigradient.envs.adapters import CoreVector
from semigradient.envs.constructions.building import Building
from semigradient.envs.constructions.construction import Construction, Table, tabulate
from semigradient.envs.constructions.hypergrid import HyperGrid
from semigradient.errors import UserError, require
from semigradient.training.agent import AgentContext, Count, Policy, generator


@dataclass(frozen=True)
class Config:
    """What is sampled, and how much of it at a time."""

    kind: Literal["metropolis", "random"] = "metropolis"
    """A Markov chain over objects, or constructions by uniformly random legal actions."""
    chains: int = 16
    """Parallel chains, or constructions at a time."""
    moves: int = 100
    """Proposals of each chain in one iteration."""
    reward_exponent: float = 1.0
    """β of the distribution R^β / Z."""
    accepted_only: bool = False
    """Count accepted moves only, as the published baseline does (biased)."""
    window: int = 200_000
    """Samples behind the empirical distribution."""

    def __post_init__(self) -> None:
        for name in ("chains", "moves", "window"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)}: must be ≥ 1")
        good = self.reward_exponent > 0
        require(good, f"reward_exponent={self.reward_exponent}: must be > 0")
        chain = self.kind == "metropolis"
        require(chain or not self.accepted_only, "accepted_only=True: kind='random' has no moves")


class Walker:
    """Walks or builds at random, and counts what it meets."""

    STATE = ("now", "_accepted", "progress", "visits", "generator")
    POLICY = ()
    HAS_OPTIMIZER = False

    def __init__(self, config: Config, setup: AgentContext) -> None:
        self.config, self.setup, self.timers = config, setup, setup.timers
        self.grid = _grid(setup) if config.kind == "metropolis" else None
        self.rules: Construction = rules_of(setup, "random")
        self.visits: SampleCounts = SampleCounts(self.rules, config.window, config.reward_exponent)
        self.generator = generator(setup.seed, 1, self.rules.device)
        self.now = torch.full((config.chains,), self.rules.root, device=self.rules.device)
        self.progress, self._accepted = Count(), 0
        if self.grid is not None:
            grid, table = self.grid, self.table
            states = torch.arange(table.size, device=table.device)
            moves = [grid.move(states, torch.full_like(states, k)) for k in range(grid.neighbours)]
            self._neighbours = torch.stack(moves, 1)
            self._log_reward = config.reward_exponent * table.log_reward(states)

    @property
    def table(self) -> Table:
        """The construction with every state written down."""
        enough = isinstance(self.rules, Table)
        require(enough, f"{self.config.kind}: needs a grid that can be enumerated")
        assert isinstance(self.rules, Table)
        return self.rules

    def iterate(self) -> Mapping[str, float | Tensor]:
        """Walk or build for a while."""
        with self.timers("act"):
            if self.config.kind == "metropolis":
                self._walk()
            else:
                self._build()
        found = self.visits.metrics()
        if self.config.kind == "metropolis":
            return {"acceptance": self._accepted / self.progress.steps, **found}
        return {**found, **self.exact()} if isinstance(self.rules, Table) else found

    def policy(self, deterministic: bool = True) -> Policy:
        """Random legal actions: a chain has no policy of construction."""
        return random_policy(self.setup.seed, self.rules.actions)

    def _walk(self) -> None:
        shape, random = (self.config.moves, self.config.chains), self.generator
        device = self.rules.device
        moves = torch.randint(self._neighbours.shape[1], shape, generator=random, device=device)
        levels = torch.rand(shape, generator=random, device=device, dtype=torch.float64).log()
        met, accepted = [], []
        for move, level in zip(moves, levels, strict=True):
            other = self._neighbours[self.now, move]
            agrees = level < self._log_reward[other] - self._log_reward[self.now]
            self.now = torch.where(agrees, other, self.now)
            met.append(self.now)
            accepted.append(agrees)
        kept = torch.stack(accepted)
        self.progress.steps += kept.numel()
        self._accepted += int(kept.sum())
        samples = torch.stack(met)
        self.visits.add(samples[kept] if self.config.accepted_only else samples.flatten())

    def _build(self) -> None:
        self.rules.evict_unused(lambda: self.now)
        draws = uniform_draws(self.rules, self.config.chains, self.generator)
        paths = forward(self.rules, uniform(self.rules), draws)
        self.progress.steps += int(paths.length.sum())
        self.visits.add(paths.objects)
        reward = self.rules.log_reward(paths.objects).exp()
        self.progress.note(reward, paths.length)

    def exact(self) -> dict[str, float]:
        """How far random construction is from R^β / Z."""
        return distance(random_law(self.table), self.visits.target, self.table)


def random_law(table: Table) -> Tensor:
    """Where uniformly random legal actions end: (S,) float64."""
    legal = table.legal(torch.arange(table.size, device=table.device)).double()
    return table.reach((legal / legal.sum(1, keepdim=True).clamp(min=1)).log())[1]


def stationary(grid: HyperGrid, accepted_only: bool = False) -> Tensor:
    """What the frequencies of the chain converge to: (S,) float64.

    p, or p times the mean acceptance when only accepted moves are counted: the chain is
    reversible, so as much arrives at x as leaves it.
    """
    table = tabulate(grid)
    p, states = table.distribution(), torch.arange(table.size, device=table.device)
    if not accepted_only:
        return p
    gain = torch.zeros_like(p)
    for k in range(grid.neighbours):
        other = grid.move(states, torch.full_like(states, k))
        gain += (table.log_reward(other) - table.log_reward(states)).exp().clamp(max=1)
    weighted = p * gain
    return weighted / weighted.sum()


def _grid(setup: AgentContext) -> HyperGrid:
    core = setup.envs.core if isinstance(setup.envs, CoreVector) else None
    rules: Construction | None = core.rules if isinstance(core, Building) else None
    if not isinstance(rules, HyperGrid):
        spec = setup.envs.spec
        raise UserError(
            f"--env {spec.id if spec else '?'}: metropolis walks on semigradient/HyperGrid-v0"
        )
    return rules
