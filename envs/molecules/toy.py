"""Molecules built of blocks, and two families small enough for exact solutions.

A block is attached to an open stem, an atom that still takes blocks, by a single bond; the used
stem disappears and the block's own stems open. Nothing is ever removed, so the constructions form
an acyclic graph (Bengio 2022, section 5.4.2). The state is the molecule with its open stems: two
sequences of actions that lead to the same marked molecule lead to the same state, and two actions
that lead from one state to the same child are two edges.

Needs RDKit (the extra `molecules`), which is imported when a molecule is first made.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from semigradient.envs.constructions.building import Building
from semigradient.envs.constructions.construction import Table
from semigradient.envs.molecules.blocks import Entry, read
from semigradient.envs.molecules.fingerprints import chemistry, distance
from semigradient.envs.options import Options
from semigradient.errors import UserError, require, unknown
from semigradient.validate import first_line, within

TOYS = {
    "chains": ("CC[0,1]; C=O[0]; O[0]; F[0]", 3),
    "rings": ("c1ccccc1[0,1,2,3,4,5]; C=O[0]; O[0]; CC[0,1]; F[0]", 3),
}
"""Vocabulary and number of blocks of the exact toys: 24 and 80 molecules."""


class Molecule(NamedTuple):
    """A molecule under construction."""

    mol: Any  # rdkit.Chem.Mol, None for the empty one
    stems: tuple[int, ...]  # atoms that take blocks, with repetition
    blocks: int


EMPTY = Molecule(None, (), 0)


class Assembler:
    """Assembles molecules from the entries of a vocabulary."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.chem = chemistry()
        self.entries = list(entries)
        self._blocks = [self._block(entry) for entry in self.entries]
        for entry, block in zip(self.entries, self._blocks, strict=True):
            self._require_valences(entry, block)

    def attach(self, molecule: Molecule, stem: int, entry: int) -> Molecule:
        """`molecule` with an entry on its stem number `stem` (ignored for the first block)."""
        block, (_, bond, opened) = self._blocks[entry], self.entries[entry]
        if molecule.mol is None:
            return Molecule(block, (*opened, bond), 1)
        chem, offset = self.chem, molecule.mol.GetNumAtoms()
        joined = chem.RWMol(chem.CombineMols(molecule.mol, block))
        self._bond(joined, molecule.stems[stem], offset + bond)
        chem.SanitizeMol(joined)
        left = molecule.stems[:stem] + molecule.stems[stem + 1 :]
        stems = (*left, *(offset + atom for atom in opened))
        return Molecule(joined.GetMol(), stems, molecule.blocks + 1)

    def join(
        self,
        parts: Sequence[Any],
        bonds: Sequence[tuple[int, int, int, int]],
        stems: Sequence[tuple[int, int]],
    ) -> Molecule:
        """A molecule of several blocks at once.

        Args:
            parts: the blocks.
            bonds: (block, atom, block, atom) of each bond between them.
            stems: (block, atom) of each open stem.
        """
        if not parts:
            return EMPTY
        joined, starts = self.chem.RWMol(), []
        for part in parts:
            starts.append(joined.GetNumAtoms())
            joined.InsertMol(part)
        for one, atom, other, guest in bonds:
            self._bond(joined, starts[one] + atom, starts[other] + guest)
        self.chem.SanitizeMol(joined)
        places = tuple(starts[block] + atom for block, atom in stems)
        return Molecule(joined.GetMol(), places, len(parts))

    def _bond(self, mol: Any, host: int, guest: int) -> None:
        """A single bond between two atoms."""
        mol.AddBond(host, guest, self.chem.BondType.SINGLE)
        for index in (host, guest):
            atom = mol.GetAtomWithIdx(index)
            # An explicit hydrogen is replaced by the bond.
            if atom.GetNumExplicitHs() > 0:
                atom.SetNumExplicitHs(atom.GetNumExplicitHs() - 1)

    def key(self, molecule: Molecule) -> tuple[str, int]:
        """Identity of a state: canonical SMILES with marked open stems, and size."""
        if molecule.mol is None:
            return "", 0
        marked = self.chem.Mol(molecule.mol)
        for atom in set(molecule.stems):
            # As an isotope, which canonical SMILES respects.
            marked.GetAtomWithIdx(atom).SetIsotope(500 + molecule.stems.count(atom))
        return self.chem.MolToSmiles(marked), molecule.blocks

    def smiles(self, molecule: Molecule) -> str:
        """Canonical SMILES of the object."""
        return "" if molecule.mol is None else str(self.chem.MolToSmiles(molecule.mol))

    def blank(self, smiles: str) -> Any:
        """A block that nothing is attached to."""
        return next(
            block
            for entry, block in zip(self.entries, self._blocks, strict=True)
            if entry.smiles == smiles
        )

    def _block(self, entry: Entry) -> Any:
        with _quiet():
            mol = self.chem.MolFromSmiles(entry.smiles)
        require(mol is not None, f"vocabulary: {entry.smiles!r} is no SMILES")
        for atom in (entry.bond, *entry.stems):
            there = 0 <= atom < mol.GetNumAtoms()
            require(there, f"vocabulary: {entry.smiles!r} has no atom {atom}")
        return mol

    def _require_valences(self, entry: Entry, block: Any) -> None:
        """`UserError` unless every atom takes as many bonds as it is named, alone and with all."""
        named = Counter((entry.bond, *entry.stems))
        cases = [{atom: times} for atom, most in named.items() for times in range(1, most + 1)]
        for case in [*cases, named] if len(named) > 1 else cases:
            try:
                with _quiet():
                    self.chem.SanitizeMol(self._filled(block, case))
            except ValueError as problem:
                bonds = ", ".join(f"{n} to atom {atom}" for atom, n in case.items())
                lists = ",".join(map(str, (entry.bond, *entry.stems)))
                raise UserError(
                    f"vocabulary: {entry.smiles}[{lists}] breaks valences with bonds {bonds}: "
                    f"{first_line(problem)}"
                ) from None

    def _filled(self, block: Any, bonds: Mapping[int, int]) -> Any:
        """A block with methyl groups on some atoms."""
        mol = self.chem.RWMol(block)
        for atom, times in bonds.items():
            for _ in range(times):
                self._bond(mol, atom, mol.AddAtom(self.chem.Atom(6)))
        return mol


