"""`semigradient/ActiveMolecule-v0`: which molecules to measure next, in rounds.

An oracle scores a batch of molecules per round. The criterion is the mean of the k best known
scores, and a round's reward is its increase (E. Bengio, PhD thesis, algorithm 1, section 5.4.3,
with docking as the oracle). `envs.constructions.active_learning` is the same for objects that can
be enumerated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from semigradient.envs.core import Step
from semigradient.envs.molecules import block_trees
from semigradient.envs.molecules.block_molecules import BlockMolecules
from semigradient.envs.molecules.block_tables import Ints
from semigradient.envs.molecules.block_trees import Trees
from semigradient.envs.molecules.rewards import Batch
from semigradient.envs.molecules.scored import ScoredOptions
from semigradient.envs.molecules.toy import draw
from semigradient.errors import require
from semigradient.validate import Count, within

UNKNOWN, HIGHEST = -1.0, 10.0
"""Observation without a measurement, and the highest score."""


@dataclass(frozen=True)
class ActiveOptions(ScoredOptions):
    """Options of a campaign of measurement on molecules."""

    reward: str | Batch = "dock_like"
    """Score: qed, sa, qed_sa, plogp, mw_window, dock_like, proxy, proxy_x_WT, fitted, vina, or
    module:function."""
    max_blocks: Annotated[int, within(2, 20)] = 6
    """Most blocks of a molecule."""
    initial: Count = 2000
    """Molecules known at the start."""
    queries: Count = 200
    """Molecules measured per round."""
    rounds: Count = 9
    """Rounds per episode."""
    top_k: Count = 10
    """Number of best scores in the mean."""

    def check(self) -> None:
        """There are enough initial molecules."""
        super().check()
        is_valid = self.initial >= self.top_k
        require(is_valid, f"initial={self.initial}: must be ≥ top_k={self.top_k}")

    def make(self, device: str = "cpu") -> ActiveMolecules:
        """The core of `semigradient/ActiveMolecule-v0`."""
        rules = self.rules(device)
        names = ("initial", "queries", "top_k")
        protocol = {**self.protocol(rules), **{name: getattr(self, name) for name in names}}
        return ActiveMolecules(rules, self, protocol)


class ActiveMoleculesState(NamedTuple):
    """Campaigns of measurement; rows of C molecules in the order of measurement, then free ones."""

    key: Tensor  # (B, C) int64: a digest of the SMILES, 0 for none
    score: Tensor  # (B, C) float64, -inf for none
    trees: Tensor  # (B, C, 4, N) int16: see `envs.molecules.block_trees.Trees`
    last: Tensor  # (B, queries) float64: scores of the last round, `UNKNOWN` for none
    rounds: Tensor  # (B,) int64


class ActiveMolecules:
    """Measure batches of molecules in rounds.

    ## Action space
    `MultiDiscrete([A] * (queries · N))`: for each molecule that is to be measured up to N actions
    of `semigradient/Molecule-v0`, which build it. Actions after its end are ignored, as are early
    stops; stem numbers wrap around. Repeated measurements and molecules with fewer than
    `min_blocks` blocks add no information.

    ## Observation space
    `Box(-1, 10, (top_k + queries,), float32)`: the `top_k` best scores known, best first, and those
    of the last round's molecules, -1 where nothing was measured; cut to these bounds, which the
    project's own scores keep.

    ## Rewards
    The increase of the mean of the `top_k` best scores.

    ## Starting state
    `initial` different molecules, built by uniformly random legal actions, are known.

    ## Episode end
    Terminated after `rounds` rounds.

    ## Information
    `top`: the mean of the `top_k` best scores known; `known`: how many molecules are.

    ## Arguments
    Those of `ActiveOptions`.

    ## Version history
    v0: first version.
    """

    def __init__(
        self, rules: BlockMolecules, options: ActiveOptions, protocol: dict[str, Any]
    ) -> None:
        self.rules, self.protocol, self.device = rules, protocol, rules.device
        self.initial, self.rounds = options.initial, options.rounds
        self.queries, self.top_k = queries, top_k = options.queries, options.top_k
        self.length = rules.max_blocks
        self.single_observation_space = spaces.Box(UNKNOWN, HIGHEST, (top_k + queries,), np.float32)
        self.single_action_space: spaces.Space = spaces.MultiDiscrete(
            np.full(queries * self.length, rules.actions)
        )

    def reset(self, n: int, generator: torch.Generator | None = None) -> ActiveMoleculesState:
        """`n` campaigns, each with its own initial molecules."""
        capacity = self.initial + self.rounds * self.queries
        blank = np.stack(block_trees.empty(1, self.length), 1).astype(np.int16)
        state = ActiveMoleculesState(
            torch.zeros((n, capacity), dtype=torch.int64),
            torch.full((n, capacity), -torch.inf, dtype=torch.float64),
            torch.from_numpy(blank).expand(n, capacity, -1, -1).clone(),
            torch.full((n, self.queries), UNKNOWN, dtype=torch.float64),
            torch.zeros(n, dtype=torch.int64),
        )
        for row in range(n):
            trees, smiles = self._first(generator)
            self._note(state, row, trees, smiles)
        return ActiveMoleculesState(*(field.to(self.device) for field in state))

    def step(
        self, state: ActiveMoleculesState, actions: Tensor, generator: torch.Generator | None = None
    ) -> Step:
        """Build and measure; actions are (B, queries · N)."""
        flat = actions.cpu().numpy().reshape(-1, self.length)
        trees = self.build(flat)
        return self.measure(
            state, [trees.select(rows) for rows in np.split(np.arange(len(flat)), len(actions))]
        )

    def measure(self, state: ActiveMoleculesState, molecules: Sequence[Trees]) -> Step:
        """Score at most `queries` molecules in each campaign: canonical trees, one `Trees` each."""
        after = ActiveMoleculesState(*(field.cpu().clone() for field in state))
        after.last.fill_(UNKNOWN)
        for row, trees in enumerate(molecules):
            kept = (trees.size >= self.rules.min_blocks).nonzero()[0][: self.queries]
            chosen = trees.select(kept)
            scores = self._note(after, row, chosen, self.rules.smiles_of(chosen))
            after.last[row, torch.from_numpy(kept)] = scores
        rounds = after.rounds.add_(1)
        over = (rounds >= self.rounds).to(self.device)
        after = ActiveMoleculesState(*(field.to(self.device) for field in after))
        return Step(after, self.top(after) - self.top(state), over, torch.zeros_like(over))

    def build(self, actions: Ints) -> Trees:
        """Canonical trees of action sequences (M, N)."""
        rules, trees = self.rules, block_trees.empty(len(actions), self.length)
        active = np.ones(len(actions), bool)
        for column in actions.T:
            chosen = rules.wrapped(trees, column)
            stop = chosen == rules.actions - 1
            active &= ~(stop & (trees.size >= rules.min_blocks)) & ~rules.complete(trees)
            rows = (active & ~stop).nonzero()[0]
            trees = rules.grown(trees, rows, chosen[rows])
        return trees

    def smiles(self, state: ActiveMoleculesState, row: int = 0) -> list[str]:
        """Canonical SMILES of the molecules known to a campaign, in the order of measurement."""
        trees = state.trees[row][state.key[row] != 0].cpu().numpy().astype(np.int64)
        return self.rules.smiles_of(Trees(*trees.transpose(1, 0, 2)))

    def top(self, state: ActiveMoleculesState) -> Tensor:
        """Mean of the `top_k` best scores known: (B,)."""
        return state.score.topk(self.top_k, 1).values.mean(1)

    def observe(self, state: ActiveMoleculesState) -> Tensor:
        """(B, top_k + queries) float32."""
        shown = torch.cat([state.score.topk(self.top_k, 1).values, state.last], 1)
        return shown.clamp(UNKNOWN, HIGHEST).float()

    def info(self, state: ActiveMoleculesState) -> dict[str, Tensor]:
        """Mean of the best scores known, and how many molecules are known: (B,) each."""
        return {"top": self.top(state), "known": (state.key != 0).sum(1)}

    def render(self, state: ActiveMoleculesState) -> list[np.ndarray]:
        """Depictions (256, 256, 3) of the best molecule known."""
        best = state.score.argmax(1)
        trees = state.trees[torch.arange(len(best)), best].cpu().numpy().astype(np.int64)
        return [
            draw(molecule) for molecule in self.rules.molecules(Trees(*trees.transpose(1, 0, 2)))
        ]

    def _first(self, generator: torch.Generator | None) -> tuple[Trees, list[str]]:
        """`initial` different random molecules."""
        by_smiles: dict[str, Trees] = {}
        while len(by_smiles) < self.initial:
            trees = self._random(min(1024, 2 * (self.initial - len(by_smiles)) + 8), generator)
            single = (trees.select(np.array([row])) for row in range(len(trees.kind)))
            by_smiles.update(zip(self.rules.smiles_of(trees), single, strict=True))
        names = list(by_smiles)[: self.initial]
        columns = zip(*(by_smiles[name] for name in names), strict=True)
        return Trees(*(np.concatenate(column) for column in columns)), names

    def _random(self, count: int, generator: torch.Generator | None) -> Trees:
        """Molecules of the uniform policy."""
        rules, trees = self.rules, block_trees.empty(count, self.length)
        active = np.ones(count, bool)
        for _ in range(self.length):
            legal = rules.legal_in(trees)
            drawn = torch.rand(legal.shape, generator=generator, device=self.device).cpu().numpy()
            chosen = np.where(legal, drawn, -1).argmax(1)
            active &= (chosen != rules.actions - 1) & ~rules.complete(trees)
            rows = active.nonzero()[0]
            trees = rules.grown(trees, rows, chosen[rows])
        return trees

    def _note(
        self, state: ActiveMoleculesState, row: int, trees: Trees, smiles: list[str]
    ) -> Tensor:
        """Score molecules and record the new ones; scores (M,)."""
        scores = self.rules.scores_of(smiles)
        keys = set(state.key[row].tolist()) - {0}
        end = len(keys)
        packed = np.stack(trees, 1).astype(np.int16)
        for index, name in enumerate(smiles):
            key = _digest(name)
            if key not in keys:
                keys.add(key)
                state.key[row, end], state.score[row, end] = key, scores[index]
                state.trees[row, end] = torch.from_numpy(packed[index])
                end += 1
        return torch.from_numpy(scores)


def _digest(smiles: str) -> int:
    """The same in every process, and never 0."""
    return int.from_bytes(blake2b(smiles.encode(), digest_size=7).digest()) + 1
