"""Objects built step by step, as the directed acyclic graph that flows run through.

A construction has numbered states, one root, and A actions, of which the last is "stop": keep the
object as it is. Stopping leads to a sink of the state's own, so that its only parent edge is
(state, stop). A state without any legal action is an object that is complete, and all edges into
it end the construction (Bengio 2022, section 5.2; Bengio et al. 2021, "Flow network based
generative models for non-iterative diverse candidate generation").

Several actions may lead from one state to the same child. They are several edges, and each of
them is a parent: leaving one out changes what a vanishing loss means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from semigradient.envs.pictures import enlarged
from semigradient.errors import UserError, require


class Parents(NamedTuple):
    """The edges into m states, at most K of them each; what is not `real` is padding.

    The position k of an edge is what a learned backward policy chooses from.
    """

    state: Tensor  # (m, K) int64
    action: Tensor  # (m, K) int64
    real: Tensor  # (m, K) bool


class Construction(Protocol):
    """Rules of a construction, on batches of state numbers (m,) int64.

    Attributes:
        device: where its tensors live.
        actions: A, the number of actions; the last one is stop.
        in_degree: K, the most edges into one state.
        horizon: the most actions of one construction, stop included.
        size: states have numbers below it, not all of which need to be reachable; 0: unbounded.
        root: the state that everything starts from.
        width: D, the length of a feature vector.
        mode_count: how many modes the reward has; 0 if nobody says.
        enumerable: whether there are few enough states to write all of them down.
    """

    device: torch.device
    actions: int
    in_degree: int
    horizon: int
    size: int
    root: int
    width: int
    mode_count: int
    enumerable: bool

    def legal(self, states: Tensor) -> Tensor:
        """Legal actions (m, A) bool; none where the object is complete."""
        ...

    def child(self, states: Tensor, actions: Tensor) -> Tensor:
        """Where legal actions (m,) lead: (m,); stop leads to the state itself."""
        ...

    def finished(self, states: Tensor) -> Tensor:
        """Which objects are complete, having no legal action: (m,) bool."""
        ...

    def parents(self, states: Tensor) -> Parents:
        """The edges into states."""
        ...

    def edges_into(self, states: Tensor) -> Tensor:
        """How many edges lead into states: (m,) int64."""
        ...

    def log_reward(self, states: Tensor) -> Tensor:
        """Log R (m,) float64 of the objects that the states are."""
        ...

    def features(self, states: Tensor) -> Tensor:
        """What a network sees: (m, D) float32."""
        ...

    def modes(self, states: Tensor) -> Tensor:
        """Number of the mode that each state belongs to (m,) int64; -1 for none."""
        ...

    def pictures(self, states: Tensor, visits: Tensor | None = None) -> list[np.ndarray]:
        """RGB frames (H, W, 3) uint8 of states; of the objects met so far, too, with `visits`."""
        ...

    objectives: int = 1
    """How many rewards there are to weigh against each other."""

    def log_objectives(self, states: Tensor) -> Tensor:
        """Log of each of the rewards: (m, objectives) float64."""
        return self.log_reward(states)[:, None]

    def prefer(self, weight: float) -> None:
        """Make R = R₁^(1 - w) R₂^w, where there are two rewards."""
        raise UserError(f"preference={weight:g}: there is one reward, and nothing to weigh")

    def names(self, states: Tensor) -> list[str]:
        """What people call the objects that states (m,) are."""
        return [str(state) for state in states.tolist()]

    def score(self, states: Tensor) -> Tensor:
        """What objects are worth on a scale of their own, R where there is none: (m,) float64."""
        return self.log_reward(states).exp()

    def distance(self, states: Tensor) -> Tensor:
        """How far objects (m,) are from each other: (m, m); of features where nobody says."""
        features = self.features(states).double()
        return torch.cdist(features, features)

    thresholds: tuple[float, ...] = ()
    """Scores above which objects `apart` from each other are modes, where nobody lists them."""
    apart: float = 0.0

    # Where a number alone says what the state is, nothing needs to be remembered.

    def evict_unused(self, referenced: Callable[[], Tensor]) -> None:
        """Forget all states but those `referenced` (m,), where there have come to be too many."""
        return

    def export_states(self, states: Tensor) -> dict[str, Tensor]:
        """What states (m,) stand for, where their numbers alone do not say it: to be saved."""
        return {}

    def import_states(self, saved: Mapping[str, Tensor]) -> None:
        """Remember what `export_states` gave."""
        return


class Flows(NamedTuple):
    """Flows through every state (S,) and along every edge (S, A), float64."""

    state: Tensor
    edge: Tensor


class Table(Construction):
    """A construction with every state written down, on which all questions have exact answers.

    Args:
        child: (S, A) int64, where each action leads, -1 where it is illegal; the last column is
            stop and holds the state's own number.
        log_reward: (S,) of the objects; other states' do not matter.
        features: (S, D) float32.
        modes: (S,) int64, -1 for none; default: none anywhere.
        root: the state to start from.
        log_objectives: (S, 2) log of each of two rewards, for `prefer`.
        multiplicity: false forgets, in `parents` only, that several actions may lead from one
            state to the same child. This is wrong, and here so that it can be shown to be.

    Attributes:
        reachable: (S,) bool.
        interior: (m,) reachable states with legal actions, in no particular order.
        objects: (X,) reachable states that may be kept.
        complete: (S,) bool: objects that nothing can be added to.
    """

    enumerable = True

    def __init__(
        self,
        child: Tensor,
        log_reward: Tensor,
        features: Tensor,
        modes: Tensor | None = None,
        root: int = 0,
        multiplicity: bool = True,
        log_objectives: Tensor | None = None,
    ) -> None:
        self.device = child.device
        self._log_objectives = None if log_objectives is None else log_objectives.double()
        self.objectives = 1 if log_objectives is None else log_objectives.shape[1]
        self.size, self.actions = child.shape
        self.root, self.width = root, features.shape[1]
        self._child, self._legal = child, child >= 0
        self._log_reward, self._features = log_reward.double(), features
        nowhere = torch.full((self.size,), -1, device=self.device)
        self._modes = nowhere if modes is None else modes
        source, action = self._legal[:, :-1].nonzero(as_tuple=True)
        level = self._levels(source, child[source, action])
        self.reachable = level >= 0
        known = self.reachable[source]
        self._source, self._action = source[known], action[known]
        self._target = child[self._source, self._action]
        self.complete = self.reachable & ~self._legal.any(1)
        self.interior = (self.reachable & ~self.complete).nonzero().squeeze(1)
        self.objects = (self.reachable & (self._legal[:, -1] | self.complete)).nonzero().squeeze(1)
        depth = level + self._legal[:, -1].long()
        self.horizon = int(depth[self.objects].max())
        order = level[self._source]
        count = int(order.max()) + 1 if len(order) else 0
        self._by_level = [(order == each).nonzero().squeeze(1) for each in range(count)]
        self._parents = self._into(multiplicity)
        self._edges_into = self._parents.real.sum(1)
        self.in_degree = self._parents.real.shape[1]
        self.mode_count = int(self._modes[self.objects].max()) + 1

    def legal(self, states: Tensor) -> Tensor:
        """(m, A) bool."""
        return self._legal.index_select(0, states)

    def child(self, states: Tensor, actions: Tensor) -> Tensor:
        """(m,)."""
        return self._child.view(-1).index_select(0, states * self.actions + actions)

    def finished(self, states: Tensor) -> Tensor:
        """(m,) bool."""
        return self.complete.index_select(0, states)

    def parents(self, states: Tensor) -> Parents:
        """(m, K) each."""
        return Parents(*(each.index_select(0, states) for each in self._parents))

    def edges_into(self, states: Tensor) -> Tensor:
        """(m,) int64."""
        return self._edges_into.index_select(0, states)

    def log_reward(self, states: Tensor) -> Tensor:
        """(m,) float64."""
        return self._log_reward.index_select(0, states)

    def prefer(self, weight: float) -> None:
        """Replace log R by the weighted mean of both."""
        if self._log_objectives is None:
            super().prefer(weight)
        else:
            one, other = self._log_objectives.unbind(1)
            self._log_reward = (1 - weight) * one + weight * other

    def features(self, states: Tensor) -> Tensor:
        """(m, D) float32."""
        return self._features.index_select(0, states)

    def modes(self, states: Tensor) -> Tensor:
        """(m,) int64."""
        return self._modes.index_select(0, states)

    def pictures(self, states: Tensor, visits: Tensor | None = None) -> list[np.ndarray]:
        """Features as grey bars."""
        shades = self.features(states).clamp(0, 1).mul(255).to(torch.uint8)
        return [
            enlarged(np.repeat(row[None, :, None], 3, 2).repeat(2, 0))
            for row in shades.cpu().numpy()
        ]

    def log_partition(self, exponent: float = 1.0) -> float:
        """Log Z = log Σ R(x)^β."""
        return float((exponent * self._log_reward[self.objects]).logsumexp(0))

    def distribution(self, exponent: float = 1.0) -> Tensor:
        """R(x)^β / Z at the objects, 0 elsewhere: (S,) float64."""
        return self._spread((exponent * self._log_reward[self.objects]).softmax(0))

    def reach(self, log_prob: Tensor) -> tuple[Tensor, Tensor]:
        """Where a policy comes by, and where it ends.

        Args:
            log_prob: (S, A), log π; rows of states that are not reached do not matter.

        Returns:
            (S,) float64 each: the probability that a construction visits a state, and that it
            ends with the state as its object. The latter sum to one.
        """
        legal = self._legal & self.reachable[:, None]
        chance = log_prob.double().exp().masked_fill(~legal, 0.0)
        visited = self._push(chance)
        return visited, torch.where(self.complete, visited, visited * chance[:, -1])

    def paths(self) -> Tensor:
        """How many sequences of actions make each object: (S,) float64, 0 for other states."""
        return self._spread(self._push(torch.ones_like(self._child, dtype=torch.float64)))

    def path_biased(self, exponent: float = 1.0) -> Tensor:
        """n(x) R(x)^β / Σ n(x') R(x')^β, n the number of paths: (S,) float64 (proposition 1).

        This is what one samples who takes the graph for a tree.
        """
        biased = self.paths() * self.distribution(exponent)
        return biased / biased.sum()

    def flows(self, log_backward: Tensor | None = None, exponent: float = 1.0) -> Flows:
        """The flows that R(x)^β and a backward policy decide; arguments as of `shares`."""
        shares, total = self.shares(log_backward, exponent), self.log_partition(exponent)
        return Flows(*(each * math.exp(total) for each in shares))

    def shares(self, log_backward: Tensor | None = None, exponent: float = 1.0) -> Flows:
        """The flows in units of Z: how probably a state and an edge are of a construction.

        Args:
            log_backward: (S, K) log P_B of the edges in `parents`; default: all edges into a
                state are equally probable.
            exponent: β.
        """
        into = self._parents
        if log_backward is None:
            log_backward = -into.real.sum(1, keepdim=True).double().log().expand(into.real.shape)
        share = log_backward.double().exp().masked_fill(~into.real, 0.0)
        edge = torch.zeros(self.size, self.actions, dtype=torch.float64, device=self.device)
        reward = self.distribution(exponent)
        edge[:, -1] = torch.where(self._legal[:, -1], reward, 0.0)
        state = torch.where(self.complete, reward, edge[:, -1])
        for edges in reversed(self._by_level):
            # All that leaves this level goes to states whose flow is known by now.
            targets = self._target[edges]
            of_target = (state[targets][:, None] * share[targets])[
                torch.arange(len(edges), device=self.device), self._slot(edges)
            ]
            sources = self._source[edges]
            edge[sources, self._action[edges]] = of_target
            state.index_add_(0, sources, of_target)
        return Flows(state, edge)

    def _slot(self, edges: Tensor) -> Tensor:
        """Position of edges among the parents of their targets."""
        return slot(self.parents(self._target[edges]), self._source[edges], self._action[edges])

    def _push(self, weight: Tensor) -> Tensor:
        """One unit from the root along all edges, times the edges' weights (S, A): (S,)."""
        found = torch.zeros(self.size, dtype=torch.float64, device=self.device)
        found[self.root] = 1
        for edges in self._by_level:
            source = self._source[edges]
            amount = found[source] * weight[source, self._action[edges]]
            found.index_add_(0, self._target[edges], amount)
        return found

    def _spread(self, values: Tensor) -> Tensor:
        """Values of the objects (X,), or of all states (S,), at the objects, 0 elsewhere: (S,)."""
        values = values[self.objects] if len(values) == self.size else values
        empty = torch.zeros(self.size, dtype=torch.float64, device=self.device)
        return empty.index_copy(0, self.objects, values)

    def _levels(self, source: Tensor, target: Tensor) -> Tensor:
        """Length of the longest path from the root (S,); -1 where none leads."""
        level = torch.full((self.size,), -1, device=self.device)
        level[self.root] = 0
        for _ in range(self.size + 1):
            live = level[source] >= 0
            further = level.scatter_reduce(0, target[live], level[source[live]] + 1, "amax")
            if torch.equal(further, level):
                return level
            level = further
        raise ValueError("the construction has a cycle")

    def _into(self, multiplicity: bool) -> Parents:
        """The edges into every state."""
        edges = torch.stack([self._target, self._source, self._action], 1)
        edges = edges[np.lexsort(edges.cpu().numpy().T[::-1])] if len(edges) else edges
        if not multiplicity and len(edges):
            first = torch.ones(len(edges), dtype=torch.bool, device=self.device)
            first[1:] = (edges[1:, :2] != edges[:-1, :2]).any(1)
            edges = edges[first]
        target, source, action = edges.unbind(1)
        degree = torch.bincount(target, minlength=self.size)
        start = degree.cumsum(0) - degree
        slots = torch.arange(len(edges), device=self.device) - start[target]
        shape = (self.size, max(1, int(degree.max())))
        state, acted = torch.zeros((2, *shape), dtype=torch.int64, device=self.device)
        real = torch.zeros(shape, dtype=torch.bool, device=self.device)
        state[target, slots], acted[target, slots], real[target, slots] = source, action, True
        return Parents(state, acted, real)


def slot(parents: Parents, source: Tensor, action: Tensor) -> Tensor:
    """Position (m,) of the edges (source, action) among the parents of their m targets."""
    here = (parents.state == source[:, None]) & (parents.action == action[:, None]) & parents.real
    return here.int().argmax(1)


def tabulate(rules: Construction, multiplicity: bool = True) -> Table:
    """Write down every state of a construction; `UserError` where there are too many."""
    require(rules.enumerable, f"{rules.size} states are too many to enumerate")
    states = torch.arange(rules.size, device=rules.device)
    legal = rules.legal(states)
    pairs = legal.nonzero(as_tuple=True)
    child = torch.full(legal.shape, -1, device=rules.device)
    child[pairs] = rules.child(*pairs)
    return Table(
        child,
        rules.log_reward(states),
        rules.features(states),
        rules.modes(states),
        rules.root,
        multiplicity,
        rules.log_objectives(states) if rules.objectives > 1 else None,
    )
