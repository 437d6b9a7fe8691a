"""Choosing what to measure, in rounds: active learning over the objects of a construction.

An oracle gives the rewards of a batch of objects per round. The criterion is the mean of the k best
known rewards, and a round's reward is its increase (E. Bengio 2022, algorithm 1 and section
5.4.3), so that returns from different initial sets are comparable and bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from semigradient.envs.constructions.construction import Construction, Table, tabulate
from semigradient.envs.constructions.hypergrid import HyperGridOptions
from semigradient.envs.core import Step
from semigradient.envs.pictures import captioned
from semigradient.errors import require
from semigradient.validate import Count

UNKNOWN = -1.0
"""Observation of an object that was not measured; rewards are positive."""


@dataclass(frozen=True)
class ActiveOptions(HyperGridOptions):
    """Options of a campaign of measurement on a hyper-grid."""

    dimensions: Count = 4
    """Coordinates, n."""
    initial: Count = 512
    """Objects known at the start."""
    queries: Count = 16
    """Objects measured per round."""
    rounds: Count = 10
    """Rounds per episode."""
    top_k: Count = 10
    """Number of best rewards in the mean."""

    def check(self) -> None:
        """The grid can be listed."""
        super().check()
        cells = self.height ** min(self.dimensions, 64)
        size = f"dimensions={self.dimensions}, height={self.height}"
        require(cells <= _LISTED, f"{size}: must have at most {_LISTED} cells, which are listed")

    def make(self, device: str = "cpu") -> ActiveLearning:
        """The core of `semigradient/ActiveHyperGrid-v0`."""
        names = ("dimensions", "height", "rule", "reward", "r0", "initial", "queries", "top_k")
        protocol = {name: getattr(self, name) for name in names}
        numbers = (self.initial, self.queries, self.rounds, self.top_k)
        return ActiveLearning(self.rules(device), protocol, *numbers)


_LISTED = 10**6


class ActiveLearningState(NamedTuple):
    """Campaigns of measurement."""

    known: Tensor  # (B, X) bool: which objects were measured
    rounds: Tensor  # (B,) int64


class ActiveLearning:
    """`semigradient/ActiveHyperGrid-v0`: measure batches of objects in rounds.

    ## Action space
    `MultiDiscrete([X] * queries)`: the objects to be measured, as indices of `objects`.
    Repeated measurements add no information.

    ## Observation space
    `Box(-1, max R, (X,), float32)`: rewards of the objects that were measured, -1 for the others.

    ## Rewards
    The increase of the mean of the `top_k` best known rewards.

    ## Starting state
    `initial` objects, drawn without replacement, are known.

    ## Episode end
    Terminated after `rounds` rounds.

    ## Information
    `top`: the mean of the `top_k` best rewards known; `modes`: how many modes are known.

    ## Arguments
    Those of `ActiveOptions`.

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
        require(top_k <= initial <= count, f"initial={initial}: must be in [{top_k}, {count}]")
        self.initial, self.queries, self.rounds, self.top_k = initial, queries, rounds, top_k
        self.protocol = protocol
        self.values = self.rules.log_reward(self.objects).exp()
        self.modes = self.rules.modes(self.objects)
        highest = float(self.values.max())
        self.single_observation_space = spaces.Box(UNKNOWN, highest, (count,), np.float32)
        self.single_action_space: spaces.Space = spaces.MultiDiscrete([count] * queries)

    def reset(self, n: int, generator: torch.Generator | None = None) -> ActiveLearningState:
        """`n` campaigns, each with its own initial set."""
        count = len(self.objects)
        draws = torch.rand((n, count), generator=generator, device=self.device)
        first = draws.argsort(1)[:, : self.initial]
        known = torch.zeros((n, count), dtype=torch.bool, device=self.device)
        rounds = torch.zeros(n, dtype=torch.int64, device=self.device)
        return ActiveLearningState(known.scatter(1, first, True), rounds)

    def step(
        self, state: ActiveLearningState, actions: Tensor, generator: torch.Generator | None = None
    ) -> Step:
        """Measure objects (B, queries)."""
        known = state.known.scatter(1, actions, True)
        reward = self.top(known) - self.top(state.known)
        rounds = state.rounds + 1
        over = rounds >= self.rounds
        return Step(ActiveLearningState(known, rounds), reward, over, torch.zeros_like(over))

    def top(self, known: Tensor) -> Tensor:
        """Mean of the `top_k` best rewards known: (B, X) bool → (B,)."""
        return self.values.where(known, -torch.inf).topk(self.top_k, 1).values.mean(1)

    def modes_known(self, known: Tensor) -> Tensor:
        """How many modes have a known object: (B, X) bool → (B,) int64."""
        counts = torch.zeros((len(known), self.rules.mode_count + 1), device=self.device)
        counts.index_add_(1, self.modes + 1, known.float())
        return (counts[:, 1:] > 0).sum(1)

    def observe(self, state: ActiveLearningState) -> Tensor:
        """(B, X) float32."""
        return self.values.where(state.known, UNKNOWN).float()

    def info(self, state: ActiveLearningState) -> dict[str, Tensor]:
        """Mean of the best rewards known, and modes known: (B,) each."""
        return {"top": self.top(state.known), "modes": self.modes_known(state.known)}

    def render(self, state: ActiveLearningState) -> list[np.ndarray]:
        """Known objects, as the construction's pictures of visits."""
        frames = []
        for known in state.known:
            visits = torch.zeros(self.rules.size, dtype=torch.int64, device=self.device)
            visits[self.objects] = known.long()
            best = self.objects[self.values.where(known, -torch.inf).argmax()]
            picture = self.rules.pictures(best[None], visits)[0]
            frames.append(captioned(picture, f"the best of {int(known.sum())} known"))
        return frames
