"""A vocabulary of blocks as tables of numbers: what attaches where, and which atoms are equivalent.

Molecules are trees of blocks (`envs.molecules.block_trees`), which are processed in
batches of thousands. Everything that depends on a block's own chemistry is computed once, here.

A *kind* is a block with its attachment points: atoms, each with a capacity. Entries of a vocabulary
that differ only in which of the points makes the bond are of one kind, and so are entries that a
symmetry of the block carries into each other. The attachment points of a kind are its *slots*, and
its *group* is how symmetries of the block permute them: two atoms of a benzene ring are equivalent,
two pairs of atoms need not be.

Needs RDKit, for the symmetries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semigradient.envs.molecules.blocks import Entry
from semigradient.envs.molecules.toy import Assembler

Permutation = tuple[int, ...]
Ints = NDArray[np.int64]


class Tables:
    """A vocabulary of E entries as tables over K kinds with at most S slots.

    Args:
        entries: the vocabulary.

    Attributes:
        assembler: puts RDKit molecules together.
        blocks: SMILES of the distinct blocks.
        block: (K,) block of a kind.
        atom: (K, S) atom of a slot, -1 for none.
        capacity: (K, S) how many bonds a slot takes.
        group: (K, G, S) where symmetry g moves slot s; padded with the identity.
        types: number of (block, atom) pairs that are slots.
        type: (K, S) which of them a slot is.
        kind: (E,) of an entry.
        bond: (E,) slot by which an entry is attached.
        first: (K, J) entries that give a kind as first block, -1 for none.
        attached: (K, S, J) entries by which a kind can have been attached at a slot, -1 for none.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.assembler, self.entries = Assembler(entries), list(entries)
        self.blocks = list(dict.fromkeys(entry.smiles for entry in entries))
        self._symmetries = [symmetries(self.assembler.blank(block)) for block in self.blocks]
        kinds: list[tuple[int, Counter[int]]] = []
        kind_and_atom = [self._kind_of(entry, kinds) for entry in entries]
        slots = [sorted(points) for _, points in kinds]
        width = max(len(row) for row in slots)
        self.block = np.array([block for block, _ in kinds])
        self.atom = _table([[*row] + [-1] * (width - len(row)) for row in slots])
        points = [[times[a] for a in own] for own, (_, times) in zip(slots, kinds, strict=True)]
        self.capacity = _table([[*row] + [0] * (width - len(row)) for row in points])
        groups = [self._group(*kind) for kind in kinds]
        order = max(map(len, groups))
        self.group = np.array(
            [[_extended(g, width) for g in _filled(group, order)] for group in groups]
        )
        owned = [[(block, a) for a in own] for own, (block, _) in zip(slots, kinds, strict=True)]
        pairs = sorted({pair for row in owned for pair in row})
        self.types = len(pairs)
        number = {pair: index for index, pair in enumerate(pairs)}
        self.type = _table(
            [[number[pair] for pair in row] + [0] * (width - len(row)) for row in owned]
        )
        self.kind = np.array([kind for kind, _ in kind_and_atom])
        self.bond = np.array([slots[kind].index(atom) for kind, atom in kind_and_atom])
        self.first, self.attached = self._inverse(groups, width)

    def most_stems(self, blocks: int) -> int:
        """The most open stems of a molecule of at most so many blocks."""
        most = int(self.capacity.sum(1).max())
        return most + max(0, blocks - 1) * max(0, most - 2)

    def _kind_of(self, entry: Entry, kinds: list[tuple[int, Counter[int]]]) -> tuple[int, int]:
        """Number of an entry's kind, which is added if it is new, and the atom it is bonded by."""
        block, points = self.blocks.index(entry.smiles), Counter((entry.bond, *entry.stems))
        for number, (other, other_points) in enumerate(kinds):
            if other != block:
                continue
            for move in self._symmetries[block]:
                if Counter({move[atom]: times for atom, times in points.items()}) == other_points:
                    return number, move[entry.bond]
        kinds.append((block, points))
        return len(kinds) - 1, entry.bond

    def _group(self, block: int, points: Counter[int]) -> list[Permutation]:
        """Permutations of the slots of a kind by the symmetries that keep its capacities."""
        slots = sorted(points)
        kept = [
            tuple(slots.index(move[atom]) for atom in slots)
            for move in self._symmetries[block]
            if all(points[move[atom]] == points[atom] for atom in slots)
        ]
        return sorted(set(kept))

    def _inverse(self, groups: list[list[Permutation]], width: int) -> tuple[Ints, Ints]:
        """`first` and `attached`."""
        first: list[list[int]] = [[] for _ in groups]
        attached: list[list[int]] = [[] for _ in groups for _ in range(width)]
        pairs = zip(self.kind.tolist(), self.bond.tolist(), strict=True)
        for entry, (kind, bond) in enumerate(pairs):
            first[kind].append(entry)
            for slot in {g[bond] for g in groups[kind]}:
                attached[kind * width + slot].append(entry)
        return _ragged(first), _ragged(attached).reshape(len(groups), width, -1)


def symmetries(mol: Any) -> list[Permutation]:
    """Automorphisms of a molecule: elements, charges, hydrogens and bonds are kept."""

    def label(index: int) -> tuple[Any, ...]:
        atom = mol.GetAtomWithIdx(index)
        return (
            atom.GetAtomicNum(),
            atom.GetFormalCharge(),
            atom.GetTotalNumHs(),
            atom.GetIsAromatic(),
        )

    labels = [label(index) for index in range(mol.GetNumAtoms())]
    bonds = {
        frozenset((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())): bond.GetBondType()
        for bond in mol.GetBonds()
    }
    # Matches of a molecule in itself are its automorphisms, but for charges and hydrogens.
    return [
        match
        for match in mol.GetSubstructMatches(mol, uniquify=False, maxMatches=100_000)
        if all(labels[to] == labels[index] for index, to in enumerate(match))
        and all(
            bonds.get(frozenset(match[i] for i in pair)) == kind for pair, kind in bonds.items()
        )
    ]


def _table(rows: list[list[int]]) -> Ints:
    return np.array(rows, dtype=np.int64)


def _ragged(rows: list[list[int]]) -> Ints:
    """Rows of different length, -1 beyond their end."""
    width = max(1, max(map(len, rows)))
    return _table([row + [-1] * (width - len(row)) for row in rows])


def _filled(group: list[Permutation], order: int) -> list[Permutation]:
    return group + [tuple(range(len(group[0])))] * (order - len(group))


def _extended(permutation: Permutation, width: int) -> list[int]:
    return [*permutation, *range(len(permutation), width)]