def _quiet() -> Any:
    """No lines of RDKit's own on the console: what is wrong is said in an error."""
    from rdkit.rdBase import BlockLogs

    return BlockLogs()


class Enumeration(NamedTuple):
    """All states of a small vocabulary: molecules, and where actions lead."""

    molecules: list[Molecule]
    child: Tensor  # (S, A) int64, -1 where illegal


def enumerate_all(assembler: Assembler, max_blocks: int) -> Enumeration:
    """Every molecule of up to `max_blocks` blocks, breadth first.

    Action `stem · entries + entry` attaches, the last one stops. The empty molecule cannot stop;
    what has all its blocks, or no open stem, is complete.
    """
    molecules, number = [EMPTY], {assembler.key(EMPTY): 0}
    edges: list[tuple[int, int, int]] = []
    count = len(assembler.entries)
    for state, molecule in enumerate(molecules):  # grows while it is walked through
        if molecule.blocks == max_blocks:
            continue
        for stem in range(len(molecule.stems) if molecule.blocks else 1):
            for entry in range(count):
                made = assembler.attach(molecule, stem, entry)
                key = assembler.key(made)
                if key not in number:
                    number[key] = len(molecules)
                    molecules.append(made)
                edges.append((state, stem * count + entry, number[key]))
    actions = max(action for _, action, _ in edges) + 2
    child = torch.full((len(molecules), actions), -1)
    for state, action, target in edges:
        child[state, action] = target
    states = torch.arange(len(molecules))
    open_ = (child >= 0).any(1) & (states > 0)
    child[open_, -1] = states[open_]
    return Enumeration(molecules, child)


def qed(molecule: Molecule) -> float:
    """Quantitative estimate of drug-likeness (Bickerton et al. 2012), in (0, 1)."""
    from rdkit.Chem.QED import qed as score

    return float(score(molecule.mol))


class ToyMolecules(Table):
    """The states of a small vocabulary as a table; the reward is QED, features are one-hot.

    Attributes:
        molecules: by state.
        smiles: of each object; several states may share one.
    """

    def __init__(self, assembler: Assembler, max_blocks: int, device: str = "cpu") -> None:
        self.molecules, child = enumerate_all(assembler, max_blocks)
        self.smiles = [assembler.smiles(molecule) for molecule in self.molecules]
        score = {s: qed(m) for s, m in zip(self.smiles, self.molecules, strict=True) if s}
        # The empty molecule is no object; its reward only serves as a reference of 1.
        log_reward = torch.tensor([math.log(score[s]) if s else 0.0 for s in self.smiles])
        super().__init__(
            child.to(device), log_reward.to(device), torch.eye(len(child), device=device)
        )

    def names(self, states: Tensor) -> list[str]:
        """SMILES."""
        return [self.smiles[state] for state in states.tolist()]

    def distance(self, states: Tensor) -> Tensor:
        """1 - Tanimoto similarity: (m, m)."""
        return distance(self.names(states))

    def pictures(self, states: Tensor, visits: Tensor | None = None) -> list[np.ndarray]:
        """Depictions (256, 256, 3)."""
        return [draw(self.molecules[state]) for state in states.tolist()]


def draw(molecule: Molecule, side: int = 256) -> np.ndarray:
    """Depiction (side, side, 3) uint8; white for the empty molecule."""
    if molecule.mol is None:
        return np.full((side, side, 3), 255, np.uint8)
    import io

    from PIL import Image
    from rdkit.Chem.Draw import rdMolDraw2D

    canvas = rdMolDraw2D.MolDraw2DCairo(side, side)
    rdMolDraw2D.PrepareAndDrawMolecule(
        canvas, molecule.mol, highlightAtoms=sorted(set(molecule.stems))
    )
    canvas.FinishDrawing()
    picture = Image.open(io.BytesIO(canvas.GetDrawingText())).convert("RGB")
    return np.asarray(picture).copy()


@dataclass(frozen=True)
class ToyMoleculesOptions(Options):
    """Options of molecules that can be enumerated."""

    vocabulary: str = "chains"
    """Blocks: chains, rings, or entries such as "CC[0,1]; O[0]"."""
    max_blocks: Annotated[int, within(0, 100)] = 0
    """Most blocks of a molecule; 0 takes the vocabulary's own, 3 for one that is written out."""

    def make(self, device: str = "cpu") -> Building:
        """The core of `semigradient/ToyMolecules-v0`."""
        if "[" not in self.vocabulary and self.vocabulary not in TOYS:
            unknown("vocabulary", self.vocabulary, TOYS)
        text, blocks = TOYS.get(self.vocabulary, (self.vocabulary, 3))
        entries, limit = read(text), self.max_blocks or blocks
        require(
            len(entries) ** limit <= 5000,
            f"max_blocks={limit}: {len(entries)} entries make too many molecules to enumerate",
        )
        rules = ToyMolecules(Assembler(entries), limit, device)
        return Building(
            rules, {"vocabulary": self.vocabulary, "max_blocks": limit, "reward": "qed"}
        )
