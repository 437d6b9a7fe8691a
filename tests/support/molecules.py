"""Molecules of blocks for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from semigradient.domains.flows.trajectories import Trajectories, forward, uniform, uniform_draws
from semigradient.envs.molecules.block_molecules import BlockMolecules
from semigradient.envs.molecules.block_tables import Tables
from semigradient.envs.molecules.blocks import load


def ones(smiles: Any) -> Any:
    return np.ones(len(smiles))


def rules(vocabulary: str = "published", low: int = 2, high: int = 8) -> BlockMolecules:
    return BlockMolecules(Tables(load(vocabulary)), ones, low, high)


def built(rules: BlockMolecules, count: int, seed: int = 0) -> Trajectories:
    random = torch.Generator().manual_seed(seed)
    return forward(rules, uniform(rules), uniform_draws(rules, count, random))


def everything(rules: BlockMolecules) -> list[Tensor]:
    """All states, level by level."""
    levels = [torch.tensor([rules.root])]
    for _ in range(rules.max_blocks):
        legal = rules.legal(levels[-1])
        legal[:, -1] = False
        state, action = legal.nonzero(as_tuple=True)
        levels.append(rules.child(levels[-1][state], action).unique())
    return levels
