"""Markov chains over objects whose proposals learn (after Xie et al. 2021, "MARS").

A chain stands at a state and proposes to add something to it (an action of its construction) or
to take back what was added last (one of its parents), each kind with probability ½ where both are
possible. Which addition and which parent, a network says; it learns by maximum likelihood from
moves that were accepted and raised the reward.

A move x → x' is accepted with probability min{1, (R(x') / R(x))^β q(x | x') / q(x' | x)}, where q
sums over all actions that lead from one to the other. The published forms leave the ratio of
proposals out, which samples something else: `--no-proposal-ratio` does the same. While proposals
learn from the past the chain is exact only in the limit; `--adapt` below 1 freezes them for the
rest.

Where small states are no objects (molecules of one block) the chain may stand there all the same,
for otherwise some objects would have no neighbour; such states are not counted as samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from semigradient.domains.flows.constructions import (
    are_objects,
    graph_shape,
    random_policy,
    rules_of,
)
from semigradient.domains.flows.estimates import Estimates, Network, distinct
from semigradient.domains.flows.sample_counts import SampleCounts
from semigradient.domains.flows.trajectories import forward, uniform, uniform_draws
from semigradient.envs.constructions.construction import Construction, Parents
from semigradient.envs.molecules.block_molecules import BlockMolecules
from semigradient.errors import require
from semigradient.nets import ACTIVATIONS
from semigradient.nets.block_graph import BlockGraphNetwork
from semigradient.nets.flow_network import FlowNetwork
from semigradient.training.agent import (
    AgentContext,
    Count,
    Policy,
    generator,
)

_NO = -torch.inf


@dataclass(frozen=True)
class Config:
    """Chains, and how their proposals learn."""

    chains: int = 16
    """Parallel chains."""
    moves: int = 20
    """Proposals of each chain in one iteration."""
    reward_exponent: float = 1.0
    """β of the distribution R^β / Z."""
    proposal_ratio: bool = True
    """Accept by the ratio of proposals as well; without it, as published, the law is another."""
    backward: Literal["learned", "uniform"] = "learned"
    """How it is chosen what to take back."""
    updates: int = 4
    """Gradient steps in one iteration."""
    batch_size: int = 64
    """Moves in each."""
    memory: int = 10_000
    """Moves that are remembered to learn from, the newest ones."""
    other_moves: float = 0.05
    """Share of accepted moves without gain that are remembered, too, in [0, 1]."""
    adapt: float = 1.0
    """Share of the run in which proposals learn, in [0, 1]; 0 leaves them as they begin."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers."""
    activation: str = "leaky_relu"
    """Nonlinearity of the hidden layers."""
    graph_width: int = 64
    """Molecules: width of embeddings and layers of the network over trees of blocks."""
    graph_steps: int = 4
    """Molecules: convolutions over the tree of blocks."""
    window: int = 200_000
    """Samples behind the empirical distribution."""

    def __post_init__(self) -> None:
        counts = ("chains", "moves", "batch_size", "memory", "window", "graph_width", "graph_steps")
        for name in counts:
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)}: must be ≥ 1")
        require(self.updates >= 0, f"updates={self.updates}: must be ≥ 0")
        good = self.reward_exponent > 0
        require(good, f"reward_exponent={self.reward_exponent}: must be > 0")
        for name in ("other_moves", "adapt"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"{name}={value}: must be in [0, 1]")
        require(min(self.hidden, default=1) >= 1, f"hidden={self.hidden}: widths must be ≥ 1")
        require(
            self.activation in ACTIVATIONS,
            f"activation={self.activation!r}: accepted are {', '.join(ACTIVATIONS)}",
        )


class Proposals(NamedTuple):
    """What may be done at m states, and with which probability."""

    log_add: Tensor  # (m, A) of actions; the last one, stop, is never proposed
    log_cut: Tensor  # (m, K) of edges into the object
    parents: Parents

    @property
    def both(self) -> Tensor:
        """All of them side by side: (m, A + K)."""
        return torch.cat([self.log_add, self.log_cut], 1)


def proposals(
    rules: Construction, network: Network, states: Tensor, backward: str = "learned"
) -> Proposals:
    """Log-probabilities of all moves from states (m,)."""
    once = distinct(rules, states)
    at = Estimates(rules, network, once, backward)
    rows, parents = at.rows(states), rules.parents(states)
    legal = at.legal.index_select(0, rows)
    legal = torch.cat([legal[:, :-1], torch.zeros_like(legal[:, :1])], 1)
    add = at.log_edges.index_select(0, rows).masked_fill(~legal, _NO)
    places = torch.where(parents.real, parents.state, rules.root)
    may = parents.real & stands(rules, places)
    cut = at.log_parents(states, parents).masked_fill(~may, _NO)
    grows, shrinks = legal.any(1), may.any(1)
    half = torch.where(grows & shrinks, 0.5, 1.0).to(add.dtype).log()[:, None]
    return Proposals(_normalised(add, grows) + half, _normalised(cut, shrinks) + half, parents)


def stands(rules: Construction, states: Tensor) -> Tensor:
    """Which states of any shape a chain may stand at: all but a root that is no object."""
    root = torch.tensor([rules.root], device=states.device)
    return (states != rules.root) | bool(are_objects(rules, root))


def _normalised(logits: Tensor, any_: Tensor) -> Tensor:
    """Log-softmax of rows (m, k) where there is anything to choose, -inf elsewhere."""
    safe = torch.where(any_[:, None], logits, 0.0)
    return safe.log_softmax(1).masked_fill(logits == _NO, _NO)


