"""Molecules of blocks as trees, many at a time: attaching, open stems, and canonical form.

A tree has up to N blocks. Block v > 0 was bonded by its slot `own` to slot `host` of block
`parent` < v; see `envs.molecules.block_tables` for kinds and slots. Two trees are the same state
when some renumbering of blocks, together with symmetries of the blocks, carries one into the
other: then they are the same molecule, with the same open stems and the same bonds between blocks.

Sameness is decided as for any tree without a root (Aho, Hopcroft and Ullman 1974): a subtree's code
is made of its block's kind and the codes of what hangs on each slot, the least of those that the
block's symmetries give; a second pass from the root down tells every block what the rest of the
tree looks like from there. Codes are numbers of 64 bits, so that all of this is arithmetic on
arrays: different trees have the same code with a probability of about 2⁻⁶⁰.

Arrays are NumPy's. A step of a few constructions is some hundred operations on a few kilobytes,
which cost torch several times as much.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from semigradient.envs.molecules.block_tables import Ints, Tables

Codes = NDArray[np.uint64]
Flags = NDArray[np.bool_]

EMPTY_NUMBER = 0
_FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)
_OPEN, _STEP = np.uint64(0x5DEECE66D1234567), np.uint64(0x2545F4914F6CDD1D)
_LOW, _LABEL = np.uint64((1 << 62) - 1), np.uint64((1 << 56) - 1)
_LAST = np.uint64((1 << 64) - 1)
_BITS = (np.uint64(32), np.uint64(29), np.uint64(56))


class Trees(NamedTuple):
    """M trees of at most N blocks; rows beyond a tree's blocks are -1 in `kind` and 0 elsewhere."""

    kind: Ints  # (M, N)
    parent: Ints  # (M, N) block that it was bonded to; 0 for the first one
    host: Ints  # (M, N) slot of that block
    own: Ints  # (M, N) slot of its own

    @property
    def size(self) -> Ints:
        """How many blocks there are: (M,)."""
        return (self.kind >= 0).sum(1)

    def select(self, rows: Ints) -> Trees:
        """Some of the trees."""
        return Trees(*(field[rows] for field in self))


class Canonical(NamedTuple):
    """Canonical trees, and where the blocks and slots of the given ones went."""

    trees: Trees
    number: Ints  # (M,) in [0, 2⁶²): equal for the same state and (see above) for no other
    place: Ints  # (M, N) new number of a block
    slot: Ints  # (M, N, S) new number of its slots
    view: Codes  # (M, N, S) by new numbers: equal for two open slots of a tree if they are alike


class Stems(NamedTuple):
    """Open stems of M trees, block by block and slot by slot, at most P of them."""

    block: Ints  # (M, P) block of the tree, 0 beyond the end
    slot: Ints  # (M, P)
    real: Flags  # (M, P)


def empty(count: int, blocks: int) -> Trees:
    """Trees without any block."""
    nothing = np.zeros((count, blocks), np.int64)
    return Trees(nothing - 1, nothing, nothing.copy(), nothing.copy())


def bonds(tables: Tables, trees: Trees) -> Ints:
    """How many bonds every slot has: (M, N, S)."""
    m, n = trees.kind.shape
    s = tables.atom.shape[1]
    row, block = (trees.kind[:, 1:] >= 0).nonzero()
    block += 1
    above = (row * n + trees.parent[row, block]) * s + trees.host[row, block]
    below = (row * n + block) * s + trees.own[row, block]
    return np.bincount(np.concatenate([above, below]), minlength=m * n * s).reshape(m, n, s)


def open_slots(tables: Tables, trees: Trees) -> Ints:
    """How many bonds every slot still takes: (M, N, S)."""
    capacity = tables.capacity[trees.kind] * (trees.kind >= 0)[..., None]
    return capacity - bonds(tables, trees)


