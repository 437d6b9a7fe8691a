"""K recurrent networks at once, each with parameters and sequences of its own.

A published comparison trains several kinds of network from several seeds. Here the parameters of K
networks of one kind have a leading axis (K, …), and a step of all is one batched matrix product.
Backpropagation is autograd's. Tests hold them equal to single cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

GATES = {"rnn": 1, "leaky": 1, "gated": 2, "lstm": 4}
"""Kinds of cell, and how many pre-activations a unit has."""

State = tuple[Tensor, ...]
"""(h,), of an LSTM (h, c), each (K, B, H)."""

Adjustment = Callable[[dict[str, Tensor], torch.Generator], None]
"""Changes the parameters of one network."""


@dataclass(frozen=True)
class Stacked:
    """The shape of networks: a recurrent layer and a linear readout.

    With pre-activations z = x W_x + h W_h + b, the cells are

        rnn    h' = tanh z
        leaky  h' = h + α (tanh z - h),  α = sigmoid(a) with a parameter a per unit
        gated  h' = h + σ(z_g) (tanh z - h)
        lstm   c' = σ(z_f) c + σ(z_i) tanh z_u,  h' = σ(z_o) tanh c'

    (C. Tallec, PhD thesis, 2019, equations 5.2, 5.5, 5.10 and §5.2); the pre-activations of a
    gated cell are in the order g, u, those of an LSTM in PyTorch's, i, f, u, o.
    """

    kind: str
    inputs: int
    hidden: int
    outputs: int

    def initial(self, seeds: Sequence[int], adjust: Adjustment | None = None) -> dict[str, Tensor]:
        """Parameters, (K, …) each, uniform within one over the root of H, as PyTorch has them.

        Args:
            seeds: of the K networks.
            adjust: to the first parameters of each.
        """
        width = GATES[self.kind] * self.hidden
        shapes = {
            "w_x": (self.inputs, width),
            "w_h": (self.hidden, width),
            "bias": (1, width),
            "w_out": (self.hidden, self.outputs),
            "b_out": (1, self.outputs),
        }
        if self.kind == "leaky":
            shapes["rate"] = (1, self.hidden)
        networks = []
        for seed in seeds:
            draw = torch.Generator().manual_seed(seed)
            one = {
                name: (2 * torch.rand(shape, generator=draw) - 1) * self.hidden**-0.5
                for name, shape in shapes.items()
            }
            if adjust is not None:
                adjust(one, draw)
            networks.append(one)
        return {
            name: torch.stack([one[name] for one in networks]).requires_grad_() for name in shapes
        }

    def start(self, count: int, batch: int) -> State:
        """Zeros."""
        zeros = torch.zeros(count, batch, self.hidden)
        return (zeros, zeros) if self.kind == "lstm" else (zeros,)

    def run(
        self, parameters: Mapping[str, Tensor], inputs: Tensor, state: State
    ) -> tuple[Tensor, State]:
        """Hidden states (T, K, B, H) on inputs (K, T, B, I), and the last state."""
        _, steps, batch, _ = inputs.shape
        flat = inputs.flatten(1, 2)
        driven = torch.baddbmm(parameters["bias"], flat, parameters["w_x"])
        rows = driven.unflatten(1, (steps, batch)).unbind(1)
        step = getattr(self, f"_{self.kind}")
        hidden = []
        for row in rows:
            state = step(parameters, torch.baddbmm(row, state[0], parameters["w_h"]), state)
            hidden.append(state[0])
        return torch.stack(hidden), state

    def read(self, parameters: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
        """Outputs (T, K, B, O) of hidden states (T, K, B, H)."""
        return hidden @ parameters["w_out"] + parameters["b_out"]

    def _rnn(self, parameters: Mapping[str, Tensor], z: Tensor, state: State) -> State:
        return (z.tanh(),)

    def _leaky(self, parameters: Mapping[str, Tensor], z: Tensor, state: State) -> State:
        return (torch.lerp(state[0], z.tanh(), parameters["rate"].sigmoid()),)

    def _gated(self, parameters: Mapping[str, Tensor], z: Tensor, state: State) -> State:
        gate, update = z.chunk(2, -1)
        return (torch.lerp(state[0], update.tanh(), gate.sigmoid()),)

    def _lstm(self, parameters: Mapping[str, Tensor], z: Tensor, state: State) -> State:
        enter, keep, update, show = z.chunk(4, -1)
        cell = torch.addcmul(keep.sigmoid() * state[1], enter.sigmoid(), update.tanh())
        return show.sigmoid() * cell.tanh(), cell


def standard(hidden: int) -> Adjustment:
    """Forget gates of an LSTM with a bias of 1 (Gers and Schmidhuber 2000)."""

    def adjust(one: dict[str, Tensor], draw: torch.Generator) -> None:
        one["bias"][:, hidden : 2 * hidden] = 1.0

    return adjust


def chrono(hidden: int, t_max: float) -> Adjustment:
    """b_f ~ log U[1, T_max - 1] and b_i = -b_f per unit (chapter 5, equation 5.16)."""

    def adjust(one: dict[str, Tensor], draw: torch.Generator) -> None:
        spans = (1 + (t_max - 2) * torch.rand(hidden, generator=draw)).log()
        one["bias"][:, :hidden] = -spans
        one["bias"][:, hidden : 2 * hidden] = spans

    return adjust
