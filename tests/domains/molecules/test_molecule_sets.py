"""Labelled molecules made on the spot, and the network fitted to them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from semigradient.domains.molecules.molecule_sets import (
    Fitting,
    build,
    fit,
    graphs_of,
    labelled,
    predict,
    r_squared,
)
from semigradient.envs.molecules.blocks import read
from semigradient.envs.molecules.toy import Assembler, Molecule
from semigradient.errors import UserError
from semigradient.nets.atom_network import AtomNetwork


@pytest.fixture
def assembler() -> Assembler:
    pytest.importorskip("rdkit", reason="the extra 'molecules' is not installed")
    return Assembler(read("CC[0,1]; C=O[0]; O[0]; F[0]; c1ccccc1[0,1,2,3,4,5]; CN[0,1,1]; CO[0,1]"))


def oxygens(molecules: list[Molecule]) -> Tensor:
    """A score that is known: oxygens, less a tenth of all heavy atoms."""
    return torch.tensor(
        [
            sum(a.GetSymbol() == "O" for a in m.mol.GetAtoms()) - 0.1 * m.mol.GetNumHeavyAtoms()
            for m in molecules
        ],
        dtype=torch.float64,
    )


def test_random_constructions_keep_the_rules(assembler: Assembler) -> None:
    rng = np.random.default_rng(0)
    built = [build(assembler, rng, 4) for _ in range(200)]
    assert {m.blocks for m in built} == {2, 3, 4}


def test_greed_takes_the_best_of_all_additions(assembler: Assembler) -> None:
    rng = np.random.default_rng(0)
    made = build(assembler, rng, 4, score=oxygens, candidates=1000)
    # Each O=C and each O brings an oxygen; nothing that is legal would make it better.
    assert made.blocks >= 2
    if made.blocks < 4:
        more = [assembler.attach(made, s, e) for s in range(len(made.stems)) for e in range(7)]
        assert not more or float(oxygens(more).max()) <= float(oxygens([made]))
    everything = [build(assembler, rng, 4) for _ in range(300)]
    greedy = [build(assembler, rng, 4, score=oxygens) for _ in range(30)]
    assert float(oxygens(greedy).mean()) > float(oxygens(everything).mean()) + 0.3


@pytest.fixture
def published() -> Assembler:
    pytest.importorskip("rdkit", reason="the extra 'molecules' is not installed")
    return Assembler(read())


def test_a_set_is_distinct_and_repeatable(published: Assembler, assembler: Assembler) -> None:
    one, other = (labelled(published, oxygens, 60, 3, max_blocks=3) for _ in range(2))
    smiles = [published.smiles(m) for m in one.molecules]
    assert len(set(smiles)) == 60
    assert smiles == [published.smiles(m) for m in other.molecules]
    assert torch.equal(one.scores, oxygens(one.molecules))
    with pytest.raises(UserError, match="count=50: there are not so many"):
        labelled(assembler, oxygens, 50, 0, max_blocks=1)


def test_a_network_learns_a_score_and_keeps_its_best(published: Assembler) -> None:
    torch.manual_seed(0)
    molecules, scores = labelled(published, oxygens, 160, 0, max_blocks=3)
    graphs = graphs_of(molecules)
    network = AtomNetwork(width=24, steps=3)
    order = torch.randperm(160, generator=torch.Generator().manual_seed(0))
    train, held = order[:110], order[110:]
    pick = [[graphs[i] for i in rows.tolist()] for rows in (train, held)]
    config = Fitting(updates=120, batch_size=32, lr=5e-3, evaluate_every=20)
    found = fit(network, (pick[0], scores[train]), (pick[1], scores[held]), config, 0)
    error = float((predict(network, pick[1]) - scores[held]).square().mean())
    assert error == pytest.approx(min(found.validation))
    assert r_squared(predict(network, pick[1]), scores[held]) > 0.9


def test_r_squared_is_that_of_the_textbook() -> None:
    y = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert r_squared(y, y) == 1
    assert r_squared(torch.full_like(y, 2.5), y) == 0
    assert r_squared(y + 1, y) == pytest.approx(1 - 4 / 5)
