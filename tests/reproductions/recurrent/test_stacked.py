"""Stacked recurrent networks beside PyTorch's cells and plain loops, and their training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from semigradient.envs.memory import streams
from semigradient.nets.cells import Headed, make_cell, unroll
from semigradient.reproductions.recurrent.pixels import Pixels
from semigradient.reproductions.recurrent.stacked import Stacked
from semigradient.reproductions.recurrent.supervised import (
    Halving,
    RMSprop,
    accuracies,
    losses,
    shared,
    train,
)

COUNT, STEPS, BATCH, INPUTS, HIDDEN = 2, 5, 3, 4, 6


def single(net: Stacked, parameters: dict[str, Tensor], k: int) -> Headed:
    """Network k by itself."""
    one = Headed(make_cell(net.kind, net.inputs, net.hidden), net.outputs)
    one.load_state_dict({name: part[k].detach() for name, part in parameters.items()})
    return one


@pytest.mark.parametrize("kind", ["rnn", "leaky", "gated", "lstm"])
def test_each_network_is_a_single_one(kind: str) -> None:
    net = Stacked(kind, INPUTS, HIDDEN, 2)
    parameters = net.initial(range(COUNT))
    if kind == "leaky":
        parameters["cell.leak"].data += torch.randn(COUNT, HIDDEN)
    inputs = torch.randn(COUNT, STEPS, BATCH, INPUTS, generator=torch.Generator().manual_seed(0))
    shown = net.run(parameters, inputs)
    outputs = net.read(parameters, shown)
    grads = torch.autograd.grad(outputs.square().sum(), list(parameters.values()))
    for k in range(COUNT):
        one = single(net, parameters, k)
        wanted, _ = unroll(one.cell, inputs[k], one.cell.start(BATCH))
        torch.testing.assert_close(shown[:, k], wanted)
        heads = torch.stack([step @ one.head[:, :-1].T + one.head[:, -1] for step in wanted])
        torch.testing.assert_close(outputs[:, k], heads)
        heads.square().sum().backward()
        by_name = dict(one.named_parameters())
        for name, grad in zip(parameters, grads, strict=True):
            torch.testing.assert_close(grad[k], by_name[name].grad)


def test_gates_begin_as_they_should() -> None:
    """Standard: forget gates with a bias of 1; chrono: memories uniform on [2, T_max]."""
    net = Stacked("lstm", 1, 2000, 1)
    keep = net.initial([0], 50)["cell.weight"][0, 2000:4000, -1].detach().sigmoid().numpy()
    np.testing.assert_allclose(np.quantile(1 / (1 - keep), [0.25, 0.5, 0.75]), [14, 26, 38], atol=2)
    assert (net.initial([0])["cell.weight"][0, 2000:4000, -1] == 1).all()
    one, other = net.initial([4])["head"], net.initial([3, 4])["head"]
    assert torch.equal(one[0], other[1])


def test_rmsprop_is_torch_s() -> None:
    generator = torch.Generator().manual_seed(0)
    part = torch.randn(2, 3, 4, generator=generator)
    other = torch.nn.Parameter(part.clone())
    ours, theirs = RMSprop({"part": part}, 0.1), torch.optim.RMSprop([other], lr=0.1, alpha=0.9)
    for _ in range(4):
        gradient = torch.randn(2, 3, 4, generator=generator)
        ours.step({"part": gradient})
        other.grad = gradient.clone()
        theirs.step()
    torch.testing.assert_close(part, other.detach())


def test_a_rate_is_halved_where_the_loss_has_not_fallen() -> None:
    halving = Halving(RMSprop({"part": torch.zeros(3, 1, 1)}, 0.8))
    for values in ([3.0, 2.0, 1.0], [2.0, 2.5, 1.0], [2.5, 1.5, 0.5]):
        halving.judge(torch.tensor(values))
    assert halving.optimizer.rates.flatten().tolist() == pytest.approx([0.4, 0.4, 0.4])
    halving.judge(torch.tensor([1.9, 1.6, 0.6]))
    assert halving.optimizer.rates.flatten().tolist() == pytest.approx([0.4, 0.2, 0.2])


def test_networks_of_a_seed_have_the_same_sequences() -> None:
    stream = streams.make("semigradient/Adding-v0", 2 * 5, 0, length=4)
    batch = stream.whole()
    many = shared(batch, 2, 3)
    assert many.inputs.shape == (6, 4, 5, 2)
    for k in range(6):
        rows = slice(5 * (k % 2), 5 * (k % 2) + 5)
        assert torch.equal(many.inputs[k], batch.inputs[:, rows])
        assert torch.equal(many.targets[:, k], batch.targets[:, rows])


def test_losses_are_means_over_what_is_learned() -> None:
    net = Stacked("rnn", 10, 3, 9)
    parameters = net.initial([0, 1])
    stream = streams.make("semigradient/VariableCopy-v0", 2 * 2, 0, letters=1, delay=3)
    batch = shared(stream.whole(), 2)
    found, right = losses(net, parameters, batch), accuracies(net, parameters, batch)
    for k in range(2):
        shown = net.run(parameters, batch.inputs)
        scores = torch.log_softmax(net.read(parameters, shown)[:, k], -1)
        each = [
            (scores[t, b, batch.targets[t, k, b]], scores[t, b].argmax() == batch.targets[t, k, b])
            for t in range(len(scores))
            for b in range(2)
            if batch.is_learned[t, k, b]
        ]
        assert found[k].item() == pytest.approx(-np.mean([float(s.detach()) for s, _ in each]))
        assert right[k].item() == pytest.approx(np.mean([bool(hit) for _, hit in each]))


def test_a_network_learns_a_queue() -> None:
    stream = streams.make("semigradient/Queue-v0", 2 * 8, 0, delay=1, length=12)
    net = Stacked("rnn", 2, 8, 2)
    course = list(train(net, RMSprop(net.initial([0, 1]), 1e-2), stream, 2, 150))
    assert (course[0] > 0.6).all()
    assert (course[-1] < 0.05).all()


def test_pixels_come_one_by_one() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    plain, permuted = (Pixels("test", 5, 0, flag) for flag in (False, True))
    batch = plain.every()
    assert batch.inputs.shape == (64, 500, 1)
    np.testing.assert_allclose(batch.inputs[:, :, 0].T, digits.data[-500:] / 16, atol=3e-3)
    np.testing.assert_array_equal(batch.targets[-1], digits.target[-500:])
    assert batch.is_learned.nonzero()[:, 0].unique().tolist() == [63]
    torch.testing.assert_close(plain.pixels.sort(1).values, permuted.pixels.sort(1).values)
    assert not torch.equal(plain.pixels, permuted.pixels)
    few = plain.whole()
    assert few.inputs.shape == (64, 5, 1)
    assert not torch.equal(few.inputs, plain.whole().inputs)
