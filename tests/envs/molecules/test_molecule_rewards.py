"""Scores of molecules: RDKit's, synthetic ones, by workers and by name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.testing as npt
import pytest
import torch

from support.molecules import built, ones, rules

pytest.importorskip("rdkit", reason="the extra 'molecules' is not installed")

from rdkit import Chem
from rdkit.Chem.Crippen import MolLogP  # type: ignore[attr-defined]
from rdkit.Chem.Descriptors import MolWt  # type: ignore[attr-defined]

from semigradient.domains.molecules.binding import save
from semigradient.envs.molecules.molecule import MoleculeBuilding, MoleculeOptions
from semigradient.envs.molecules.rewards import Scorer
from semigradient.errors import UserError
from semigradient.nets.atom_network import AtomNetwork
from semigradient.registry import REWARDS, Entry

# Rewards


def test_scores_are_those_of_rdkit_and_lie_between_0_and_10() -> None:
    from rdkit.Chem.QED import qed

    aspirin = "CC(=O)Oc1ccccc1C(=O)O"
    mol = Chem.MolFromSmiles(aspirin)
    found = {name: float(Scorer(name)([aspirin])[0]) for name in ("qed", "sa", "mw_window")}
    assert found["qed"] == pytest.approx(10 * qed(mol))
    assert found["sa"] == pytest.approx(10 * (10 - 1.580) / 9, abs=0.01)  # its published SA: 1.58
    assert found["mw_window"] == 10.0
    both = float(Scorer("qed_sa")([aspirin])[0])
    assert both == pytest.approx(math.sqrt(found["qed"] * found["sa"]))
    plogp = float(Scorer("plogp")([aspirin])[0])
    assert plogp == pytest.approx(5 + MolLogP(mol) - 1.580, abs=0.01)
    heavy = Chem.MolFromSmiles("C" * 60)
    weight = MolWt(heavy)
    expected = 10 * ((300 - weight) / 700 + 1)
    assert float(Scorer("mw_window")(["C" * 60])[0]) == pytest.approx(expected)


def test_the_synthetic_score_depends_on_its_seed_and_on_size() -> None:
    big = rules()
    smiles = big.smiles(built(big, 300, seed=5).objects)
    first, second = Scorer("dock_like")(smiles), Scorer("dock_like", seed=1)(smiles)
    assert np.abs(first - second).max() > 1
    assert first.mean() == pytest.approx(2.4, abs=0.6)
    assert first.std() == pytest.approx(1.6, abs=0.4)
    assert 0 <= first.min() < first.max() <= 10
    assert float(Scorer("dock_like")(["C"])[0]) == 0.0


def test_each_molecule_is_scored_once_and_by_batches() -> None:
    batches = []

    def score(smiles: list[str]) -> list[float]:
        batches.append(list(smiles))
        return [float(len(each)) for each in smiles]

    scorer = Scorer(score)
    assert scorer(["C", "CC", "C"]).tolist() == [1.0, 2.0, 1.0]
    assert scorer(["CCC", "CC"]).tolist() == [3.0, 2.0]
    assert batches == [["C", "CC"], ["CCC"]]
    assert scorer.calls == 3


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(UserError, match="nan for CC"):
        Scorer(lambda smiles: [math.nan for _ in smiles])(["CC"])
    with pytest.raises(UserError, match="gave 1 scores for 2 molecules"):
        Scorer(lambda smiles: [1.0])(["C", "CC"])
    with pytest.raises(UserError, match="workers=2: not for a function, only rewards by name"):
        Scorer(ones, workers=2)
    with pytest.raises(UserError, match="unknown engine 'slurm'"):
        Scorer("qed", workers=2, engine="slurm")
    with pytest.raises(UserError, match="engine='ray': needs workers"):
        Scorer("qed", engine="ray")
    with pytest.raises(UserError, match="ray_address='here:1': is for ray"):
        Scorer("qed", workers=2, ray_address="here:1")


def test_workers_give_the_same_scores() -> None:
    smiles = ["CCO", "c1ccccc1", "CC(=O)Oc1ccccc1C(=O)O"]
    pool = Scorer("mw_window", workers=2)
    try:
        assert pool(smiles).tolist() == Scorer("mw_window")(smiles).tolist()
    finally:
        pool.close()


def test_workers_make_their_own_rewards(tmp_path: Path) -> None:
    file = str(tmp_path / "proxy.safetensors")
    torch.manual_seed(0)
    save(AtomNetwork(), file)
    smiles = ["CCO", "c1ccccc1", "CC(=O)Oc1ccccc1C(=O)O"]
    pool = Scorer("fitted", file=file, workers=1)
    try:
        before = pool(smiles)
        npt.assert_allclose(before, Scorer("fitted", file=file)(smiles), rtol=1e-5)
    finally:
        pool.close()
    # Another network under the same name is another reward.
    save(AtomNetwork(), file)
    assert (Scorer("fitted", file=file)(smiles) != before).all()


def test_other_rewards_are_made_by_name(monkeypatch: pytest.MonkeyPatch) -> None:

    place = f"{__name__}:maker_of_lengths"
    monkeypatch.setitem(REWARDS.entries, "lengths", Entry(place))
    core = MoleculeOptions("lengths", "CC[0,1]; O[0]", reward_file="2").make()
    assert isinstance(core, MoleculeBuilding)
    assert core.rules.score_of(["CCO"]).tolist() == [6.0]


def maker_of_lengths(file: str) -> Any:
    return lambda smiles: [float(file) * len(each) for each in smiles]
