"""Message passing over the atoms of molecules, to one number per molecule.

    m_v = LeakyReLU( x_v W + b + mean over bonds (u, v) of x_u E(bond) )
    x_v ← GRU(m_v, x_v)                                                    (12 times)
    y   = w · Set2Set(x) + c

E(bond) is a matrix that a small perceptron makes of the kind of bond (Gilmer et al. 2017, "Neural
message passing for quantum chemistry"); Set2Set is a content-based read-out (Vinyals et al. 2016).
The sizes are those of the binding-energy proxy of Bengio et al. 2021.

There are only four kinds of bonds, so E has five values (none for an atom without any bond), which
are computed once per pass. Plain torch: sums over bonds and molecules are `index_add`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ATOM_FEATURES = 71
BOND_KINDS = 4


class AtomGraphs(NamedTuple):
    """B molecules as one graph of N atoms and M directed bonds."""

    atoms: Tensor  # (N, D) float32
    source: Tensor  # (M,) int64
    target: Tensor  # (M,) int64
    bond: Tensor  # (M,) int64 in [0, BOND_KINDS]; the last one stands for no bond
    molecule: Tensor  # (N,) int64 in [0, B), increasing
    size: int  # B

    def to(self, device: torch.device | str) -> AtomGraphs:
        """The same on another device."""
        atoms, source, target, bond, molecule = (tensor.to(device) for tensor in self[:5])
        return AtomGraphs(atoms, source, target, bond, molecule, self.size)


def join(graphs: Sequence[AtomGraphs]) -> AtomGraphs:
    """Several batches as one, in their order."""
    atoms = offsets([len(graph.atoms) for graph in graphs])
    molecules = offsets([graph.size for graph in graphs])
    return AtomGraphs(
        torch.cat([graph.atoms for graph in graphs]),
        torch.cat([graph.source + start for graph, start in zip(graphs, atoms, strict=True)]),
        torch.cat([graph.target + start for graph, start in zip(graphs, atoms, strict=True)]),
        torch.cat([graph.bond for graph in graphs]),
        torch.cat([graph.molecule + start for graph, start in zip(graphs, molecules, strict=True)]),
        sum(graph.size for graph in graphs),
    )


def offsets(sizes: Sequence[int]) -> list[int]:
    """Offsets of several parts in their concatenation."""
    return [sum(sizes[:index]) for index in range(len(sizes))]


class AtomNetwork(nn.Module):
    """`AtomGraphs` → (B, outputs).

    Args:
        features: D of an atom.
        width: of an atom's hidden state.
        steps: rounds of messages.
        readouts: rounds of the read-out.
        outputs: numbers per molecule.
    """

    def __init__(
        self,
        features: int = ATOM_FEATURES,
        width: int = 64,
        steps: int = 12,
        readouts: int = 3,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        self.width, self.steps, self.readouts = width, steps, readouts
        self.embed = nn.Linear(features, width)
        self.root = nn.Parameter(torch.empty(width, width).uniform_(-1, 1) / width**0.5)
        self.bias = nn.Parameter(torch.zeros(width))
        self.bonds = nn.Sequential(
            nn.Linear(BOND_KINDS, 128), nn.LeakyReLU(), nn.Linear(128, width * width)
        )
        self.update = nn.GRUCell(width, width)
        self.query = nn.LSTMCell(2 * width, width)
        self.output = nn.Linear(2 * width, outputs)

    def forward(self, graphs: AtomGraphs) -> Tensor:
        """(B, outputs)."""
        return self.output(self._read(self._atoms(graphs), graphs))

    def _atoms(self, graphs: AtomGraphs) -> Tensor:
        """Hidden states of the atoms after all rounds: (N, width)."""
        hidden = F.leaky_relu(self.embed(graphs.atoms))
        kinds = torch.eye(BOND_KINDS + 1, BOND_KINDS, dtype=hidden.dtype, device=hidden.device)
        matrices = self.bonds(kinds).view(-1, self.width, self.width)
        # Root and all kinds of bonds side by side: one product per round.
        side_by_side = torch.cat([self.root, *matrices], 1)
        degree = torch.bincount(graphs.target, minlength=len(hidden)).clamp(min=1)[:, None]
        picked = graphs.source * (BOND_KINDS + 2) + graphs.bond + 1
        for _ in range(self.steps):
            products = hidden @ side_by_side
            messages = products.view(-1, self.width).index_select(0, picked)
            summed = torch.zeros_like(hidden).index_add(0, graphs.target, messages)
            own = products[:, : self.width]
            hidden = self.update(F.leaky_relu(own + summed / degree + self.bias), hidden)
        return hidden

    def _read(self, hidden: Tensor, graphs: AtomGraphs) -> Tensor:
        """One vector (B, 2 width) per molecule, invariant to the order of its atoms."""
        molecule, shape = graphs.molecule, (graphs.size, self.width)
        readout = hidden.new_zeros(graphs.size, 2 * self.width)
        state = (hidden.new_zeros(shape), hidden.new_zeros(shape))
        for _ in range(self.readouts):
            state = self.query(readout, state)
            fit = (hidden * state[0].index_select(0, molecule)).sum(1)
            lowest = torch.full((graphs.size,), -torch.inf, dtype=fit.dtype, device=fit.device)
            # The largest is taken off, so that no exponential overflows.
            highest = lowest.scatter_reduce(0, molecule, fit.detach(), "amax")
            weight = (fit - highest.index_select(0, molecule)).exp()
            total = weight.new_zeros(graphs.size).index_add(0, molecule, weight)
            share = (weight / total.index_select(0, molecule))[:, None]
            mean = hidden.new_zeros(shape).index_add(0, molecule, share * hidden)
            readout = torch.cat([state[0], mean], 1)
        return readout
