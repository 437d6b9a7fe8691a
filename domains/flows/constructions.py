"""What searchers of constructions share: finding the rules, and acting at random."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from semigradient.envs.adapters import CoreVector
from semigradient.envs.constructions.building import Building
from semigradient.envs.constructions.construction import Construction, tabulate
from semigradient.envs.molecules.block_molecules import BlockMolecules
from semigradient.envs.molecules.molecule import MoleculeBuilding
from semigradient.errors import UserError, require
from semigradient.nets.block_graph import GraphShape
from semigradient.training.agent import AgentContext, Policy, generator


def rules_of(setup: AgentContext, agent: str) -> Construction:
    """The rules behind the environments, written down as a table where that is possible."""
    return written_down(construction_of(setup, agent))


def written_down(rules: Construction, multiplicity: bool = True) -> Construction:
    """Rules as a table where that is possible; `multiplicity` is the table's."""
    return tabulate(rules, multiplicity) if rules.enumerable else rules


def construction_of(setup: AgentContext, agent: str) -> Construction:
    """The rules behind the environments; `UserError`, which names the agent, for all others."""
    core = setup.envs.core if isinstance(setup.envs, CoreVector) else None
    if not isinstance(core, (Building, MoleculeBuilding)):
        spec = setup.envs.spec
        raise UserError(
            f"--env {spec.id if spec else '?'}: {agent} builds objects; accepted are "
            "semigradient/HyperGrid-v0, semigradient/Molecule-v0 and other constructions"
        )
    here, there = core.device.type, setup.device.type
    require(here == there, f"device={there}: the environment is on {here}; use --device {here}")
    rules: Construction = core.rules
    return rules


def blocks_of(setup: AgentContext) -> BlockMolecules | None:
    """The rules of molecules of blocks, where those are what is built."""
    core = setup.envs.core if isinstance(setup.envs, CoreVector) else None
    return core.rules if isinstance(core, MoleculeBuilding) else None


def graph_shape(rules: BlockMolecules) -> GraphShape:
    """What the numbers of observations of molecules speak of."""
    tables = rules.tables
    return GraphShape(
        rules.max_blocks, rules.stems, len(tables.blocks), tables.types, rules.entries
    )


def are_objects(rules: Construction, states: Tensor) -> Tensor:
    """Which states (m,) may be kept, or are complete: (m,) bool."""
    return rules.legal(states)[:, -1] | rules.finished(states)


def log_reward_along(rules: Construction, states: Tensor, exponent: float) -> Tensor:
    """Log R^β of states (m,) on the way to an object: (m,) float64.

    A root that is no object has 0, as is custom for forward-looking flows (Pan et al. 2023,
    energy 0): the least reward would make their first state flows start from log R_min.
    """
    root = torch.tensor([rules.root], device=states.device)
    found = exponent * rules.log_reward(states)
    return found if bool(are_objects(rules, root)) else found.masked_fill(states == rules.root, 0.0)


def random_policy(seed: int, actions: int) -> Policy:
    """Uniformly random legal actions: a search has no policy of construction."""
    own = generator(seed, 3)

    def act(obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        legal = np.ones((len(obs), actions)) if mask is None else mask
        weights = torch.from_numpy(np.asarray(legal, np.float32))
        return torch.multinomial(weights, 1, generator=own)[:, 0].numpy()

    return act
