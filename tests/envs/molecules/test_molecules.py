"""Molecules of blocks: the vocabulary, the exact toys, and what forgetting parents does to them."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from semigradient import envs
from semigradient.agents.gflownet.gflownet import GFlowNet
from semigradient.envs.constructions.construction import Table
from semigradient.envs.molecules.blocks import VOCABULARIES, load, read
from semigradient.envs.molecules.toy import (
    EMPTY,
    Assembler,
    ToyMolecules,
    ToyMoleculesOptions,
    chemistry,
)
from semigradient.errors import UserError
from semigradient.reproductions.gflownet.flow_runs import tabular_flow_matching
from semigradient.training.build import build
from semigradient.training.cli import parse

TOY = "semigradient/ToyMolecules-v0"


def table(name: str, blocks: int = 0) -> ToyMolecules:
    pytest.importorskip("rdkit", reason="the extra 'molecules' is not installed")
    rules = ToyMoleculesOptions(name, blocks).make().rules
    assert isinstance(rules, ToyMolecules)
    return rules


def test_the_vocabulary_has_its_published_counts() -> None:
    entries = read()
    assert len(entries) == 105
    by_block = Counter(entry.smiles for entry in entries)
    assert Counter(by_block.values()) == {1: 48, 2: 16, 3: 7, 4: 1}
    # The published number of stem types goes by the first entry of each block.
    first: dict[str, int] = {}
    for entry in entries:
        first.setdefault(entry.smiles, max((entry.bond, *entry.stems)))
    assert sum(each + 1 for each in first.values()) == 214


def test_every_block_is_a_molecule() -> None:
    pytest.importorskip("rdkit", reason="the extra 'molecules' is not installed")
    chem = chemistry()
    blocks = {entry.smiles: chem.MolFromSmiles(entry.smiles) for entry in read()}
    assert all(mol is not None for mol in blocks.values())
    assert sum(any(a.GetFormalCharge() for a in m.GetAtoms()) for m in blocks.values()) >= 9
    sizes = [mol.GetNumHeavyAtoms() for mol in blocks.values()]
    assert (min(sizes), max(sizes)) == (1, 16)
    Assembler(read())


@pytest.mark.parametrize(
    ("name", "blocks", "levels", "edges", "actions", "multiplicity", "z", "best"),
    [
        ("chains", 0, [4, 10, 10], 36, 44, 2, 9.415384, "CCCCO"),
        ("chains", 4, [4, 10, 10, 10], 52, None, None, 13.942269, None),
        ("rings", 0, [5, 15, 60], 130, 240, 6, 41.521225, "Oc1ccccc1-c1ccccc1"),
    ],
)
def test_the_toys_are_the_enumerated_ones(
    name: str,
    blocks: int,
    levels: list[int],
    edges: int,
    actions: int | None,
    multiplicity: int | None,
    z: float,
    best: str | None,
) -> None:
    rules = table(name, blocks)
    counts = Counter(molecule.blocks for molecule in rules.molecules)
    assert [counts[k] for k in sorted(counts)] == [1, *levels]
    rows = rules._child[:, :-1].tolist()
    met = Counter((state, c) for state, row in enumerate(rows) for c in row if c >= 0)
    assert len(met) == edges
    assert math.exp(rules.log_partition()) == pytest.approx(z, abs=2e-5)
    if actions is not None:
        assert sum(met.values()) == actions
        assert max(met.values()) == multiplicity
        assert rules.smiles[int(rules.distribution().argmax())] == best


def test_parents_replayed_give_the_same_molecule() -> None:
    rules = table("rings")
    assembler = Assembler(read("c1ccccc1[0,1,2,3,4,5]; C=O[0]; O[0]; CC[0,1]; F[0]"))
    states = torch.arange(1, rules.size)
    parents = rules.parents(states)
    for index, slot in parents.real.nonzero().tolist():
        host = rules.molecules[int(parents.state[index, slot])]
        stem, entry = divmod(int(parents.action[index, slot]), len(assembler.entries))
        made = assembler.attach(host, stem, entry)
        assert assembler.key(made) == assembler.key(rules.molecules[int(states[index])])


def test_hydrogens_that_are_written_down_give_way_to_bonds() -> None:
    pytest.importorskip("rdkit", reason="the extra 'molecules' is not installed")
    assembler = Assembler(read("c1cc[nH]c1[3]; C[0]"))
    pyrrole = assembler.attach(EMPTY, 0, 0)
    assert assembler.smiles(assembler.attach(pyrrole, 0, 1)) == "Cn1cccc1"


@pytest.mark.parametrize("name", ["chains", "rings"])
def test_only_all_parents_make_a_zero_of_the_loss_a_sampler(name: str) -> None:
    whole = table(name)
    for counted in (True, False):
        rules = Table(whole._child, whole._log_reward, whole._features, multiplicity=counted)
        loss, gap = tabular_flow_matching(rules, 4.0, seed=0)
        assert loss < 1e-12
        assert gap < 1e-6 if counted else gap > 0.2


@pytest.mark.parametrize("loss", ["fm", "db", "tb"])
def test_losses_learn_the_toys(loss: str) -> None:
    pytest.importorskip("rdkit", reason="the extra 'molecules' is not installed")
    words = (
        f"--agent gflownet --env {TOY} --loss {loss} --hidden 64 --batch-size 32 --optim.lr 1e-2"
    )
    agent = build(parse([*words.split(), "--exact-every", "0"]).command)
    assert isinstance(agent, GFlowNet)
    for _ in range(150):
        agent.iterate()
    found = agent.evaluate()
    assert found["tv"] < 0.02
    assert found["log_z_error"] < 0.01 * math.log(9.415384)


def test_the_faces_keep_their_contracts_and_draw() -> None:
    pytest.importorskip("rdkit", reason="the extra 'molecules' is not installed")
    vector = envs.make_vector(TOY, 3, 0, render=True)
    _, infos = vector.reset()
    assert infos["action_mask"][0].sum() == 4  # one of four blocks; the empty molecule cannot stop
    vector.step(np.array([0, 1, 2]))
    frame = vector.frames()[0]
    assert frame.shape == (282, 256, 3)  # with its caption
    assert frame.min() < 200


def test_bad_vocabularies_are_named() -> None:
    with pytest.raises(UserError, match="vocabulary word 'CC': accepted are words like"):
        read("CC")
    with pytest.raises(UserError, match="unknown vocabulary 'chain': did you mean chains"):
        ToyMoleculesOptions("chain").make()
    with pytest.raises(UserError, match="max_blocks=9: 4 entries make too many"):
        ToyMoleculesOptions("chains", 9).make()
    pytest.importorskip("rdkit", reason="the extra 'molecules' is not installed")
    with pytest.raises(UserError, match="'CC' has no atom 7"):
        Assembler(read("CC[7]"))


def test_missing_rdkit_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(UserError, match="RDKit is not installed; pip install"):
        ToyMoleculesOptions("chains").make()


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        ("C=O[1,1]; C[0]", r"C=O\[1,1\] breaks valences with bonds 1 to atom 1: .* # 1 O, 3, is"),
        ("CC[0,1]; C=O[0,0,0]", r"C=O\[0,0,0\] breaks valences with bonds 3 to atom 0"),
        ("F[0,0]", r"F\[0,0\] breaks valences with bonds 2 to atom 0"),
        ("C1CC1[0]; c1ccncc1[2,3]", r"c1ccncc1\[2,3\] breaks valences with bonds 1 to atom 3"),
        ("c1ccccc1[0,0]", r"c1ccccc1\[0,0\] breaks valences with bonds 2 to atom 0"),
        ("C1CCC[0]", "'C1CCC' is no SMILES"),
        ("CC[0,5]", "'CC' has no atom 5"),
    ],
)
@pytest.mark.parametrize("env", ["Molecule", "ToyMolecules", "ActiveMolecule"])
def test_blocks_that_break_valences_are_refused_in_one_line(
    env: str, vocabulary: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=message) as problem:
        envs.make_vector(f"semigradient/{env}-v0", 1, 0, vocabulary=vocabulary)
    assert "\n" not in str(problem.value)
    assert capfd.readouterr().err == ""  # RDKit's own lines


@pytest.mark.parametrize("name", VOCABULARIES)
def test_our_vocabularies_keep_valences(name: str) -> None:
    assert len(Assembler(load(name)).entries) in (105, 30)
