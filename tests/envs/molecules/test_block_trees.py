"""Trees of blocks: symmetries, canonical form against RDKit and against a plain recursion."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rdkit", reason="the extra 'molecules' is not installed")

from rdkit import Chem

from semigradient.envs.molecules import block_trees
from semigradient.envs.molecules.block_tables import Tables
from semigradient.envs.molecules.block_trees import Trees
from semigradient.envs.molecules.blocks import read

RINGS = "c1ccccc1[0,1,2,3,4,5]; C=O[0]; O[0]; CC[0,1]; F[0]"
TABLES = {"published": Tables(read()), "rings": Tables(read(RINGS))}


def random_trees(tables: Tables, count: int, blocks: int, seed: int) -> Trees:
    """Trees of as many blocks as their stems allow, up to `blocks`."""
    random = np.random.default_rng(seed)
    trees, rows = block_trees.empty(count, blocks), np.arange(count)
    for _ in range(blocks):
        stems = block_trees.stems(tables, trees, 40)
        open_ = stems.real.sum(1)
        chosen = (random.random(count) * open_).astype(int)
        entry = random.integers(len(tables.entries), size=count)
        at = (stems.block[rows, chosen], stems.slot[rows, chosen])
        more = block_trees.attach(tables, trees, *at, entry)
        going = ((open_ > 0) | (trees.size == 0))[:, None]
        pairs = zip(more, trees, strict=True)
        trees = Trees(*(np.where(going, new, old) for new, old in pairs))
    return trees


def marked_smiles(tables: Tables, trees: Trees, row: int) -> str:
    """Canonical SMILES of a graph that is the tree: a dummy atom in every bond between blocks.

    Isotopes say how many bonds an atom still takes, and which block it belongs to is what remains
    connected when the dummies are taken out.
    """
    free = block_trees.open_slots(tables, trees)[row]
    whole, starts = Chem.RWMol(), []
    for kind in [k for k in trees.kind[row].tolist() if k >= 0]:
        starts.append(whole.GetNumAtoms())
        whole.InsertMol(tables.assembler.blank(tables.blocks[int(tables.block[kind])]))
    for v, start in enumerate(starts):
        atoms = tables.atom[trees.kind[row, v]].tolist()
        for slot, atom in enumerate(atoms):
            if atom >= 0:
                mark = whole.GetAtomWithIdx(start + atom)
                mark.SetIsotope(500 + int(free[v, slot]))
        if v:
            p = int(trees.parent[row, v])
            host = tables.atom[trees.kind[row, p], trees.host[row, v]]
            dummy = whole.AddAtom(Chem.Atom(0))
            for end in (starts[p] + int(host), start + atoms[int(trees.own[row, v])]):
                whole.AddBond(end, dummy, Chem.BondType.SINGLE)
                # Hydrogens that were not written down would be counted anew.
                whole.GetAtomWithIdx(end).SetNoImplicit(True)
    return Chem.MolToSmiles(whole)


def plain_code(tables: Tables, trees: Trees, row: int) -> Any:
    """The same by nested tuples, one tree at a time: the least over all blocks as root."""
    kinds = [k for k in trees.kind[row].tolist() if k >= 0]
    hanging: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for v in range(1, len(kinds)):
        p, host, own = (int(each[row, v]) for each in trees[1:])
        hanging[v].append((own, p, host))
        hanging[p].append((host, v, own))

    def code(v: int, came: int, entrance: int) -> Any:
        slots = [(slot, code(w, v, there)) for slot, w, there in hanging[v] if w != came]
        slots += [(entrance, ())] if came >= 0 else []
        moved = [
            tuple(sorted((g[slot], below) for slot, below in slots))
            for g in tables.group[kinds[v]].tolist()
        ]
        return (kinds[v] + 1, min(moved, key=repr))

    return min((code(v, -1, -1) for v in range(len(kinds))), key=repr)


@pytest.mark.parametrize(("name", "blocks", "count"), [("published", 5, 400), ("rings", 5, 800)])
def test_numbers_are_equal_exactly_for_the_same_tree(name: str, blocks: int, count: int) -> None:
    tables = TABLES[name]
    trees = random_trees(tables, count, blocks, 0)
    numbers = block_trees.canonical(tables, trees).number.tolist()
    by_number: dict[int, str] = {}
    by_smiles: dict[str, int] = {}
    by_code: dict[str, int] = {}
    for row, number in enumerate(numbers):
        smiles, plain = marked_smiles(tables, trees, row), repr(plain_code(tables, trees, row))
        assert by_number.setdefault(number, smiles) == smiles
        assert by_smiles.setdefault(smiles, number) == number
        assert by_code.setdefault(plain, number) == number
    assert len(by_number) == len(by_smiles) == len(by_code)
    assert name == "published" or len(by_number) < 0.9 * count  # some were met more than once


@pytest.mark.parametrize("name", ["published", "rings"])
def test_numbers_do_not_depend_on_the_order_of_building(name: str) -> None:
    tables = TABLES[name]
    trees = random_trees(tables, 300, 8, 1)
    found = block_trees.canonical(tables, trees)
    for turn in range(3):
        shuffled = renumbered(tables, trees, turn)
        again = block_trees.canonical(tables, shuffled)
        assert np.array_equal(again.number, found.number)
        assert all(np.array_equal(a, b) for a, b in zip(again.trees, found.trees, strict=True))
        one, other = (
            each.view[block_trees.open_slots(tables, each.trees) > 0] for each in (again, found)
        )
        assert np.array_equal(one, other)


def test_branches_that_are_alike_keep_their_own_blocks() -> None:
    # A centre with two arms of two blocks: the ends may come in either order.
    tables = Tables(read("O[0,0]; F[0]"))
    rows = {"kind": [0, 0, 0, 1, 1], "host": [0] * 5, "own": [0] * 5}
    trees = [
        Trees(*(np.array([each]) for each in (rows["kind"], parent, rows["host"], rows["own"])))
        for parent in ([0, 0, 0, 1, 2], [0, 0, 0, 2, 1])
    ]
    one, other = (block_trees.canonical(tables, each) for each in trees)
    assert np.array_equal(one.number, other.number)
    assert all(np.array_equal(a, b) for a, b in zip(one.trees, other.trees, strict=True))


def renumbered(tables: Tables, trees: Trees, seed: int) -> Trees:
    """The same trees hung up at random blocks, numbered in random order, symmetries applied."""
    random = np.random.default_rng(seed)
    rows = []
    for row in range(len(trees.kind)):
        kind = [k for k in trees.kind[row].tolist() if k >= 0]
        n, (_, parent, host, own) = len(kind), (each[row].tolist() for each in trees)
        group = [tables.group[k] for k in kind]
        pick = [int(random.integers(len(g))) for g in group]
        move = [g[i].tolist() for g, i in zip(group, pick, strict=True)]
        links: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        for v in range(1, n):
            p, h, o = parent[v], move[parent[v]][host[v]], move[v][own[v]]
            links[v].append((p, o, h))
            links[p].append((v, h, o))
        made = [(int(random.integers(n)), 0, 0, 0)]
        frontier = [(w, 0, mine, there) for w, mine, there in links[made[0][0]]]
        while frontier:
            index = int(random.integers(len(frontier)))
            v, p, h, o = frontier.pop(index)
            came, place = made[p][0], len(made)
            made.append((v, p, h, o))
            frontier += [(w, place, m, t) for w, m, t in links[v] if w != came]
        width = trees.kind.shape[1]
        padded = [(kind[v], p, h, o) for v, p, h, o in made] + [(-1, 0, 0, 0)] * (width - n)
        rows.append(list(zip(*padded, strict=True)))
    return Trees(*np.array(rows).transpose(1, 0, 2))


def test_symmetries_keep_hydrogens_and_charges() -> None:
    tables = TABLES["published"]
    orders = {
        tables.blocks[int(tables.block[k])]: len({tuple(g) for g in group})
        for k, group in enumerate(tables.group.tolist())
    }
    assert orders["c1ccccc1"] == orders["C1CCCCC1"] == 12
    assert orders["c1cn[nH]c1"] == 1  # one nitrogen has a hydrogen
    assert orders["c1cc[nH+]cc1"] == 1  # the two carbons are of kinds of their own
    assert orders["CC"] == orders["c1ccsc1"] == 2
    assert tables.most_stems(7) == 30


def test_a_slot_with_several_bonds_takes_as_many() -> None:
    tables = Tables(read("CO[1,0,0,0]; F[0]"))
    trees = block_trees.empty(1, 5)
    zero = np.zeros(1, np.int64)
    trees = block_trees.attach(tables, trees, zero, zero, zero)
    for left in (4, 3, 2, 1):
        stems = block_trees.stems(tables, trees, 4)
        assert int(stems.real.sum()) == left
        at = (stems.block[:, 0], stems.slot[:, 0])
        trees = block_trees.attach(tables, trees, *at, zero + 1)
    assert int(block_trees.open_slots(tables, trees).sum()) == 0


def test_a_leaf_can_be_taken_away() -> None:
    tables = TABLES["rings"]
    trees = random_trees(tables, 200, 6, 3)
    trees = block_trees.canonical(tables, trees).trees
    degree = block_trees.bonds(tables, trees).sum(2)
    row, leaf = ((degree == 1) & (trees.kind >= 0)).nonzero()
    smaller = block_trees.without(trees.select(row), leaf)
    assert np.array_equal(smaller.size, trees.size[row] - 1)
    left = block_trees.bonds(tables, smaller).sum((1, 2))
    assert np.array_equal(left, 2 * (smaller.size - 1))  # still a tree
    assert bool((smaller.parent < np.arange(6).clip(1)).all())
    assert (leaf == 0).any()
