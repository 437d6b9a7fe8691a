"""Cells against PyTorch's and their equations; what chrono initialisation promises."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.func import hessian, vmap

from semigradient.errors import UserError
from semigradient.nets.cells import (
    CELLS,
    GRU,
    LSTM,
    RNN,
    Gated,
    Leaky,
    chrono_bias,
    make_cell,
    unroll,
)


def test_lstm_and_gru_equal_pytorchs():
    x, h, c = torch.randn(5, 3), torch.randn(5, 4), torch.randn(5, 4)
    lstm, theirs = LSTM(3, 4), nn.LSTMCell(3, 4)
    theirs.load_state_dict(
        {
            "weight_hh": lstm.weight[:, :4],
            "weight_ih": lstm.weight[:, 4:7],
            "bias_ih": lstm.weight[:, 7],
            "bias_hh": torch.zeros(16),
        }
    )
    torch.testing.assert_close(lstm(x, torch.cat((h, c), -1)), torch.cat(theirs(x, (h, c)), -1))
    gru, theirs = GRU(3, 4), nn.GRUCell(3, 4)
    theirs.load_state_dict(
        {
            "weight_hh": gru.from_state[:, :4],
            "weight_ih": gru.from_input[:, :3],
            "bias_ih": gru.from_input[:, 3],
            "bias_hh": gru.from_state[:, 4],
        }
    )
    torch.testing.assert_close(gru(x, h), theirs(x, h))


def test_plain_leaky_and_gated_networks_are_their_equations():
    x, s = torch.randn(3), torch.randn(2)
    rnn, leaky, gated = RNN(3, 2), Leaky(3, 2), Gated(3, 2)
    w = rnn.weight
    torch.testing.assert_close(rnn(x, s), w[:, :2] @ s.tanh() + w[:, 2:5] @ x + w[:, 5])
    w = leaky.weight
    new = (w[:, :2] @ s + w[:, 2:5] @ x + w[:, 5]).tanh()
    torch.testing.assert_close(leaky(x, s), 0.5 * new + 0.5 * s)
    w = gated.weight
    new, gate = (w[:, :2] @ s + w[:, 2:5] @ x + w[:, 5]).chunk(2)
    torch.testing.assert_close(gated(x, s), gate.sigmoid() * new.tanh() + (1 - gate.sigmoid()) * s)


@pytest.mark.parametrize("kind", CELLS)
def test_cells_are_mapped_and_differentiated_twice(kind):
    cell = make_cell(kind, 3, 2).double()
    x, s = torch.randn(4, 3).double(), torch.randn(4, cell.width).double()
    torch.testing.assert_close(vmap(cell)(x, s), cell(x, s))
    first = vmap(hessian(lambda s, x: cell(x, s).sum()))(s, x)
    assert first.shape == (4, cell.width, cell.width)
    assert torch.autograd.gradgradcheck(lambda s: cell(x, s), (s.requires_grad_(),))


@pytest.mark.parametrize("kind", CELLS)
def test_unrolling_resets_rows_before_their_first_step(kind):
    cell = make_cell(kind, 3, 2)
    xs, s = torch.randn(4, 2, 3), torch.randn(2, cell.width)
    resets = torch.zeros(4, 2, dtype=torch.bool)
    resets[2, 1] = True
    shown, last = unroll(cell, xs, s, resets)
    alone, after = unroll(cell, xs[2:, 1:], cell.start(1))
    torch.testing.assert_close(shown[2:, 1:], alone)
    torch.testing.assert_close(last[1:], after)
    torch.testing.assert_close(shown[:, :1], unroll(cell, xs[:, :1], s[:1])[0])


@pytest.mark.parametrize(("t_max", "mean"), [(8, 1.27), (200, 4.32), (784, 5.67)])
def test_chrono_biases_have_the_published_mean_and_uniform_memories(t_max, mean):
    units, generator = 20000, torch.Generator().manual_seed(0)
    lstm = LSTM(1, 8, generator, chrono=t_max)
    keep = lstm.bias(1)
    assert torch.equal(lstm.bias(0), -keep)
    biases = chrono_bias(units, t_max, generator)
    m = t_max - 1
    assert (m * math.log(m) - m + 1) / (m - 1) == pytest.approx(mean, abs=0.005)
    assert biases.mean().item() == pytest.approx(mean, abs=0.03)
    memory = 1 / (1 - biases.double().sigmoid())
    assert memory.min() >= 2 - 1e-4
    assert memory.max() <= t_max * (1 + 1e-4)
    assert memory.mean().item() == pytest.approx((2 + t_max) / 2, rel=0.02)


def test_chrono_goes_to_the_gates_that_keep():
    generator = torch.Generator().manual_seed(0)
    gru = GRU(3, 50, generator, chrono=100)
    assert (gru.from_input[50:100, -1] >= 0).all()
    assert gru.from_input[50:100, -1].mean() > 2.5
    assert not gru.from_state[50:100, -1].any()
    assert Gated(3, 50, generator, chrono=100).bias(1).mean() < -2.5
    assert Leaky(3, 50, generator, chrono=100).leak.mean() < -2.5
    assert torch.equal(LSTM(3, 5, generator).bias(1), torch.ones(5))


@pytest.mark.parametrize("t_max", [1, 0.5, -3])
@pytest.mark.parametrize("kind", ["leaky", "gated", "gru", "lstm"])
def test_chrono_needs_a_longest_dependency_of_two_steps(kind, t_max):
    with pytest.raises(UserError, match=f"chrono={t_max}: T_max.*must be ≥ 2"):
        make_cell(kind, 3, 2, chrono=t_max)


def test_names_and_gates_that_do_not_exist_are_refused():
    with pytest.raises(UserError, match=r"unknown recurrent cell 'lstmm'.*did you mean lstm"):
        make_cell("lstmm", 3, 2)
    with pytest.raises(UserError, match="chrono=9: a plain RNN has no gate"):
        make_cell("rnn", 3, 2, chrono=9)
