"""Generated labelled molecules, and a network fitted to their labels.

The published proxy was fitted to 300 000 docked molecules, four fifths of random constructions and
a fifth of a learner's (E. Bengio 2022, section 5.4.2). Here the labels are any score, and the
learner is replaced by a greedy construction, which adds the best of a few random candidates.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from semigradient.domains.molecules.atoms import atom_graphs
from semigradient.envs.molecules.toy import EMPTY, Assembler, Molecule
from semigradient.errors import require
from semigradient.nets.atom_network import AtomGraphs, AtomNetwork, join
from semigradient.training.agent import generator

Score = Callable[[Sequence[Molecule]], Tensor]
"""Scores (m,) float64 of molecules; higher is better."""
_BATCH = 256


class Labelled(NamedTuple):
    """Molecules and their scores."""

    molecules: list[Molecule]
    scores: Tensor  # (m,) float64


def build(
    assembler: Assembler,
    rng: np.random.Generator,
    max_blocks: int,
    min_blocks: int = 2,
    score: Score | None = None,
    candidates: int = 8,
) -> Molecule:
    """One molecule: uniformly random additions and stop, or with `score` the best of a few.

    A greedy construction ends when no candidate improves the molecule.
    """
    molecule = EMPTY
    while molecule.blocks < max_blocks and (molecule.stems or not molecule.blocks):
        kept = molecule.blocks >= min_blocks
        choices = len(assembler.entries) * max(1, len(molecule.stems))
        if score is None:
            choice = int(rng.integers(choices + kept))
            if choice == choices:
                break
            molecule = _added(assembler, molecule, choice)
            continue
        drawn = rng.choice(choices, min(candidates, choices), replace=False)
        grown = [_added(assembler, molecule, int(choice)) for choice in drawn]
        scores = score([*grown, molecule] if kept else grown)
        best = int(scores.argmax())
        if best == len(grown):
            break
        molecule = grown[best]
    return molecule


def _added(assembler: Assembler, molecule: Molecule, choice: int) -> Molecule:
    stem, entry = divmod(choice, len(assembler.entries))
    return assembler.attach(molecule, stem, entry)


def labelled(
    assembler: Assembler,
    score: Score,
    count: int,
    seed: int,
    max_blocks: int = 8,
    greedy: float = 0.2,
) -> Labelled:
    """`count` different molecules with scores, the share `greedy` of them built greedily."""
    require(0 <= greedy <= 1, f"greedy={greedy}: must be in [0, 1]")
    rng = np.random.default_rng((seed, 7))
    by_smiles: dict[str, Molecule] = {}
    for _ in range(20 * count):
        guide = score if len(by_smiles) >= round((1 - greedy) * count) else None
        molecule = build(assembler, rng, max_blocks, score=guide)
        by_smiles.setdefault(assembler.smiles(molecule), molecule)
        if len(by_smiles) == count:
            break
    require(len(by_smiles) == count, f"count={count}: there are not so many molecules to be built")
    molecules = list(by_smiles.values())
    return Labelled(molecules, score(molecules))


@dataclass(frozen=True)
class Fitting:
    """Hyperparameters of a fit; the defaults are the published ones except for the updates."""

    updates: int = 3000
    """Gradient steps (published: 200 000)."""
    batch_size: int = 64
    """Molecules per gradient step."""
    lr: float = 2.5e-4
    """Learning rate of Adam."""
    weight_decay: float = 0.0
    """Weight decay of Adam."""
    evaluate_every: int = 250
    """Gradient steps between evaluations on the validation set, which select the parameters."""

    def __post_init__(self) -> None:
        for name in ("updates", "batch_size", "evaluate_every"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)}: must be ≥ 1")
        require(self.lr > 0, f"lr={self.lr}: must be > 0")


class Fit(NamedTuple):
    """A fitted network, and the mean squared error of each validation."""

    network: AtomNetwork
    validation: list[float]


def graphs_of(molecules: Sequence[Molecule], stem_mask: bool = False) -> list[AtomGraphs]:
    """Each molecule as a batch of one."""
    return [atom_graphs([m.mol], [m.stems] if stem_mask else None) for m in molecules]


def fit(
    network: AtomNetwork,
    training: tuple[Sequence[AtomGraphs], Tensor],
    validation: tuple[Sequence[AtomGraphs], Tensor],
    config: Fitting,
    seed: int,
) -> Fit:
    """Fit a network to scores by least squares; keeps the lowest validation error."""
    graphs, scores = training[0], training[1].float()
    drawn = generator(seed, 11)
    betas = (0.9, 0.999)
    optimizer = torch.optim.Adam(network.parameters(), config.lr, betas, 1e-8, config.weight_decay)
    best, kept, errors = float("inf"), copy.deepcopy(network.state_dict()), []
    for update in range(1, config.updates + 1):
        rows = torch.randint(len(graphs), (config.batch_size,), generator=drawn)
        batch = join([graphs[row] for row in rows.tolist()])
        loss = F.mse_loss(network(batch)[:, 0], scores[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if update % config.evaluate_every == 0 or update == config.updates:
            errors.append(float((predict(network, validation[0]) - validation[1]).square().mean()))
            if errors[-1] < best:
                best, kept = errors[-1], copy.deepcopy(network.state_dict())
    network.load_state_dict(kept)
    return Fit(network, errors)


@torch.no_grad()
def predict(network: AtomNetwork, graphs: Sequence[AtomGraphs]) -> Tensor:
    """Scores (m,) float64 of molecules."""
    parts = [network(join(graphs[i : i + _BATCH]))[:, 0] for i in range(0, len(graphs), _BATCH)]
    return torch.cat(parts).double()


def r_squared(predicted: Tensor, truth: Tensor) -> float:
    """1 - Σ(y - ŷ)² / Σ(y - ȳ)²: 1 is perfect, 0 no better than the mean."""
    residual, total = (truth - predicted).square().sum(), (truth - truth.mean()).square().sum()
    return float(1 - residual / total)