def stems(tables: Tables, trees: Trees, most: int) -> Stems:
    """The open stems; those beyond the `most`th are left out."""
    free = open_slots(tables, trees)
    m, n, s = free.shape
    flat = free.reshape(m, n * s)
    count = flat.sum(1)
    row, column = np.divmod(np.repeat(np.arange(flat.size), flat.ravel()), flat.shape[1])
    rank = np.arange(len(row)) - np.repeat(count.cumsum() - count, count)
    kept = rank < most
    place = np.zeros((m, most), np.int64)
    place[row[kept], rank[kept]] = column[kept]
    real = np.arange(most) < count[:, None]
    return Stems(place // s, place % s, real)


def attach(tables: Tables, trees: Trees, block: Ints, slot: Ints, entry: Ints) -> Trees:
    """Attach a block to each tree: entry (M,) at a slot of a block (M,), ignored for first blocks.

    No tree may be full.
    """
    size = trees.size
    rows, later = np.arange(len(size)), size > 0
    grown = Trees(*(field.copy() for field in trees))
    grown.kind[rows, size] = tables.kind[entry]
    bond = tables.bond[entry]
    for field, value in zip(grown[1:], (block, slot, bond), strict=True):
        field[rows, size] = value * later
    return grown


def without(trees: Trees, block: Ints) -> Trees:
    """Trees without one leaf (M,), which leaves a tree; a first block must have one neighbour."""
    n = trees.kind.shape[1]
    column = np.arange(n)
    source = column + (column >= block[:, None])
    rows = np.arange(len(block))[:, None]
    kind, parent, host, own = (
        np.pad(field, ((0, 0), (0, 1)), constant_values=-1 if index == 0 else 0)[rows, source]
        for index, field in enumerate(trees)
    )
    there = (kind >= 0) & (column > 0)
    return Trees(kind, (parent - (parent > block[:, None])) * there, host * there, own * there)


def mix(x: Codes) -> Codes:
    """A pseudo-random bijection of 64-bit numbers; 0 maps to 0."""
    x = (x ^ (x >> _BITS[0])) * _FIRST
    x = (x ^ (x >> _BITS[1])) * _SECOND
    return x ^ (x >> _BITS[0])


class _Sides:
    """Codes of M trees from all sides.

    Each slot of a block holds one number for the subtrees attached to it; the code of a block is
    their sum, weighted by where a symmetry puts the slot. Replacing one slot's number changes the
    sum by a difference, so that the code towards any side is cheap.

    Attributes:
        hung: (M, N, S) sum of the codes of the subtrees attached to a slot.
        mixed: (M, N, S) the same, mixed.
        weight: (M, N, G, S).
        total: (M, N, G) the weighted sums.
        up: (M, N) a block with all behind it, seen from its parent; 0 where there is no block.
        down: (M, N) all the rest, seen from the block; 0 for the first one.
    """

    def __init__(self, tables: Tables, trees: Trees) -> None:
        self.trees, self.there = trees, trees.kind >= 0
        m, n = trees.kind.shape
        self.weight = _weights(tables)[trees.kind]
        self.salt = mix((trees.kind + 1).astype(np.uint64))
        g, s = self.weight.shape[2:]
        self.hung, self.mixed = np.zeros((2, m, n, s), np.uint64)
        self.total = np.zeros((m, n, g), np.uint64)
        self.up, self.down = np.zeros((2, m, n), np.uint64)
        self._rows = np.arange(m)
        last = int(self.there.sum(1).max(initial=0))
        for v in range(last - 1, -1, -1):
            self._pass_up(v)
        for v in range(1, last):
            self._pass_down(v)

    def _pass_up(self, v: int) -> None:
        """Add the code of block v, whose subtrees are complete, to its parent's slot."""
        trees, rows = self.trees, self._rows
        self.mixed[:, v] = mix(self.hung[:, v])
        self.total[:, v] = np.einsum("mgs,ms->mg", self.weight[:, v], self.mixed[:, v])
        if v:
            at = (rows, np.full_like(rows, v), trees.own[:, v])
            code = self._towards(at, None) * self.there[:, v]
            self.up[:, v] = code
            self.hung[rows, trees.parent[:, v], trees.host[:, v]] += code

    def _pass_down(self, v: int) -> None:
        """Add the code of the rest of the tree to the slot of block v."""
        trees, rows = self.trees, self._rows
        above = (rows, trees.parent[:, v], trees.host[:, v])
        code = self._towards(above, self.up[:, v]) * self.there[:, v]
        self.down[:, v] = code
        at = (rows, v, trees.own[:, v])
        after = self.hung[at] + code
        mixed = mix(after)
        change = self.weight[rows, v, :, trees.own[:, v]] * (mixed - self.mixed[at])[:, None]
        self.total[:, v] += change
        self.hung[at], self.mixed[at] = after, mixed

    def _towards(self, at: tuple[Ints, Ints, Ints], without: Codes | None) -> Codes:
        """Code (M,) of blocks seen through their slots, without the subtrees attached there."""
        rows, block, slot = at
        after = self.hung[at] + _OPEN
        if without is not None:
            after -= without
        change = mix(after) - self.mixed[at]
        sums = self.total[rows, block] + self.weight[rows, block, :, slot] * change[:, None]
        return mix(self.salt[rows, block] + sums.min(1))

    def rooted(self) -> Codes:
        """The whole tree seen from every block: (M, N), the largest number where there is none."""
        return np.where(self.there, mix(self.salt + self.total.min(2)), _LAST)

    def views(self) -> Codes:
        """The whole tree seen through every slot: (M, N, S)."""
        change = mix(self.hung + _OPEN) - self.mixed
        sums = self.total[..., None] + self.weight * change[:, :, None]
        return mix(self.salt[..., None] + sums.min(2))


def canonical(tables: Tables, trees: Trees) -> Canonical:
    """The canonical representatives of trees."""
    sides, size = _Sides(tables, trees), trees.size
    m, n = trees.kind.shape
    rows, columns = np.arange(m), np.arange(n)
    seen = sides.rooted()
    root = seen.argmin(1)
    number = mix(seen[rows, root] + size.astype(np.uint64)) & _LOW
    turned, behind = _rooted_at(trees, sides, root)
    # The symmetry that gives each block its least code, seen from its new parent.
    grid = np.broadcast_to(rows[:, None], (m, n))
    at = (grid, np.broadcast_to(columns, (m, n)), turned.own)
    change = mix(sides.hung[at] - behind + _OPEN) - sides.mixed[at]
    change[rows, root] = 0
    sums = sides.total + sides.weight[at[0], at[1], :, at[2]] * change[..., None]
    best = sums.argmin(2)
    code = mix(sides.salt + np.take_along_axis(sums, best[..., None], 2)[..., 0])
    slot = tables.group[trees.kind, best]
    moved = turned._replace(own=slot[at], host=slot[grid, turned.parent, turned.host])
    order = _order(moved, code, root)
    place = np.empty_like(order)
    place[grid, order] = columns
    view = np.zeros_like(sides.hung)
    view[rows[:, None, None], place[..., None], slot] = sides.views()
    numbers: Ints = np.where(size > 0, number, np.uint64(EMPTY_NUMBER)).astype(np.int64)
    return Canonical(_renumbered(moved, order, place, root), numbers, place, slot, view)


def _rooted_at(trees: Trees, sides: _Sides, root: Ints) -> tuple[Trees, Codes]:
    """The same trees rooted at another block, and the code of each parent's side."""
    parent, host, own = (field.copy() for field in trees[1:])
    behind, now = sides.down.copy(), root.copy()
    above = (trees.parent, trees.host, trees.own)
    rows = np.arange(len(root))
    while True:
        # Reverse the bond between `now` and the block above it.
        rows = rows[now[rows] != 0]
        if not len(rows):
            break
        child = now[rows]
        block, its_slot, child_slot = (field[rows, child] for field in above)
        parent[rows, block], own[rows, block] = child, its_slot
        host[rows, block], behind[rows, block] = child_slot, sides.up[rows, child]
        now[rows] = block
    rows = np.arange(len(root))
    parent[rows, root], host[rows, root], own[rows, root] = root, 0, 0
    return Trees(trees.kind, parent, host, own), behind


def _order(trees: Trees, code: Codes, root: Ints) -> Ints:
    """Blocks (M, N) by depth, then by what leads to them and what they are."""
    m, n = trees.kind.shape
    rows = np.arange(m)
    mark = mix(code + (trees.host + 1).astype(np.uint64) * _STEP)
    alike = mark[:, :, None] == mark[:, None]
    alike &= trees.parent[:, :, None] == trees.parent[:, None]
    # Blocks that are alike in everything get numbers; which one gets which does not matter.
    earlier = np.tril(np.ones((n, n), bool), -1)
    mark = mix(mark + (alike & earlier).sum(2).astype(np.uint64))
    label, depth = np.zeros((m, n), np.uint64), np.ones((m, n), np.uint64)
    depth[rows, root] = 0
    while True:
        label = mix(np.take_along_axis(label, trees.parent, 1) + mark)
        label[rows, root] = 0
        deeper = np.take_along_axis(depth, trees.parent, 1) + np.uint64(1)
        deeper[rows, root] = 0
        if np.array_equal(deeper, depth):
            break
        depth = deeper
    key = (depth << _BITS[2]) + (label & _LABEL)
    return np.where(trees.kind >= 0, key, _LAST).argsort(1, kind="stable")


def _renumbered(trees: Trees, order: Ints, place: Ints, root: Ints) -> Trees:
    rows = np.arange(len(root))[:, None]
    kind = trees.kind[rows, order]
    there = (kind >= 0) & (order != root[:, None])
    parent = place[rows, trees.parent[rows, order]] * there
    return Trees(kind, parent, trees.host[rows, order] * there, trees.own[rows, order] * there)


def _weights(tables: Tables) -> Codes:
    """(K, G, S): a number for the position that each symmetry gives each slot."""
    positions = np.arange(1, tables.atom.shape[1] + 1).astype(np.uint64)
    return (mix(positions * _STEP) | np.uint64(1))[tables.group]
