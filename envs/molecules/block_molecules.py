"""All molecules of up to N blocks as a construction: states with numbers, legal actions, parents.

Action `stem · E + entry` attaches an entry to an open stem, the last one stops (Bengio 2022,
section 5.4.2). A molecule of `min_blocks` may be kept; one of `max_blocks`, or without an open
stem, is complete. The first block stands on an empty molecule that has one stem for all of them.

States are trees of blocks (`envs.molecules.block_trees`), and their numbers digests of canonical
form: the same in every process, whatever was met before. What a number stands for is remembered;
`evict_unused` forgets what nobody needs any more.

Two trees may be the same molecule, cut into blocks differently. They are two states and one object,
and an object is then built with probability proportional to its reward times its number of states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semigradient.envs.constructions.construction import Construction, Parents
from semigradient.envs.molecules import block_trees
from semigradient.envs.molecules.block_tables import Ints, Tables
from semigradient.envs.molecules.block_trees import Canonical, Codes, Flags, Trees
from semigradient.envs.molecules.fingerprints import SIMILAR, distance
from semigradient.envs.molecules.toy import Molecule, draw
from semigradient.errors import require

Scores = NDArray[np.float64]
Score = Callable[[list[str]], Scores]
"""Scores of molecules by their canonical SMILES."""


class BlockMolecules(Construction):
    """Rules of building; see `envs.constructions.construction.Construction`.

    Args:
        tables: the vocabulary.
        score: what molecules are worth.
        min_blocks: fewest blocks of a molecule that may be kept.
        max_blocks: N.
        lowest: R_min, the least score that counts.
        scale: T.
        exponent: β; R = (max(R_min, score) / T)^β.
        limit: states above which `evict_unused` forgets.
        device: where tensors are wanted; the work itself is the CPU's.

    Attributes:
        stems: P, the most open stems of a molecule that may still grow.
    """

    size, root, mode_count, enumerable = 0, block_trees.EMPTY_NUMBER, 0, False
    thresholds, apart = (7.0, 8.0), 1 - SIMILAR
    in_degree = 0  # the number of edges into a state is not bounded beforehand

    def __init__(
        self,
        tables: Tables,
        score: Score,
        min_blocks: int = 2,
        max_blocks: int = 8,
        lowest: float = 0.01,
        scale: float = 8.0,
        exponent: float = 1.0,
        limit: int = 1_000_000,
        device: str | torch.device = "cpu",
    ) -> None:
        require(2 <= max_blocks <= 20, f"max_blocks={max_blocks}: must be in [2, 20]")
        good = 1 <= min_blocks <= max_blocks
        require(good, f"min_blocks={min_blocks}: must be in [1, {max_blocks}]")
        for name, value in (("lowest", lowest), ("scale", scale), ("exponent", exponent)):
            require(0 < value < np.inf, f"{name}={value}: must be positive and finite")
        self.tables, self.score_of, self.device = tables, score, torch.device(device)
        self.min_blocks, self.max_blocks = min_blocks, max_blocks
        self.lowest, self.scale, self.exponent, self.limit = lowest, scale, exponent, limit
        self.entries, self.stems = len(tables.entries), tables.most_stems(max_blocks - 1)
        self.actions, self.horizon = self.stems * self.entries + 1, max_blocks
        self.width = 4 * max_blocks + 2 * self.stems
        self._clear()

    # Questions about numbers

    def legal(self, states: Tensor) -> Tensor:
        """(m, A) bool."""
        return self._tensor(self.legal_in(self.trees(states)))

    def child(self, states: Tensor, actions: Tensor) -> Tensor:
        """(m,)."""
        taken = actions.cpu().numpy()
        found = states.cpu().numpy().copy()
        rows = (taken != self.actions - 1).nonzero()[0]
        if len(rows):
            found[rows] = self.remember(self.grow(self._look(found[rows]), taken[rows]))
        return self._tensor(found)

    def finished(self, states: Tensor) -> Tensor:
        """(m,) bool."""
        return self._tensor(self.complete(self.trees(states)))

    def parents(self, states: Tensor) -> Parents:
        """(m, K) each, K the most edges into one of them."""
        rows = self._parents_of(states)
        start, count = self._first_edge[rows], self._edges[rows]
        column = np.arange(max(1, int(count.max(initial=0))))
        real = column < count[:, None]
        at = np.where(real, start[:, None] + column, 0)
        state, action = (np.where(real, each[at], 0) for each in self._into())
        return Parents(*(self._tensor(each) for each in (state, action, real)))

    def edges_into(self, states: Tensor) -> Tensor:
        """(m,) int64."""
        return self._tensor(self._edges[self._parents_of(states)])

    def log_reward(self, states: Tensor) -> Tensor:
        """(m,) float64."""
        return self._tensor(self.log_reward_of(self.scores_of(self.smiles(states))))

    def score(self, states: Tensor) -> Tensor:
        """(m,) float64."""
        return self._tensor(self.scores_of(self.smiles(states)))

    def names(self, states: Tensor) -> list[str]:
        """SMILES."""
        return self.smiles(states)

    def distance(self, states: Tensor) -> Tensor:
        """1 - Tanimoto similarity: (m, m)."""
        return distance(self.smiles(states))

    def features(self, states: Tensor) -> Tensor:
        """(m, D) float32, all integers; see `features_of`."""
        return self._tensor(self.features_of(self.trees(states)))

    def modes(self, states: Tensor) -> Tensor:
        """(m,): nobody says what the modes are."""
        return torch.full_like(states, -1)

    def pictures(self, states: Tensor, visits: Tensor | None = None) -> list[np.ndarray]:
        """Depictions (256, 256, 3)."""
        return [draw(each) for each in self.molecules(self.trees(states))]

    def smiles(self, states: Tensor) -> list[str]:
        """Canonical SMILES of the objects."""
        numbers = states.tolist()
        missing = sorted({each for each in numbers if each not in self._smiles})
        if missing:
            found = self.smiles_of(self._look(np.array(missing)))
            self._smiles.update(zip(missing, found, strict=True))
        return [self._smiles[each] for each in numbers]

    # Questions about trees

    def complete(self, trees: Trees) -> Flags:
        """Which trees cannot grow: (M,)."""
        size = trees.size
        closed = block_trees.open_slots(self.tables, trees).sum((1, 2)) == 0
        return (size == self.max_blocks) | (closed & (size > 0))

    def legal_in(self, trees: Trees) -> Flags:
        """Legal actions (M, A)."""
        size, m = trees.size, len(trees.kind)
        open_ = block_trees.open_slots(self.tables, trees).sum((1, 2))
        places = np.where(size == 0, 1, np.where(size < self.max_blocks, open_, 0))
        found = np.empty((m, self.actions), bool)
        stem = np.repeat(np.arange(self.stems), self.entries)
        np.less(stem, places[:, None], out=found[:, :-1])
        found[:, -1] = (size >= self.min_blocks) & (places > 0)
        return found

    def grow(self, trees: Trees, actions: Ints) -> Canonical:
        """Canonical trees with what legal actions (M,), none of them stop, attach."""
        stem, entry = np.divmod(actions, self.entries)
        stems, rows = block_trees.stems(self.tables, trees, self.stems), np.arange(len(stem))
        at = (stems.block[rows, stem], stems.slot[rows, stem])
        return block_trees.canonical(
            self.tables, block_trees.attach(self.tables, trees, *at, entry)
        )

    def grown(self, trees: Trees, rows: Ints, actions: Ints) -> Trees:
        """All trees, of which some (m,) rows have grown by legal actions (m,)."""
        if not len(rows):
            return trees
        found = Trees(*(each.copy() for each in trees))
        for old, new in zip(found, self.grow(trees.select(rows), actions).trees, strict=True):
            old[rows] = new
        return found

    def wrapped(self, trees: Trees, actions: Ints) -> Ints:
        """Actions (M,) in which a stem that is not there is counted on from the first one again."""
        stems = np.maximum(1, block_trees.open_slots(self.tables, trees).sum((1, 2)))
        stem, entry = np.divmod(actions, self.entries)
        there = (stem % stems) * self.entries + entry
        return np.where(actions == self.actions - 1, actions, there)

    def features_of(self, trees: Trees) -> np.ndarray[Any, np.dtype[np.float32]]:
        """What a network sees of canonical trees, as numbers in a row: (M, 4 N + 2 P) float32.

        Of each block: its number from 1 (0: none), its parent, and what is bonded to what: the type
        of the atom on the parent and of its own, from 1 (0: none). Of each stem: the block it is
        on, and the type of its atom, from 1 (0: none).
        """
        tables, kind = self.tables, trees.kind
        rows, there = np.arange(len(kind))[:, None], kind >= 0
        bonded = there & (np.arange(kind.shape[1]) > 0)
        host = tables.type[kind[rows, trees.parent], trees.host] + 1
        own = tables.type[kind, trees.own] + 1
        stems = block_trees.stems(tables, trees, self.stems)
        on = tables.type[kind[rows, stems.block], stems.slot] + 1
        blocks = (tables.block[kind] + 1) * there
        parts = [blocks, trees.parent, host * bonded, own * bonded, stems.block, on * stems.real]
        return np.concatenate(parts, 1).astype(np.float32)

    def log_reward_of(self, scores: Scores) -> Scores:
        """β log(max(R_min, score) / T): (m,)."""
        return self.exponent * np.log(np.maximum(scores, self.lowest) / self.scale)

    def scores_of(self, smiles: list[str]) -> Scores:
        """(m,); the empty molecule has a score of 0."""
        found = np.zeros(len(smiles))
        at = [index for index, each in enumerate(smiles) if each]
        if at:
            found[at] = self.score_of([smiles[index] for index in at])
        return found

    def smiles_of(self, trees: Trees) -> list[str]:
        """Canonical SMILES; "" for the empty molecule."""
        return [self.tables.assembler.smiles(each) for each in self.molecules(trees)]

    def molecules(self, trees: Trees) -> list[Molecule]:
        """Trees as RDKit molecules with their open stems."""
        tables, free = self.tables, block_trees.open_slots(self.tables, trees).tolist()
        atom, columns = tables.atom.tolist(), (each.tolist() for each in trees)
        return [
            self._molecule(kind[: sum(k >= 0 for k in kind)], parent, host, own, left, atom)
            for kind, parent, host, own, left in zip(*columns, free, strict=True)
        ]

    def _molecule(
        self,
        kinds: list[int],
        parent: list[int],
        host: list[int],
        own: list[int],
        free: list[list[int]],
        atom: list[list[int]],
    ) -> Molecule:
        parts = [self._blocks[each] for each in kinds]
        bonds = [
            (parent[v], atom[kinds[parent[v]]][host[v]], v, atom[kinds[v]][own[v]])
            for v in range(1, len(kinds))
        ]
        stems = [
            (v, atom[kind][slot])
            for v, kind in enumerate(kinds)
            for slot, times in enumerate(free[v])
            for _ in range(times)
        ]
        return self.tables.assembler.join(parts, bonds, stems)

    # Memory

    def trees(self, states: Tensor) -> Trees:
        """The canonical trees that numbers stand for."""
        return self._look(states.cpu().numpy())

    def remember(self, found: Canonical) -> Ints:
        """Note canonical trees; their numbers (M,)."""
        self._note(found.number, np.stack(found.trees, 1))
        return found.number

    def export_states(self, states: Tensor) -> dict[str, Tensor]:
        """Distinct numbers (k,) and the trees that they stand for, (k, 4, N) int16."""
        numbers = states.unique()
        trees = self._kept[self._rows(numbers.cpu().numpy())]
        return {"number": numbers, "tree": torch.from_numpy(trees)}

    def import_states(self, saved: Mapping[str, Tensor]) -> None:
        """Remember what `export_states` gave."""
        self._note(saved["number"].cpu().numpy(), saved["tree"].cpu().numpy())

    def evict_unused(self, referenced: Callable[[], Tensor]) -> None:
        """Forget all states but `referenced` ones where there have come to be too many."""
        if len(self._row) > self.limit:
            saved = self.export_states(referenced())
            self._clear()
            self.import_states(saved)

    def _clear(self) -> None:
        names = [self.tables.blocks[block] for block in self.tables.block]
        self._blocks = [self.tables.assembler.blank(each) for each in names]
        self._row: dict[int, int] = {self.root: 0}
        self._smiles: dict[int, str] = {self.root: ""}
        blank = np.stack(block_trees.empty(1, self.max_blocks), 1).astype(np.int16)
        self._kept = np.repeat(blank, 1024, 0)
        self._first_edge, self._edges = np.full(1024, -1), np.zeros(1024, np.int64)
        self._first_edge[0] = 0
        nothing = np.zeros(0, np.int64)
        self._parts: list[tuple[Ints, Ints]] = [(nothing, nothing)]

    def _note(self, numbers: Ints, kept: np.ndarray[Any, Any]) -> None:
        fresh: dict[int, int] = {}
        for index, number in enumerate(numbers.tolist()):
            if number not in self._row:
                fresh.setdefault(number, index)
        start, end = len(self._row), len(self._row) + len(fresh)
        while len(self._kept) < end:
            self._kept = np.concatenate([self._kept, self._kept])
            self._first_edge = np.concatenate([self._first_edge, np.full_like(self._edges, -1)])
            self._edges = np.concatenate([self._edges, np.zeros_like(self._edges)])
        self._kept[start:end] = kept[list(fresh.values())]
        self._row.update(zip(fresh, range(start, end), strict=True))

    def _rows(self, numbers: Ints) -> Ints:
        known = self._row
        return np.array([known[each] for each in numbers.tolist()], np.int64)

    def _look(self, numbers: Ints) -> Trees:
        kept = self._kept[self._rows(numbers)].astype(np.int64)
        return Trees(*(kept[:, index] for index in range(4)))

    def _tensor(self, array: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    # Parents

    def _into(self) -> tuple[Ints, Ints]:
        """Parent and action of all edges known."""
        if len(self._parts) > 1:
            state, action = (np.concatenate(each) for each in zip(*self._parts, strict=True))
            self._parts = [(state, action)]
        return self._parts[0]

    def _parents_of(self, states: Tensor) -> Ints:
        """Rows (m,) of states, whose parents are known afterwards."""
        rows = self._rows(states.cpu().numpy())
        unknown = np.unique(rows[self._first_edge[rows] < 0])
        if len(unknown):
            kept = self._kept[unknown].astype(np.int64)
            row, state, action = self._find_parents(Trees(*(kept[:, i] for i in range(4))))
            count = np.bincount(row, minlength=len(unknown))
            known = sum(len(part) for part, _ in self._parts)
            self._first_edge[unknown] = known + count.cumsum() - count
            self._edges[unknown] = count
            self._parts.append((state, action))
        return rows

    def _find_parents(self, trees: Trees) -> tuple[Ints, Ints, Ints]:
        """Rows, parents and actions of all edges into trees (M,), in this order."""
        single = (trees.size == 1).nonzero()[0]
        which, entry = _listed(self.tables.first[trees.kind[single, 0]])
        first = (single[which], np.full_like(which, self.root), entry)
        parts = zip(first, self._cut(trees), strict=True)
        row, state, action = (np.concatenate(pair) for pair in parts)
        order = np.lexsort((action, state, row))
        return row[order], state[order], action[order]

    def _cut(self, trees: Trees) -> tuple[Ints, Ints, Ints]:
        """Edges into trees of two blocks and more.

        A parent is what is left without a leaf that some entry could have brought. Of leaves that
        are alike one counts, since there is one parent; and of that parent every stem that is like
        the one that opens counts, with every entry that is like the leaf.
        """
        tables = self.tables
        leaf = (block_trees.bonds(tables, trees).sum(2) == 1) & (trees.kind >= 0)
        above, host, own = (each.copy() for each in trees[1:])
        # A first block that is a leaf hangs on the second one.
        above[:, 0], host[:, 0], own[:, 0] = 1, trees.own[:, 1], trees.host[:, 1]
        brought = tables.attached[trees.kind, own]  # (M, N, J)
        row, block = (leaf & (brought >= 0).any(2)).nonzero()
        above, host, brought = above[row, block], host[row, block], brought[row, block]
        above = above - (above > block)
        rest = block_trees.canonical(tables, block_trees.without(trees.select(row), block))
        self.remember(rest)
        pair = np.arange(len(row))
        opened = rest.view[pair, rest.place[pair, above], rest.slot[pair, above, host]]
        key = block_trees.mix(rest.number.astype(np.uint64) + block_trees.mix(opened))
        _, once = np.unique(np.stack([row.astype(np.uint64), key], 1), axis=0, return_index=True)
        stems = block_trees.stems(tables, rest.trees.select(once), self.stems)
        views: Codes = rest.view[once[:, None], stems.block, stems.slot]
        which, stem = (stems.real & (views == opened[once, None])).nonzero()
        index, entry = _listed(brought[once[which]])
        source = once[which[index]]
        return row[source], rest.number[source], stem[index] * self.entries + entry


def _listed(rows: Ints) -> tuple[Ints, Ints]:
    """(row, value) of every value ≥ 0 of rows (m, J)."""
    row, column = (rows >= 0).nonzero()
    return row, rows[row, column]
