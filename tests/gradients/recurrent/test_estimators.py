"""Estimators against backpropagation by one graph of the whole sequence, for every cell."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from semigradient.errors import UserError
from semigradient.gradients.recurrent import make, set_gradient
from semigradient.nets.cells import CELLS, Headed, make_cell

B, T, INPUTS, HIDDEN, OUTPUTS = 2, 6, 3, 2, 2


def network(kind: str, hidden: int = HIDDEN, seed: int = 0) -> Headed:
    generator = torch.Generator().manual_seed(seed)
    net = Headed(make_cell(kind, INPUTS, hidden, generator), OUTPUTS, generator).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.5)
    return net


def data(steps: int = T, examples: int = B, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    xs = torch.randn(steps, examples, INPUTS, generator=generator, dtype=torch.float64)
    targets = torch.randn(steps, examples, OUTPUTS, generator=generator, dtype=torch.float64)
    return xs, targets


def exact(net: nn.Module, xs: Tensor, targets: Tensor, cut: int = 0) -> Tensor:
    """(B, P) of the summed losses ½|o - target|², by one graph for each example."""
    rows = []
    for example in range(xs.shape[1]):
        state, loss = torch.zeros(net.width, dtype=xs.dtype), 0.0
        for t, (x, target) in enumerate(zip(xs[:, example], targets[:, example], strict=True)):
            if cut and t % cut == 0:
                state = state.detach()
            output, state = net(x, state)
            loss = loss + 0.5 * (output - target).square().sum()
        parts = torch.autograd.grad(loss, [*net.parameters()])
        rows.append(torch.cat([part.reshape(-1) for part in parts]))
    return torch.stack(rows)


def summed(estimator: Any, xs: Tensor, targets: Tensor) -> Tensor:
    total = 0.0
    for x, target in zip(xs, targets, strict=True):
        total = total + estimator.gradient(estimator.step(x) - target)
    return total


def enumerated(
    build: Any, values: Tensor, shape: tuple[int, ...], draws: int, xs: Tensor, targets: Tensor
) -> Tensor:
    """The mean estimate (1, P) over all noises of the values given, one example for each."""
    digits = math.prod(shape) * draws
    flat = torch.cartesian_prod(*[values.double()] * digits).reshape(-1, draws, *shape)
    noises, count = iter(flat.transpose(0, 1)), len(flat)
    estimator = build(count)
    estimator.trace.draw = lambda shape: next(noises)
    wide = (part[:, :1].expand(-1, count, -1) for part in (xs, targets))
    found = summed(estimator, *wide)
    assert next(noises, None) is None
    return found.mean(0, keepdim=True)


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("name", ["bptt", "rtrl"])
def test_exact_estimators_equal_one_graph_of_the_sequence(name, kind):
    net, (xs, targets) = network(kind), data()
    found = summed(make(name, net, B), xs, targets)
    torch.testing.assert_close(found, exact(net, xs, targets), rtol=0, atol=1e-10)


@pytest.mark.parametrize("length", [1, 2, 4, 6, 9])
def test_truncation_cuts_the_gradient_and_carries_the_state(length):
    net, (xs, targets) = network("lstm"), data()
    found = summed(make("tbptt", net, B, length=length), xs, targets)
    torch.testing.assert_close(found, exact(net, xs, targets, cut=length), rtol=0, atol=1e-12)


@pytest.mark.parametrize("exact_last_step", [True, False])
@pytest.mark.parametrize(("memory", "rank"), [(1, 1), (2, 1), (1, 2)])
def test_uoro_is_exact_on_average_over_all_signs(memory, rank, exact_last_step):
    if memory > 1 and not exact_last_step:
        pytest.skip("refused")
    steps = 3 if rank == 1 else 2
    if memory == 2:
        steps = 5
    net = network("rnn")
    xs, targets = data(steps, examples=1)
    draws = (steps - 1) // memory if exact_last_step else steps
    found = enumerated(
        lambda count: make(
            "uoro", net, count, memory=memory, rank=rank, exact_last_step=exact_last_step
        ),
        torch.tensor([-1.0, 1.0]),
        (rank, HIDDEN),
        draws,
        xs,
        targets,
    )
    torch.testing.assert_close(found, exact(net, xs, targets), rtol=0, atol=1e-12)


def test_uoro_does_not_see_how_its_product_is_shared_between_its_factors():
    net, (xs, targets) = network("gru"), data()
    found = []
    for factor in (1.0, 7.0):
        estimator = make("uoro", net, B, torch.Generator().manual_seed(3))
        for x in xs[:-2]:
            estimator.step(x)
        estimator.reset(torch.zeros(B, dtype=torch.bool))
        estimator.trace.state = estimator.trace.state * factor
        estimator.trace.theta = estimator.trace.theta / factor
        estimator.block.tangents = estimator.trace.state
        found.append(summed(estimator, xs[-2:], targets[-2:]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-6)


def test_artbp_is_exact_on_average_over_all_cuts():
    for kind, options in (("rnn", {"alpha": 6.0, "mean": 4.0}), ("lstm", {"constant": 0.3})):
        net, (xs, targets) = network(kind), data()
        total, weights = 0.0, 0.0
        for cuts in itertools.product([0, 1], repeat=T - 1):
            estimator = make("artbp", net, B, **options)
            decisions, weight, since = iter(cuts), 1.0, 0
            estimator.draw = lambda decisions=decisions: 1.0 - next(decisions)
            for cut in cuts:
                since += 1
                c = estimator.law.cut(since)
                weight, since = weight * (c if cut else 1 - c), 0 if cut else since
            total, weights = total + weight * summed(estimator, xs, targets), weights + weight
        assert weights == pytest.approx(1, abs=1e-12)
        torch.testing.assert_close(total, exact(net, xs, targets), rtol=0, atol=1e-12)
    never = make("artbp", net, B, constant=0.0)
    torch.testing.assert_close(summed(never, xs, targets), exact(net, xs, targets))


NAMES = [
    ("bptt", {}),
    ("tbptt", {"length": 3}),
    ("artbp", {"mean": 3.0}),
    ("rtrl", {}),
    ("uoro", {"rank": 2}),
    ("uoro", {"memory": 3}),
    ("uoro", {"exact_last_step": False}),
    ("nobacktrack", {}),
    ("shaped-uoro", {}),
    ("shaped-uoro", {"alpha": [1.0, 2.0, 0.5, 1.0] * 3}),
    ("preuoro", {}),
]


@pytest.mark.parametrize(("name", "options"), NAMES)
def test_rows_that_are_reset_have_no_past(name, options):
    net, (xs, targets) = network("rnn" if name == "nobacktrack" else "lstm"), data()
    mask = torch.tensor([False, True])
    estimator = make(name, net, B, torch.Generator().manual_seed(0), **options)
    for x in xs[:2]:
        estimator.step(x)
    estimator.reset(mask)
    assert not estimator.state[1].any()
    assert estimator.state[0].any()
    found = estimator.gradient(estimator.step(xs[2]) - targets[2])
    fresh = exact(net, xs[2:3], targets[2:3])
    if name != "uoro" or options.get("exact_last_step", True):
        torch.testing.assert_close(found[1], fresh[1], rtol=0, atol=1e-12)
    if name != "artbp":  # which may just have cut
        assert not torch.allclose(found[0], fresh[0], atol=1e-6)


@pytest.mark.parametrize(("name", "options"), NAMES[3:])
def test_traces_of_rows_that_are_reset_are_zero(name, options):
    net, (xs, _) = network("rnn"), data()
    estimator = make(name, net, B, torch.Generator().manual_seed(0), **options)
    for x in xs:
        estimator.step(x)
    estimator.reset(torch.tensor([False, True]))
    found = estimator.trace.contract(torch.ones(B, HIDDEN, dtype=torch.float64))
    assert found[0].any()
    assert not found[1].any()


def test_parameters_that_change_within_a_piece_enter_with_their_new_values():
    net, (xs, targets) = network("rnn"), data(2)
    start = [p.detach().clone() for p in net.parameters()]
    estimator = make("bptt", net, B)
    estimator.step(xs[0])
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(0.9)
    output = estimator.step(xs[1])
    found = estimator.gradient(output - targets[1])
    leaves = [p.requires_grad_() for p in start]
    names = [name for name, _ in net.named_parameters()]
    changed = [leaf - 0.1 * leaf.detach() for leaf in leaves]
    for row in range(B):
        state = torch.zeros(HIDDEN, dtype=torch.float64)
        first = dict(zip(names, leaves, strict=True))
        second = dict(zip(names, changed, strict=True))
        state = torch.func.functional_call(net, first, (xs[0, row], state))[1]
        expected = torch.func.functional_call(net, second, (xs[1, row], state))[0]
        torch.testing.assert_close(output[row], expected.detach())
        loss = 0.5 * (expected - targets[1, row]).square().sum()
        parts = torch.autograd.grad(loss, leaves)
        torch.testing.assert_close(found[row], torch.cat([p.reshape(-1) for p in parts]))


@pytest.mark.parametrize(("name", "options"), NAMES)
def test_continues_exactly_from_its_state(name, options):
    own = {"nobacktrack": "rnn", "shaped-uoro": "lstm", "preuoro": "gated"}
    net, (xs, targets) = network(own.get(name, "gru")), data(8)
    source = torch.Generator().manual_seed(0)
    estimator = make(name, net, B, source, **options)

    def advance(estimator: Any, part: slice) -> Tensor:
        total = 0.0
        for index, (x, target) in enumerate(zip(xs[part], targets[part], strict=True)):
            total = total + estimator.gradient(estimator.step(x) - target)
            if index == 1:
                estimator.reset(torch.tensor([True, False]))
            with torch.no_grad():
                for parameter in net.parameters():
                    parameter.mul_(0.99)
        return total

    advance(estimator, slice(0, 4))
    stored = estimator.state_dict()
    parameters = {k: v.clone() for k, v in net.state_dict().items()}
    drawn = source.get_state()
    expected = advance(estimator, slice(4, 8))
    net.load_state_dict(parameters)
    again = make(name, net, B, other := torch.Generator(), **options)
    again.load_state_dict(stored)
    other.set_state(drawn)
    assert torch.equal(advance(again, slice(4, 8)), expected)


class Own(nn.Module):
    """A network of nobody's family."""

    width = 2

    def __init__(self) -> None:
        super().__init__()
        self.core = nn.Linear(INPUTS + 2, 2)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.sin(self.core(torch.cat((x, state), -1))) * 0.9
        return state.square(), state


