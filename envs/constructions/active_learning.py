"""Choosing what to measure, in rounds: active learning over the objects of a construction.

An oracle gives the reward of objects, a batch of them a round. What counts is the mean of the k
best rewards known, and a round's reward is by how much it rises (E. Bengio 2022, algorithm 1 and
section 5.4.3): returns of different first sets may be compared, and their sum is bounded.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from semigradient.envs.constructions.construction import Construction, Table, tabulate
from semigradient.envs.constructions.hypergrid import HyperGrid, Rule
from semigradient.envs.core import Step
from semigradient.errors import require

UNKNOWN = -1.0
"""What is observed of an object that was not measured; rewards are positive."""


class State(NamedTuple):
    """Campaigns of measurement."""

    known: Tensor  # (B, X) bool: which objects were measured
    rounds: Tensor  # (B,) int64


class ActiveLearning:
    """`semigradient/ActiveHyperGrid-v0`: measure a batch of objects, again and again.

    ## Action space
    `MultiDiscrete([X] * queries)`: the objects to be measured, by their place in `objects`.
    Measuring one again tells nothing new.

    ## Observation space
    `Box(-1, max R, (X,), float32)`: rewards of the objects that were measured, -1 for the others.

    ## Rewards
    By how much the mean of the `top_k` best known rewards rises.

    ## Starting state
    `initial` objects, drawn without replacement, are known.

    ## Episode end
    Terminated after `rounds` rounds.

    ## Information
    `top`: the mean of the `top_k` best rewards known; `modes`: how many modes are known.

    ## Arguments
    Those of `make`.

    ## Version history
    v0: first version.
    """

    def __init__(
        self,
        rules: Construction,
        protocol: dict[str, Any],
        initial: int = 512,
        queries: int = 16,
        rounds: int = 10,
        top_k: int = 10,
    ) -> None:
        self.rules: Table = rules if isinstance(rules, Table) else tabulate(rules)
        self.objects, self.device = self.rules.objects, self.rules.device
        count = len(self.objects)
        for name, value in (("queries", queries), ("rounds", rounds), ("top_k", top_k)):
            require(value >= 1, f"{name}={value}: must be ≥ 1")
        require(top_k <= initial <= count, f"initial={initial}: must be in [{top_k}, {count}]")
        self.initial, self.queries, self.rounds, self.top_k = initial, queries, rounds, top_k
        self.protocol = protocol
        self.values = self.rules.log_reward(self.objects).exp()
        self.modes = self.rules.modes(self.objects)
        highest = float(self.values.max())
        self.single_observation_space = spaces.Box(UNKNOWN, highest, (count,), np.float32)
        self.single_action_space: spaces.Space = spaces.MultiDiscrete([count] * queries)

    def reset(self, n: int, generator: torch.Generator | None = None) -> State:
        """`n` campaigns, each with a first set of its own."""
        count = len(self.objects)
        draws = torch.rand((n, count), generator=generator, device=self.device)
        first = draws.argsort(1)[:, : self.initial]
        known = torch.zeros((n, count), dtype=torch.bool, device=self.device)
        rounds = torch.zeros(n, dtype=torch.int64, device=self.device)
        return State(known.scatter(1, first, True), rounds)

    def step(self, state: State, actions: Tensor, generator: torch.Generator | None = None) -> Step:
        """Measure objects (B, queries)."""
        known = state.known.scatter(1, actions, True)
        reward = self.top(known) - self.top(state.known)
        rounds = state.rounds + 1
        over = rounds >= self.rounds
        return Step(State(known, rounds), reward, over, torch.zeros_like(over))

    def top(self, known: Tensor) -> Tensor:
        """Mean of the `top_k` best rewards known: (B, X) bool → (B,)."""
        return self.values.where(known, -torch.inf).topk(self.top_k, 1).values.mean(1)

    def modes_known(self, known: Tensor) -> Tensor:
        """How many modes have a known object: (B, X) bool → (B,) int64."""
        found = torch.zeros((len(known), self.rules.mode_count + 1), device=self.device)
        found.index_add_(1, self.modes + 1, known.float())
        return (found[:, 1:] > 0).sum(1)

    def observe(self, state: State) -> Tensor:
        """(B, X) float32."""
        return self.values.where(state.known, UNKNOWN).float()

    def info(self, state: State) -> dict[str, Tensor]:
        """Mean of the best rewards known, and modes known: (B,) each."""
        return {"top": self.top(state.known), "modes": self.modes_known(state.known)}

    def render(self, state: State) -> list[np.ndarray]:
        """What is known, as the construction's pictures of visits."""
        frames = []
        for known in state.known:
            visits = torch.zeros(self.rules.size, dtype=torch.int64, device=self.device)
            visits[self.objects] = known.long()
            best = self.objects[self.values.where(known, -torch.inf).argmax()]
            frames += self.rules.pictures(best[None], visits)
        return frames


def make(
    dimensions: int = 4,
    height: int = 8,
    rule: Rule = "edge",
    reward: str = "corners",
    r0: float = 0.1,
    initial: int = 512,
    queries: int = 16,
    rounds: int = 10,
    top_k: int = 10,
    device: str = "cpu",
) -> ActiveLearning:
    """`semigradient/ActiveHyperGrid-v0`; see `hypergrid.make` and `ActiveLearning`."""
    rules = HyperGrid(dimensions, height, rule, reward, r0, device=device)
    protocol = {
        "dimensions": dimensions,
        "height": height,
        "rule": rule,
        "reward": reward,
        "r0": r0,
        "initial": initial,
        "queries": queries,
        "top_k": top_k,
    }
    return ActiveLearning(rules, protocol, initial, queries, rounds, top_k)
