"""Recurrent cells from matrix products, with chrono initialisation, and a linear head for them.

A cell maps an input x (…, inputs) and a state s (…, width) to the next state. All but the GRU have
one matrix W over a = (what is fed back, x, 1), whose last column is the bias:

    z = W a,    s' = update(z, s),    read(s') is what others see (…, hidden).

They hold under `torch.func.vmap` and are differentiable to any order, forwards and backwards.

Sources: C. Tallec, PhD thesis 2019, "Recurrent networks and the time". Plain network in its form
for UORO: chapter 3, line 474 (the state is the pre-activation). Leaky, gated: chapter 5, eq. 5.8
and 5.10. LSTM: eq. 5.11–5.15. GRU: Cho et al. 2014, in PyTorch's form. Chrono initialisation: eq.
5.16, b_f = log U([1, T_max − 1]) and b_i = −b_f, which makes the memory 1/(1 − f) of a unit uniform
on [2, T_max].
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from semigradient.errors import require, unknown


def chrono_bias(units: int, t_max: float, generator: torch.Generator | None = None) -> Tensor:
    """Biases (units,) of gates that keep: log U([1, T_max − 1])."""
    require(
        t_max >= 2,
        f"chrono={t_max}: T_max, the longest dependency in steps, must be ≥ 2, "
        "for biases are log U([1, T_max - 1])",
    )
    return (1 + (t_max - 2) * torch.rand(units, generator=generator)).log()


class _Cell(nn.Module):
    """z = W a and what is common to cells that are one such layer.

    Args:
        inputs: width of x.
        hidden: units.
        generator: draws the initial parameters, uniform within 1/√hidden.
        chrono: T_max of chrono initialisation, in steps; none leaves the usual one.

    Attributes:
        LAYERS: rows of W in units: its pre-activations are (…, LAYERS · hidden).
        STATES: width of the state in units.
    """

    LAYERS, STATES = 1, 1
    PREACTIVATIONS, UNITWISE = True, False

    def __init__(
        self,
        inputs: int,
        hidden: int,
        generator: torch.Generator | None = None,
        chrono: float | None = None,
    ) -> None:
        super().__init__()
        self.inputs, self.hidden, self.width = inputs, hidden, self.STATES * hidden
        self.weight = _uniform((self.LAYERS * hidden, hidden + inputs + 1), hidden, generator)
        self.begin(None if chrono is None else chrono_bias(hidden, chrono, generator))

    def begin(self, keep: Tensor | None) -> None:
        """Set what is not uniform at first; `keep` (hidden,): biases of gates that keep."""

    def features(self, x: Tensor, state: Tensor) -> Tensor:
        """The layer's inputs a = (read(s), x, 1): (…, hidden + inputs + 1)."""
        return torch.cat((self.read(state), x, torch.ones_like(x[..., :1])), -1)

    def read(self, state: Tensor) -> Tensor:
        """What the network's other parts see: (…, hidden)."""
        return state

    def update(self, z: Tensor, state: Tensor) -> Tensor:
        """The next state from the pre-activations."""
        raise NotImplementedError

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """The next state (…, width)."""
        return self.update(self.features(x, state) @ self.weight.mT, state)

    def start(self, examples: int) -> Tensor:
        """The first state, zeros (examples, width)."""
        return self.weight.new_zeros(examples, self.width)

    def bias(self, layer: int) -> Tensor:
        """A view of the biases of one of W's layers, without gradient."""
        return self.weight.detach()[layer * self.hidden : (layer + 1) * self.hidden, -1]


class RNN(_Cell):
    """s' = W (tanh s, x, 1): the state is the pre-activation; read is tanh(s)."""

    UNITWISE = True  # a row of W serves one unit

    def __init__(
        self,
        inputs: int,
        hidden: int,
        generator: torch.Generator | None = None,
        chrono: float | None = None,
    ) -> None:
        require(chrono is None, f"chrono={chrono}: a plain RNN has no gate to initialise")
        super().__init__(inputs, hidden, generator)

    def read(self, state: Tensor) -> Tensor:
        """tanh(s)."""
        return state.tanh()

    def update(self, z: Tensor, state: Tensor) -> Tensor:
        """As they are."""
        return z


class Leaky(_Cell):
    """h' = a tanh(W (h, x, 1)) + (1 − a) h with a constant learnable a = σ(leak) of each unit."""

    PREACTIVATIONS = False  # `leak` is no part of W

    def begin(self, keep: Tensor | None) -> None:
        """As of `_Cell`."""
        self.leak = nn.Parameter(torch.zeros(self.hidden) if keep is None else -keep)

    def update(self, z: Tensor, state: Tensor) -> Tensor:
        """A step of length a towards tanh(z)."""
        return state + self.leak.sigmoid() * (z.tanh() - state)


class Gated(_Cell):
    """h' = g tanh(z₀) + (1 − g) h with g = σ(z₁): a gate for each unit, input and forget tied."""

    LAYERS = 2

    def begin(self, keep: Tensor | None) -> None:
        """As of `_Cell`."""
        if keep is not None:
            self.bias(1).copy_(-keep)

    def update(self, z: Tensor, state: Tensor) -> Tensor:
        """A step of length g towards tanh(z₀)."""
        new, gate = z.chunk(2, -1)
        return state + gate.sigmoid() * (new.tanh() - state)


