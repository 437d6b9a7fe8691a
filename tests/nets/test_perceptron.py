"""Perceptrons as one operation against the same layers one by one."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from semigradient.nets import perceptron
from semigradient.nets.bricks import mlp
from semigradient.nets.perceptron import Perceptron, apply

SHAPES = [
    ((5, 3), "tanh", False),
    ((5, 64, 64, 2), "tanh", False),
    ((5, 17, 3), "relu", False),
    ((5, 17, 3), "relu", True),
    ((5, 8, 8, 8, 1), "tanh", True),
]


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """One operation for few rows, too."""
    monkeypatch.setattr(perceptron, "_ENOUGH", 0)


def both(sizes: Sequence[int], kind: str, last: bool) -> tuple[Perceptron, nn.Sequential]:
    torch.manual_seed(0)
    plain = mlp(sizes, kind, last)
    return Perceptron(*copy.deepcopy(plain)), plain


def gradients(net: nn.Module, rows: Tensor) -> list[Tensor]:
    inputs = [rows, *net.parameters()]
    out = net(rows)
    weight = torch.linspace(-1, 2, out.numel()).view_as(out)
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), inputs)]


@pytest.mark.parametrize(("sizes", "kind", "last"), SHAPES)
@pytest.mark.parametrize("count", [1, 7, 300])  # few, and enough for the other form of the tangent
def test_values_and_gradients_are_those_of_the_layers(
    sizes: Sequence[int], kind: str, last: bool, count: int
) -> None:
    fast, plain = both(sizes, kind, last)
    rows = torch.randn(count, sizes[0], requires_grad=True)
    for ours, theirs in zip(gradients(fast, rows), gradients(plain, rows), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(fast(rows), plain(rows), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("sizes", "kind", "last"), SHAPES)
def test_gradients_agree_with_finite_differences_twice(
    sizes: Sequence[int], kind: str, last: bool
) -> None:
    net = both([min(size, 6) for size in sizes], kind, last)[0].double()
    rows = torch.randn(3, sizes[0], dtype=torch.float64, requires_grad=True)
    parameters = [p.detach().clone().requires_grad_() for p in net.parameters()]
    names = [name for name, _ in net.named_parameters()]

    def run(rows: Tensor, *values: Tensor) -> Tensor:
        return functional_call(net, dict(zip(names, values, strict=True)), (rows,))

    assert torch.autograd.gradcheck(run, (rows, *parameters))
    if kind == "tanh":  # ReLU has no second derivative of its own
        assert torch.autograd.gradgradcheck(run, (rows, *parameters))


@pytest.mark.parametrize(("kind", "bias"), itertools.product(["tanh", "relu"], [True, False]))
def test_many_perceptrons_are_each_of_them(kind: str, bias: bool) -> None:
    torch.manual_seed(0)
    weights = [torch.randn(3, 9, 5), torch.randn(3, 2, 9)]
    biases: list[Tensor | None] = [torch.randn(3, 9), torch.randn(3, 2)] if bias else [None, None]
    rows = torch.randn(3, 11, 5)
    together = apply(rows, [kind, ""], weights, biases)
    for index in range(3):
        own = [None if part is None else part[index] for part in biases]
        alone = apply(rows[index], [kind, ""], [part[index] for part in weights], own)
        torch.testing.assert_close(together[index], alone)


def test_the_transforms_of_torch_func_see_the_layers() -> None:
    fast, plain = both((5, 8, 1), "tanh", False)
    rows = torch.randn(6, 5)

    def by_sample(net: nn.Module) -> dict[str, Tensor]:
        parameters = {name: p.detach() for name, p in net.named_parameters()}

        def loss(values: dict[str, Tensor], row: Tensor) -> Tensor:
            return functional_call(net, values, (row[None],)).sum()

        return vmap(grad(loss), (None, 0))(parameters, rows)

    ours, theirs = by_sample(fast), by_sample(plain)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value)


def test_hooks_on_layers_are_called() -> None:
    fast, _ = both((5, 8, 1), "tanh", False)
    seen: list[torch.Size] = []
    fast[2].register_forward_hook(lambda _module, _inputs, output: seen.append(output.shape))
    fast(torch.randn(4, 5))
    assert seen == [(4, 1)]


def test_other_layers_are_a_plain_sequence() -> None:
    torch.manual_seed(0)
    for plain in (mlp((5, 8, 2), "elu"), mlp((5, 8, 2), "tanh", layer_norm=True), nn.Sequential()):
        rows = torch.randn(4, 5)
        assert torch.equal(Perceptron(*plain)(rows), plain(rows))


def test_parameters_keep_their_names_and_copies_their_own_values() -> None:
    fast, plain = both((5, 8, 2), "relu", False)
    rows = torch.randn(4, 5)
    assert list(fast.state_dict()) == list(plain.state_dict())
    fast(rows)
    other = copy.deepcopy(fast)
    with torch.no_grad():
        other[0].weight.zero_()
    assert not torch.equal(other(rows), fast(rows))
    torch.testing.assert_close(fast(rows), plain(rows))


@pytest.mark.parametrize("count", [1, 15, 16])
@pytest.mark.parametrize("kind", ["tanh", "relu"])
def test_few_rows_of_several_networks_give_what_many_give(kind: str, count: int) -> None:
    weights, bias = [torch.randn(3, 8, 4), torch.randn(3, 2, 8)], torch.randn(3, 8)
    rows = torch.randn(3, count, 4)
    with torch.no_grad():
        ours = apply(rows, [kind, ""], weights, [bias, None])
    torch.testing.assert_close(ours, apply(rows, [kind, ""], weights, [bias, None]))


def test_few_rows_go_through_the_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perceptron, "_ENOUGH", 8)
    fast, plain = both((5, 8, 2), "tanh", False)
    few, many = torch.randn(7, 5), torch.randn(8, 5)
    assert torch.equal(fast(few), plain(few))
    assert "_Layers" in str(fast(many).grad_fn) or "_Layers" in str(
        fast(many).grad_fn.next_functions
    )
    assert "_Layers" not in str(fast(few).grad_fn)