def test_a_network_of_ones_own_is_served():
    net, (xs, targets) = Own().double(), data()
    truth = exact(net, xs, targets)
    torch.testing.assert_close(summed(make("rtrl", net, B), xs, targets), truth)
    generator = torch.Generator().manual_seed(0)
    many = summed(
        make("uoro", net, 4000, generator), *(v[:, :1].expand(-1, 4000, -1) for v in (xs, targets))
    )
    error = many.std(0) / 4000**0.5
    assert ((many.mean(0) - truth[0]).abs() < 4.5 * error + 1e-9).all()
    set_gradient(net, truth[0])
    torch.testing.assert_close(net.core.bias.grad, truth[0, -2:])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("uro", {}, "unknown gradient estimator 'uro'.*did you mean.*uoro"),
        ("rtrl", {"memory": 4}, "memory=4: estimator rtrl takes no options"),
        ("tbptt", {"length": 0}, "length=0"),
        ("uoro", {"memory": 0}, "memory=0: the steps of a block must be ≥ 1"),
        ("uoro", {"rank": 0}, "rank=0"),
        ("artbp", {"alpha": 2.0}, "alpha=2.0: must be > 2"),
        ("artbp", {"mean": 1.0}, "mean=1.0"),
        ("artbp", {"constant": 1.0}, r"constant=1.0: c must be in \[0, 1\)"),
        ("preuoro", {"noise": "uniform"}, "noise='uniform': must be signs or normal"),
        ("shaped-uoro", {"alpha": [1.0, -1.0]}, "alpha="),
        ("shaped-uoro", {"shape": torch.eye(3)}, r"Q₀ is \(3, 3\), and must be \(2, 2\)"),
        ("reinforce", {"sigma": 0}, "sigma=0"),
        ("reinforce", {"baseline": "best"}, "baseline='best'"),
        ("uoro", {"memory": 4, "exact_last_step": False}, "memory=4"),
    ],
)
def test_bad_options_are_refused_in_one_line(name, options, message):
    with pytest.raises(UserError, match=message):
        make(name, network("rnn"), B, **options)


def test_networks_that_cannot_be_served_are_refused():
    with pytest.raises(UserError, match="Linear: a recurrent network gives"):
        make("rtrl", nn.Linear(2, 2), B)
    with pytest.raises(UserError, match="Own has no output"):
        make("uoro", Own(), B, exact_last_step=False)
    with pytest.raises(UserError, match=r"preuoro: GRU is not one layer.*rnn, gated and lstm are"):
        make("preuoro", network("gru"), B)
    with pytest.raises(UserError, match="nobacktrack: a parameter of LSTM serves several units"):
        make("nobacktrack", network("lstm"), B)
    with pytest.raises(UserError, match="reinforce: Own has no output"):
        make("reinforce", Own(), B)
    with pytest.raises(UserError, match="no step yet"):
        make("uoro", network("rnn"), B).gradient(torch.zeros(B, OUTPUTS))
