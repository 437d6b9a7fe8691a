"""Docking with AutoDock Vina, optional: needs external programs.

A molecule gets hydrogens and conformers (RDKit's distance geometry), the one of lowest MMFF94
energy is written as PDBQT by Open Babel, and Vina looks for the best pose in a box of the receptor.
The programs `vina` and `obabel` and the receptor's PDBQT file are the user's. The box is that of
soluble epoxide hydrolase, PDB 4JNC, in the published work (Bengio et al. 2021).
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semigradient.domains.molecules.binding import of_smiles, scaled
from semigradient.envs.molecules.fingerprints import chemistry
from semigradient.errors import require

_PROGRAMS = {"vina": "autodock-vina", "obabel": "openbabel"}
_BEST_POSE = re.compile(r"REMARK VINA RESULT:\s+(\S+)")


@dataclass(frozen=True)
class Vina:
    """Docking energies in kcal/mol; the lower, the better. `binding.scaled` makes scores.

    Attributes:
        receptor: its PDBQT file.
        centre: of the box, ångström.
        size: of the box, ångström.
        conformers: number generated, of which the one of lowest energy is docked.
        exhaustiveness: of Vina's search.
        seed: of conformers and search.
        timeout: seconds for one molecule.
    """

    receptor: str
    centre: tuple[float, float, float] = (-13.4, 26.3, -13.3)
    size: tuple[float, float, float] = (20.013, 16.3, 18.5)
    conformers: int = 20
    exhaustiveness: int = 8
    seed: int = 1
    timeout: float = 600.0

    def __post_init__(self) -> None:
        for program, package in _PROGRAMS.items():
            require(
                shutil.which(program) is not None,
                f"docking: the program {program!r} is not on PATH (Debian: {package})",
            )
        path = Path(self.receptor)
        require(path.is_file(), f"receptor {self.receptor!r}: no such file; accepted is a PDBQT")
        require(self.conformers >= 1, f"conformers={self.conformers}: must be ≥ 1")
        require(self.exhaustiveness >= 1, f"exhaustiveness={self.exhaustiveness}: must be ≥ 1")

    def __call__(self, mols: Sequence[Any]) -> Tensor:
        """Energies (m,) float64 of RDKit molecules; 0 (no binding) where docking fails."""
        with tempfile.TemporaryDirectory() as folder:
            energies = [self._energy(mol, Path(folder)) for mol in mols]
        return torch.tensor(energies, dtype=torch.float64)

    def _energy(self, mol: Any, folder: Path) -> float:
        ligand, pose = folder / "ligand.pdbqt", folder / "pose.pdbqt"
        pose.unlink(missing_ok=True)
        block = best_conformer(mol, self.conformers, self.seed)
        if block is None:
            return 0.0
        (folder / "ligand.mol").write_text(block, encoding="utf-8")
        convert = ["obabel", "-imol", str(folder / "ligand.mol"), "-opdbqt", "-O", str(ligand)]
        box = [("center", self.centre), ("size", self.size)]
        places = [
            word
            for name, values in box
            for axis, value in zip("xyz", values, strict=True)
            for word in (f"--{name}_{axis}", f"{value:g}")
        ]
        dock = ["vina", "--receptor", self.receptor, "--ligand", str(ligand), "--out", str(pose)]
        dock += [*places, "--exhaustiveness", str(self.exhaustiveness), "--seed", str(self.seed)]
        dock += ["--num_modes", "1", "--cpu", "1"]
        try:
            for command in (convert, dock):
                subprocess.run(command, check=True, capture_output=True, timeout=self.timeout)
            return best_energy(pose.read_text(encoding="utf-8"))
        except (subprocess.SubprocessError, OSError):
            return 0.0


def scores(receptor: str = "") -> Callable[[list[str]], Tensor]:
    """Scores of SMILES by docking to a receptor's PDBQT file (`reward=vina`)."""
    dock = Vina(receptor)
    return of_smiles(lambda mols: scaled(dock(mols)))


def best_energy(poses: str) -> float:
    """Energy of the first and best pose of a Vina file; 0 where there is none."""
    match = _BEST_POSE.search(poses)
    energy = float(match[1]) if match else 0.0
    return energy if math.isfinite(energy) else 0.0


def best_conformer(mol: Any, count: int, seed: int) -> str | None:
    """MOL block of the conformer of lowest MMFF94 energy; None where there is no conformer."""
    chem = chemistry()
    forces: Any = import_module("rdkit.Chem.AllChem")
    with_hydrogens = chem.AddHs(mol)
    numbers = list(forces.EmbedMultipleConfs(with_hydrogens, count, randomSeed=seed))
    if not numbers:
        return None
    # (not converged, energy) of each; molecules that MMFF94 does not know give -1 for the energy.
    energies = [
        energy
        for _, energy in forces.MMFFOptimizeMoleculeConfs(with_hydrogens, mmffVariant="MMFF94")
    ]
    lowest = min(range(len(numbers)), key=lambda k: energies[k])
    return str(chem.MolToMolBlock(with_hydrogens, confId=numbers[lowest]))