class LSTM(_Cell):
    """c' = σ(f) c + σ(i) tanh(g), h' = σ(o) tanh(c'); the state is (h, c), z is (i, f, g, o)."""

    LAYERS, STATES = 4, 2

    def begin(self, keep: Tensor | None) -> None:
        """As of `_Cell`; without `keep`, forget gates have a bias of 1."""
        if keep is None:
            self.bias(1).fill_(1)
        else:
            self.bias(1).copy_(keep)
            self.bias(0).copy_(-keep)

    def read(self, state: Tensor) -> Tensor:
        """The part h."""
        return state[..., : self.hidden]

    def update(self, z: Tensor, state: Tensor) -> Tensor:
        """(h', c')."""
        into, forget, new, out = z.chunk(4, -1)
        memory = forget.sigmoid() * state[..., self.hidden :] + into.sigmoid() * new.tanh()
        return torch.cat((out.sigmoid() * memory.tanh(), memory), -1)


class GRU(nn.Module):
    """h' = (1 − u) n + u h, n = tanh(from x + r · from h): gates (r, u, n) as in `nn.GRUCell`.

    Its new value multiplies a gate into one of two layers, so that it is no function of one W a.
    """

    PREACTIVATIONS = False

    def __init__(
        self,
        inputs: int,
        hidden: int,
        generator: torch.Generator | None = None,
        chrono: float | None = None,
    ) -> None:
        super().__init__()
        self.inputs, self.hidden, self.width = inputs, hidden, hidden
        self.from_input = _uniform((3 * hidden, inputs + 1), hidden, generator)
        self.from_state = _uniform((3 * hidden, hidden + 1), hidden, generator)
        if chrono is not None:
            keep = slice(hidden, 2 * hidden)
            self.from_input.detach()[keep, -1] = chrono_bias(hidden, chrono, generator)
            self.from_state.detach()[keep, -1] = 0

    def read(self, state: Tensor) -> Tensor:
        """The part h."""
        return state

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """The next state (…, hidden)."""
        one = torch.ones_like(x[..., :1])
        return gru(
            torch.cat((x, one), -1) @ self.from_input.mT,
            torch.cat((state, one), -1) @ self.from_state.mT,
            state,
        )

    def start(self, examples: int) -> Tensor:
        """The first state, zeros (examples, hidden)."""
        return self.from_input.new_zeros(examples, self.hidden)


def gru(from_input: Tensor, from_state: Tensor, state: Tensor) -> Tensor:
    """The next state of a GRU, from both layers' outputs (…, 3 hidden): reset, update, new."""
    reset_in, update_in, new_in = from_input.chunk(3, -1)
    reset_state, update_state, new_state = from_state.chunk(3, -1)
    reset, update = (reset_in + reset_state).sigmoid(), (update_in + update_state).sigmoid()
    new = (new_in + reset * new_state).tanh()
    return new + update * (state - new)


class Headed(nn.Module):
    """A cell and a linear layer on what it shows: the form that `gradients.recurrent` takes."""

    def __init__(self, cell: Cell, outputs: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.cell, self.width, self.outputs = cell, cell.width, outputs
        self.head = _uniform((outputs, cell.hidden + 1), cell.hidden, generator)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (…, outputs) and the next state (…, width)."""
        state = self.cell(x, state)
        return self.output(state), state

    def output(self, state: Tensor) -> Tensor:
        """(…, outputs) of a state that was reached."""
        shown = self.cell.read(state)
        return torch.cat((shown, torch.ones_like(shown[..., :1])), -1) @ self.head.mT


Cell = RNN | Leaky | Gated | GRU | LSTM
CELLS: dict[str, type[Cell]] = {
    "rnn": RNN,
    "leaky": Leaky,
    "gated": Gated,
    "gru": GRU,
    "lstm": LSTM,
}


def make_cell(
    kind: str,
    inputs: int,
    hidden: int,
    generator: torch.Generator | None = None,
    chrono: float | None = None,
) -> Cell:
    """A cell by name: rnn, leaky, gated, gru or lstm.

    Args:
        chrono: T_max of chrono initialisation, in steps; none leaves the usual one.
    """
    if kind not in CELLS:
        unknown("recurrent cell", kind, CELLS)
    return CELLS[kind](inputs, hidden, generator, chrono)


def unroll(
    cell: Cell, inputs: Tensor, state: Tensor, resets: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A sequence through a cell.

    Args:
        cell: one of the above.
        inputs: (T, B, inputs).
        state: (B, width) before the first.
        resets: (T, B) bool: true where an episode begins, whose state is zeros before its input.

    Returns:
        What the cell shows (T, B, hidden) and the last state.
    """
    shown = []
    for index, x in enumerate(inputs):
        if resets is not None:
            state = torch.where(resets[index, :, None], torch.zeros_like(state), state)
        state = cell(x, state)
        shown.append(cell.read(state))
    return torch.stack(shown), state


def _uniform(
    shape: tuple[int, int], hidden: int, generator: torch.Generator | None
) -> nn.Parameter:
    return nn.Parameter((2 * torch.rand(shape, generator=generator) - 1) * hidden**-0.5)
