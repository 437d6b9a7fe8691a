"""K recurrent networks at once, each with parameters and sequences of its own.

A published comparison trains several kinds of network from several seeds. Here the parameters of K
networks of one kind have a leading axis (K, …), and a step of all is one batched matrix product.
What a cell does with its pre-activations is the cell's own (`nets.cells`); backpropagation is
autograd's. Tests hold stacked networks equal to single ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from semigradient.nets.cells import Headed, make_cell


@dataclass(frozen=True)
class Stacked:
    """The shape of networks: a recurrent cell of one layer (any but the GRU) and a linear readout.

    Attributes:
        kind: of cell: rnn, leaky, gated or lstm.
        inputs, hidden, outputs: widths.
    """

    kind: str
    inputs: int
    hidden: int
    outputs: int

    def initial(self, seeds: Sequence[int], chrono: float | None = None) -> dict[str, Tensor]:
        """Parameters (K, …) of networks as `nets.cells` begins them.

        Args:
            seeds: of the K networks.
            chrono: T_max of chrono initialisation; none: the usual one, for an LSTM forget gates
                with a bias of 1.
        """
        networks = []
        for seed in seeds:
            draw = torch.Generator().manual_seed(seed)
            cell = make_cell(self.kind, self.inputs, self.hidden, draw, chrono)
            networks.append(dict(Headed(cell, self.outputs, draw).named_parameters()))
        return {
            name: torch.stack([one[name].detach() for one in networks]).requires_grad_()
            for name in networks[0]
        }

    def run(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """What the cells show, (T, K, B, H), on inputs (K, T, B, I) from zero states."""
        count, steps, batch, _ = inputs.shape
        weight, cell = parameters["cell.weight"], self._cell(parameters)
        from_state, from_inputs = weight[..., : self.hidden].mT, weight[..., self.hidden : -1].mT
        bias = weight[..., -1].unsqueeze(1)
        driven = torch.baddbmm(bias, inputs.flatten(1, 2), from_inputs)
        state = weight.new_zeros(count, batch, cell.width)
        shown = cell.read(state)
        rows = []
        for row in driven.unflatten(1, (steps, batch)).unbind(1):
            state = cell.update(torch.baddbmm(row, shown, from_state), state)
            shown = cell.read(state)
            rows.append(shown)
        return torch.stack(rows)

    def read(self, parameters: Mapping[str, Tensor], shown: Tensor) -> Tensor:
        """Outputs (T, K, B, O) of what the cells show (T, K, B, H)."""
        head = parameters["head"]
        return shown @ head[..., :-1].mT + head[..., -1].unsqueeze(1)

    def _cell(self, parameters: Mapping[str, Tensor]) -> Any:
        """A cell whose parameters beside W are the stacked ones, as they broadcast."""
        cell: Any = make_cell(self.kind, self.inputs, self.hidden)
        for name, part in parameters.items():
            own = name.removeprefix("cell.")
            if own in cell._parameters and own != "weight":
                del cell._parameters[own]
                setattr(cell, own, part.unsqueeze(1))
        return cell
