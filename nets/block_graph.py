"""The flow network over trees of blocks (Bengio et al. 2021, appendix; E. Bengio 2022, 5.4.2).

Every block is a node. Nodes begin as embeddings of their blocks and exchange messages along the
bonds between blocks; every open stem then gets one output for each entry of the vocabulary, from
its block's node and its own atom's embedding, and the mean of all nodes one for stopping.

The published network makes the matrix of a bond as the outer product a bᵀ of embeddings of its two
atoms. A message x a bᵀ is then (x·a) b, and no matrix is ever written down. Messages run from a
block to those that hang on it, one way.

Graphs of different sizes share one list of nodes, without padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from semigradient.nets.bricks import mlp
from semigradient.nets.flow_network import FlowOutputs

_NONE = -1e30  # of a stem that is not there; finite, as elsewhere


@dataclass(frozen=True)
class GraphShape:
    """What the numbers of an observation speak of.

    Attributes:
        blocks: N, the most blocks of a graph.
        stems: P, the most open stems.
        vocabulary: how many blocks there are to choose from.
        types: how many kinds of atoms take bonds.
        entries: E, outputs of a stem.
    """

    blocks: int
    stems: int
    vocabulary: int
    types: int
    entries: int


class Graphs(NamedTuple):
    """m graphs as one list of nodes, one of bonds and one of stems."""

    block: Tensor  # (V,) embedding number; 0: the node of an empty graph
    graph: Tensor  # (V,) which graph it is of
    source: Tensor  # (W,) node that a bond's message leaves
    target: Tensor  # (W,)
    ends: Tensor  # (W, 2) types of the atoms at both
    on: Tensor  # (U,) node of a stem
    type: Tensor  # (U,) embedding number; 0: the stem of an empty graph
    place: Tensor  # (U,) graph · P + number of the stem


def read(features: Tensor, shape: GraphShape, bidirectional: bool) -> Graphs:
    """What the numbers (m, 4 N + 2 P) of m observations say; see `BlockMolecules.features_of`."""
    n, p = shape.blocks, shape.stems
    block, parent, host, own, on, kind = features.long().split([n] * 4 + [p] * 2, 1)
    nothing = block[:, :1] == 0
    first = torch.arange(n, device=block.device) == 0
    real = (block > 0) | (nothing & first)
    number = (real.flatten().cumsum(0) - 1).view(real.shape)
    graph, column = real.nonzero(as_tuple=True)
    row, child = (own > 0).nonzero(as_tuple=True)
    source, target = number[row, parent[row, child]], number[row, child]
    ends = torch.stack([host[row, child], own[row, child]], 1) - 1
    if bidirectional:
        source, target = torch.cat([source, target]), torch.cat([target, source])
        ends = torch.cat([ends, ends.flip(1)])
    open_ = (kind > 0) | (nothing & (torch.arange(p, device=block.device) == 0))
    where, stem = open_.nonzero(as_tuple=True)
    return Graphs(
        block[graph, column],
        graph,
        source,
        target,
        ends,
        number[where, on[where, stem]],
        kind[where, stem],
        where * p + stem,
    )


class BlockGraphNetwork(nn.Module):
    """Observations (m, 4 N + 2 P) → `FlowOutputs`.

    Args:
        shape: of the observations.
        width: of embeddings and layers.
        steps: convolutions, which share their weights.
        state_flow: whether the log flow of states is an output.
        normalised: layer norms around the convolutions, and messages of unit scale; the published
            network has neither.
        bidirectional: messages along bonds both ways; the published network has one.
    """

    def __init__(
        self,
        shape: GraphShape,
        width: int = 256,
        steps: int = 10,
        state_flow: bool = False,
        normalised: bool = False,
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        self.shape, self.steps, self.bidirectional = shape, steps, bidirectional
        self.outputs = 1 + int(state_flow)
        self.block = nn.Embedding(shape.vocabulary + 1, width)
        self.stem = nn.Embedding(shape.types + 1, width)
        self.end = nn.Embedding(shape.types, width)
        self.enter = mlp((width, width, width), "leaky_relu")
        self.stay = nn.Linear(width, width)
        self.memory = nn.GRUCell(width, width)
        self.stem_head = mlp((2 * width, width, width, shape.entries), "leaky_relu")
        self.graph_head = mlp((width, width, self.outputs), "leaky_relu")
        self.before: nn.Module = nn.LayerNorm(width) if normalised else nn.Identity()
        self.after: nn.Module = nn.LayerNorm(width) if normalised else nn.Identity()
        self.scale = width**-0.5 if normalised else 1.0

    def forward(self, features: Tensor) -> FlowOutputs:
        """Outputs at m states; `forward` is (m, P·E + 1), stop last."""
        graphs, count = read(features, self.shape, self.bidirectional), len(features)
        nodes = self._nodes(graphs)
        alone = self.stem_head(torch.cat([nodes[graphs.on], self.stem(graphs.type)], 1))
        places = count * self.shape.stems
        stem_outputs = nodes.new_full((places, self.shape.entries), _NONE)
        stem_outputs = stem_outputs.index_copy(0, graphs.place, alone).view(count, -1)
        graph_outputs = self.graph_head(_mean(nodes, graphs.graph, count))
        flow = graph_outputs[:, 1] if self.outputs > 1 else None
        return FlowOutputs(torch.cat([stem_outputs, graph_outputs[:, :1]], 1), None, flow)

    def _nodes(self, graphs: Graphs) -> Tensor:
        """Final node embeddings: (V, width)."""
        state = self.enter(self.block(graphs.block))
        out, into = self.end(graphs.ends).unbind(1)
        for _ in range(self.steps):
            seen = self.before(state)
            strength = self.scale * (seen[graphs.source] * out).sum(1, keepdim=True)
            sent = strength * into
            heard = _mean(sent, graphs.target, len(state)) + self.stay(seen)
            state = self.memory(nn.functional.leaky_relu(heard), state)
        return self.after(state)


def _mean(rows: Tensor, group: Tensor, count: int) -> Tensor:
    """Mean of rows (k, w) by group (k,): (count, w), zero for groups without any."""
    total = rows.new_zeros((count, rows.shape[1])).index_add(0, group, rows)
    times = torch.bincount(group, minlength=count).clamp(min=1)
    return total / times[:, None].to(rows.dtype)