def up_and_down(
    lower: tuple[Tensor, Proposals], upper: tuple[Tensor, Proposals]
) -> tuple[Tensor, Tensor]:
    """Log q of going up from objects to others that they are parents of, and of coming back: (m,).

    Sums over all actions that lead up, each of which is an edge that leads down.
    """
    edges = upper[1].parents
    here = edges.real & (edges.state == lower[0][:, None])
    actions = torch.where(here, edges.action, 0)
    up = lower[1].log_add.gather(1, actions).masked_fill(~here, _NO).logsumexp(1)
    down = upper[1].log_cut.masked_fill(~here, _NO).logsumexp(1)
    return up, down


class MARS:
    """Walks with proposals that learn, and counts what it meets."""

    STATE = (
        "known",
        "network",
        "optimizer",
        "now",
        "memory",
        "_accepted",
        "progress",
        "visits",
        "generator",
    )
    POLICY = ("network",)

    def __init__(self, config: Config, setup: AgentContext) -> None:
        self.config, self.setup, self.timers = config, setup, setup.timers
        self.rules = rules = rules_of(setup, "mars")
        self.network = self._make_network().to(setup.device)
        self.optimizer = setup.make_optimizer(self.network.parameters())
        self.generator = generator(setup.seed, 1, rules.device)
        self.visits = SampleCounts(rules, config.window, config.reward_exponent)
        draws = uniform_draws(rules, config.chains, self.generator)
        self.now = forward(rules, uniform(rules), draws).objects
        self.memory = torch.zeros((0, 2), dtype=torch.int64, device=rules.device)  # object, move
        self.progress, self._accepted = Count(), 0

    def iterate(self) -> Mapping[str, float | Tensor]:
        """Walk for a while, then learn from where that led."""
        config = self.config
        self.rules.evict_unused(self._referenced)
        with self.timers("act"):
            for _ in range(config.moves):
                self.move()
        scalars: dict[str, float | Tensor] = {"acceptance": self._accepted / self.progress.steps}
        if self.progress.steps <= config.adapt * self.setup.total_steps and len(self.memory):
            with self.timers("learn"):
                for _ in range(config.updates):
                    scalars["loss"] = self._learn()
        return {**scalars, **self.visits.metrics()}

    @property
    def known(self) -> dict[str, Tensor]:
        """What remembered states stand for, where their numbers alone do not say it."""
        return self.rules.export_states(self._referenced())

    @known.setter
    def known(self, saved: dict[str, Tensor]) -> None:
        self.rules.import_states(saved)

    def policy(self, deterministic: bool = True) -> Policy:
        """Random legal actions: a chain has no policy of construction."""
        return random_policy(self.setup.seed, self.rules.actions)

    def _make_network(self) -> FlowNetwork | BlockGraphNetwork:
        config, rules = self.config, self.rules
        if isinstance(rules, BlockMolecules):
            require(
                config.backward == "uniform",
                "backward='learned': molecules have no bounded number of parents; use uniform",
            )
            width, steps = config.graph_width, config.graph_steps
            return BlockGraphNetwork(graph_shape(rules), width, steps, normalised=True)
        degree = rules.in_degree if config.backward == "learned" else 0
        sizes = (config.hidden, config.activation)
        return FlowNetwork(rules.width, rules.actions, degree, False, *sizes)

    def _referenced(self) -> Tensor:
        """States that must not be forgotten."""
        return torch.cat([self.now, self.memory[:, 0]])

    def _propose(self, states: Tensor) -> Proposals:
        return proposals(self.rules, self.network, states, self.config.backward)

    @torch.no_grad()
    def move(self) -> None:
        """One proposal of every chain."""
        config, rules, now = self.config, self.rules, self.now
        here = self._propose(now)
        chance = here.both.exp()
        drawn = torch.multinomial(chance, 1, generator=self.generator)[:, 0]
        grows = drawn < rules.actions
        cut = here.parents.state.gather(1, (drawn - rules.actions).clamp(min=0)[:, None])[:, 0]
        other = torch.where(grows, now, cut)
        other[grows] = rules.child(now[grows], drawn[grows])
        gain = config.reward_exponent * (rules.log_reward(other) - rules.log_reward(now))
        ratio = gain
        if config.proposal_ratio:
            there = self._propose(other)
            back = _back(now, here, other, there, grows)
            ratio = gain + back
        level = torch.rand(len(now), generator=self.generator, device=rules.device)
        agrees = level.double().log() < ratio
        self.now = torch.where(agrees, other, now)
        self.visits.add(self.now[are_objects(rules, self.now)])
        self.progress.steps += len(now)
        self._accepted += int(agrees.sum())
        self._remember(now, drawn, agrees, gain)

    def _remember(self, states: Tensor, drawn: Tensor, agrees: Tensor, gain: Tensor) -> None:
        """Keep accepted moves that raised the reward, and a few of the others."""
        lucky = torch.rand(len(states), generator=self.generator, device=self.rules.device)
        kept = agrees & ((gain > 0) | (lucky < self.config.other_moves))
        new = torch.stack([states[kept], drawn[kept]], 1)
        self.memory = torch.cat([self.memory, new])[-self.config.memory :]

    def _learn(self) -> Tensor:
        """One step of maximum likelihood; the loss."""
        count, device = self.config.batch_size, self.rules.device
        rows = torch.randint(len(self.memory), (count,), generator=self.generator, device=device)
        states, moves = self.memory[rows].T.contiguous()
        found = self._propose(states).both.gather(1, moves[:, None])
        loss = -found.mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def _back(now: Tensor, here: Proposals, other: Tensor, there: Proposals, grows: Tensor) -> Tensor:
    """Log q(now | other) - log q(other | now): (m,) float64."""
    up, down = up_and_down((now, here), (other, there))
    cut_up, cut_down = up_and_down((other, there), (now, here))
    return torch.where(grows, down - up, cut_up - cut_down).double()
