"""The docking plug-in: its conformers, what it asks of the programs, and what is missing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from semigradient.domains.molecules.docking import Vina, best_conformer, best_energy
from semigradient.envs.molecules.fingerprints import chemistry
from semigradient.errors import UserError

POSES = (
    "MODEL 1\nREMARK VINA RESULT:    -7.321      0.000      0.000\nREMARK VINA RESULT: -6.0 1 2\n"
)


@pytest.fixture
def chem() -> Any:
    pytest.importorskip("rdkit", reason="the extra 'molecules' is not installed")
    return chemistry()


def program(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text("#!/bin/sh\n" + body)
    path.chmod(0o755)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for the programs: one notes what it is asked, both write what they should."""
    # Vina's stand-in fails for ligands without oxygen.
    program(tmp_path, "obabel", 'cp "$2" "$5"\n')
    program(
        tmp_path,
        "vina",
        f'echo "$@" > {tmp_path}/asked\ngrep -q " O " "$4" || exit 1\nprintf "{POSES}" > "$6"\n',
    )
    (tmp_path / "receptor.pdbqt").write_text("ATOM\n")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_energies_come_from_the_best_pose(bench: Path, chem: Any) -> None:
    dock = Vina(str(bench / "receptor.pdbqt"), conformers=2)
    found = dock([chem.MolFromSmiles(each) for each in ("CCO", "CCC", "OC")])
    assert found.tolist() == [-7.321, 0.0, -7.321]
    asked = (bench / "asked").read_text()
    assert "--center_x -13.4 --center_y 26.3 --center_z -13.3" in asked
    assert "--size_x 20.013 --size_y 16.3 --size_z 18.5" in asked
    assert f"--receptor {bench}/receptor.pdbqt" in asked


def test_docking_is_a_reward_by_name(bench: Path, chem: Any) -> None:
    from semigradient.envs.molecules.rewards import Scorer

    found = Scorer("vina", file=str(bench / "receptor.pdbqt"))(["CCO", "CCC"])
    assert found.tolist() == pytest.approx([4 - (8.6 - 7.321) / 1.1, 4 - 8.6 / 1.1])


def test_a_file_without_a_pose_is_no_binding() -> None:
    assert best_energy(POSES) == -7.321
    assert best_energy("") == 0.0
    assert best_energy("REMARK VINA RESULT: nan") == 0.0


def test_the_conformer_is_the_one_of_lowest_energy(chem: Any) -> None:
    from rdkit.Chem import AllChem

    def energy(block: str) -> float:
        mol = chem.MolFromMolBlock(block, removeHs=False)
        field = AllChem.MMFFGetMoleculeForceField(mol, AllChem.MMFFGetMoleculeProperties(mol))
        return float(field.CalcEnergy())

    mol = chem.MolFromSmiles("CCCCCC(=O)NCCO")
    many = best_conformer(mol, 10, 1)
    first = best_conformer(mol, 1, 1)
    assert many is not None
    assert first is not None
    assert energy(many) <= energy(first) + 1e-3


def test_what_is_missing_is_named(bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="receptor 'nowhere': no such file"):
        Vina("nowhere")
    with pytest.raises(UserError, match="conformers=0: must be"):
        Vina(str(bench / "receptor.pdbqt"), conformers=0)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="docking: the program 'vina' is not on PATH"):
        Vina(str(bench / "receptor.pdbqt"))
