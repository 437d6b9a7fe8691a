"""What a flow network needs besides where it builds molecules: a network, a record, a test."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from semigradient.agents.gflownet.config import Config
from semigradient.domains.flows.estimates import Estimates
from semigradient.domains.flows.sample_counts import correlation, rank_correlation
from semigradient.domains.flows.terminal import log_terminal
from semigradient.domains.flows.top_molecules import TopMolecules
from semigradient.domains.flows.trajectories import forward, uniform, uniform_draws
from semigradient.envs.constructions.construction import Construction
from semigradient.envs.molecules.block_molecules import BlockMolecules
from semigradient.training.agent import generator

_RECENT = 2048


class Record:
    """The molecules of a run: those it found, and random ones to test its policy on.

    Args:
        rules: of the construction.
        config: hyperparameters.
        seed: of the test molecules.

    Attributes:
        discoveries: what was found.
        recent: the states of the last objects, in order.
    """

    STATE = ("discoveries", "recent")

    def __init__(self, rules: BlockMolecules, config: Config, seed: int) -> None:
        self.rules, self.config, self.discoveries = rules, config, TopMolecules()
        self.test = torch.zeros(0, dtype=torch.int64, device=rules.device)
        self.recent = self.test
        if config.test_objects:
            random = generator(seed, 5, rules.device)
            draws = uniform_draws(rules, config.test_objects, random)
            self.test = forward(rules, uniform(rules), draws).objects.unique()

    def add(self, objects: Tensor) -> None:
        """Note objects (m,)."""
        scores = self.rules.score(objects).tolist()
        self.discoveries.add(self.rules.smiles(objects), scores)
        self.recent = torch.cat([self.recent, objects])[-_RECENT:]

    def metrics(self, look: Callable[[Tensor], Estimates]) -> dict[str, float]:
        """What was found, and how log P_T of test molecules goes with β log R."""
        found = self.discoveries.metrics()
        if len(self.test) > 1:
            log_p = log_terminal(self.rules, look, self.test)
            wanted = self.config.reward_exponent * self.rules.log_reward(self.test)
            found["correlation"] = correlation(log_p, wanted)
            found["rank_correlation"] = rank_correlation(log_p, wanted)
        return found


def record_of(rules: Construction, config: Config, seed: int) -> Record | None:
    """The record of a run that builds molecules; other objects have none."""
    return Record(rules, config, seed) if isinstance(rules, BlockMolecules) else None
