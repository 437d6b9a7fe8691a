"""Molecules as graphs of atoms, with the 71 features per atom of the published proxy.

0-5     element: H, C, N, O, F, other
6-8     unused (0 in the published model: atomic number, acceptor, donor)
9-12    aromatic, sp, sp2, sp3
13      hydrogens, explicit ones included
14-69   atomic number 1 to 56
70      whether the atom is an open stem
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from semigradient.errors import require
from semigradient.nets.atom_network import ATOM_FEATURES, BOND_KINDS, AtomGraphs

_ELEMENTS = {1: 0, 6: 1, 7: 2, 8: 3, 9: 4}
_HYBRIDS = {"SP": 10, "SP2": 11, "SP3": 12}
_BONDS = {"SINGLE": 0, "DOUBLE": 1, "TRIPLE": 2, "AROMATIC": 3}
_HEAVIEST = 56


def atom_graphs(mols: Sequence[Any], stems: Sequence[Sequence[int]] | None = None) -> AtomGraphs:
    """RDKit molecules as one batch.

    Args:
        mols: B sanitised molecules of at least one atom.
        stems: atoms of each that are open stems; default: none.

    Raises:
        UserError: an atom beyond barium, or a bond of an unsupported kind.
    """
    rows: list[list[float]] = []
    bonds: list[tuple[int, int, int]] = []
    owner: list[int] = []
    for index, mol in enumerate(mols):
        start, open_ = len(rows), set(stems[index]) if stems is not None else set()
        rows += [_atom(atom, atom.GetIdx() in open_) for atom in mol.GetAtoms()]
        edges = [edge for bond in mol.GetBonds() for edge in _both_ways(bond, start)]
        # A single atom has a self-loop of no kind, as in the published code.
        bonds += edges or [(start, start, BOND_KINDS)]
        owner += [index] * (len(rows) - start)
    source, target, kind = torch.tensor(bonds).view(-1, 3).unbind(1)
    atoms = torch.tensor(rows, dtype=torch.float32).view(-1, ATOM_FEATURES)
    return AtomGraphs(atoms, source, target, kind, torch.tensor(owner), len(mols))


def _atom(atom: Any, stem: bool) -> list[float]:
    number, row = atom.GetAtomicNum(), [0.0] * ATOM_FEATURES
    require(
        1 <= number <= _HEAVIEST,
        f"atom {atom.GetSymbol()}: accepted are atomic numbers 1 to {_HEAVIEST}",
    )
    row[_ELEMENTS.get(number, 5)] = 1
    row[9] = float(atom.GetIsAromatic())
    hybrid = _HYBRIDS.get(str(atom.GetHybridization()))
    if hybrid is not None:
        row[hybrid] = 1
    row[13] = float(atom.GetTotalNumHs(includeNeighbors=True))
    row[13 + number] = 1
    row[70] = float(stem)
    return row


def _both_ways(bond: Any, start: int) -> list[tuple[int, int, int]]:
    name = str(bond.GetBondType())
    require(name in _BONDS, f"bond {name}: accepted are {', '.join(_BONDS)}")
    one, other = start + bond.GetBeginAtomIdx(), start + bond.GetEndAtomIdx()
    return [(one, other, _BONDS[name]), (other, one, _BONDS[name])]
