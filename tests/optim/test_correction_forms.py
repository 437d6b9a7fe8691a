"""What each form of corrected momentum keeps of the matrix zeta, in networks of several layers."""

import io

import pytest
import torch
from torch import nn

from semigradient.errors import UserError
from semigradient.optim.corrected_momentum import CorrectedMomentum
from semigradient.optim.forms import Block, Diagonal, Full, Kronecker, Layer, LowRank
from semigradient.optim.temporal_difference import TemporalDifference, per_sample_gradients
from support.linear_td import BETA, LinearTD, linear, train, value


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1))


def learn(net, optimizer, steps, start=0):
    for t in range(start, start + steps):
        generator = torch.Generator().manual_seed(t)
        s, s2 = torch.randn(2, 5, 3, generator=generator).double()
        discount = torch.full((5,), 0.9, dtype=torch.float64)
        with torch.no_grad():
            target = 1 + discount * net(s2)[:, 0]
        optimizer.zero_grad()
        (0.5 * (net(s)[:, 0] - target) ** 2).mean().backward()
        ones = torch.ones(5).double()
        optimizer.observe(
            TemporalDifference(net, {"s": s}, value, {"s": s2}, discount, target=ones)
        )
        optimizer.step()
    return torch.cat([p.detach().reshape(-1) for p in net.parameters()])


def trained(steps=30, lr=0.1, **options):
    net = network().double()
    return learn(net, CorrectedMomentum(net.parameters(), lr, BETA, **options), steps)


@pytest.mark.parametrize(
    ("some", "other"),
    [
        ({"zeta": LowRank(window=30)}, {"zeta": Full()}),
        ({"zeta": LowRank(window=30), "chunk_size": 2}, {"zeta": Full()}),
        ({"zeta": Block(block_size=10**4)}, {"zeta": Full()}),
        ({"zeta": Full(layers=3)}, {"zeta": Full()}),
        ({"zeta": Full(layers=-3)}, {"zeta": Full()}),
        ({"zeta": Layer(layers=1)}, {"zeta": Full(layers=1)}),
        ({"zeta": Block(block_size=1)}, {"zeta": Diagonal()}),
    ],
)
def test_forms_that_are_the_same(some, other):
    torch.testing.assert_close(trained(**some), trained(**other), rtol=0, atol=1e-12)
    assert not torch.equal(trained(**some), trained(zeta=Layer(rest="plain")))


def zeta_of(zeta):
    """Zeta^T as a matrix, column by column through the form's product; and rows a, b."""
    net, torch_state = network().double(), torch.random.get_rng_state()
    optimizer = CorrectedMomentum(net.parameters(), 0.1, BETA, zeta)
    learn(net, optimizer, 1)
    generator = torch.Generator().manual_seed(0)
    s, s2 = torch.randn(2, 5, 3, generator=generator).double()
    discount = torch.full((5,), 0.9, dtype=torch.float64)
    rows = per_sample_gradients(
        TemporalDifference(network().double(), {"s": s}, value, {"s": s2}, discount)
    )
    a, b = (torch.cat([r.reshape(5, -1) for r in part.values()], 1) for part in rows)
    params = list(net.parameters())
    columns = []
    for column in torch.eye(a.shape[1]).double():
        parts = column.split([p.numel() for p in params])
        moved = [part.view(p.shape) for part, p in zip(parts, params, strict=True)]
        shifted = optimizer._matrix().apply(moved)
        columns.append(torch.cat([s.reshape(-1) for s in shifted]))
    torch.random.set_rng_state(torch_state)
    return torch.stack(columns, 1), (a.T @ b / 5).T * (1 - BETA)


TENS = [range(i, min(i + 10, 57)) for i in range(0, 57, 10)]
LAYERS = [range(24), range(24, 52), range(52, 57)]  # 3 x 6 + 6, 6 x 4 + 4, 4 + 1 parameters


def inside(groups, n=57):
    mask = torch.zeros(n, n).double()
    for group in groups:
        index = torch.tensor(list(group))
        mask[index[:, None], index] = 1
    return mask


@pytest.mark.parametrize(
    ("options", "groups"),
    [
        ({"zeta": Full()}, [range(57)]),
        ({"zeta": LowRank()}, [range(57)]),
        ({"zeta": Diagonal()}, [[i] for i in range(57)]),
        ({"zeta": Layer()}, LAYERS),
        ({"zeta": Block(block_size=10)}, TENS),
        ({"zeta": Full(layers=2)}, [range(52), *[[i] for i in range(52, 57)]]),
        ({"zeta": Full(rest="plain", layers=-2)}, [range(24, 57)]),
        ({"zeta": Layer(layers=-1)}, [LAYERS[2], *[[i] for i in range(52)]]),
    ],
)  # fmt: skip
def test_which_entries_of_zeta_a_form_keeps(options, groups):
    got, z = zeta_of(**options)
    torch.testing.assert_close(got, z * inside(groups), rtol=0, atol=1e-14)


def test_kronecker_factors_give_their_product():
    """By its own definition, from factors of a loop; the parameters' order is (out, in), bias."""
    got, _ = zeta_of(Kronecker())
    net, generator = network().double(), torch.Generator().manual_seed(0)
    both = torch.randn(2, 5, 3, generator=generator).double()
    x, g = [], []  # inputs of each layer, with 1, and signals: (2, 5, ...) for s and s'
    h, outputs = both, []
    for layer in net:
        if isinstance(layer, nn.Linear):
            x.append(torch.cat([h, torch.ones(2, 5, 1).double()], -1).detach())
        h = layer(h)
        if isinstance(layer, nn.Linear):
            outputs.append(h)
    g = torch.autograd.grad(h.sum(), outputs)
    for group, xs, gs in zip(LAYERS, x, g, strict=True):
        here = torch.einsum("bo,bp->op", gs[0], gs[0]) / 5, xs[0].T @ xs[0] / 5
        there = torch.einsum("bo,bp->op", gs[0], gs[1]) / 5, xs[1].T @ xs[0] / 5
        index = torch.tensor(list(group))
        outs, ins = gs.shape[-1], xs.shape[-1]
        # Weights come row by row, then the biases: positions of (output, input) with bias last.
        place = torch.empty(outs, ins, dtype=torch.long)
        place[:, :-1] = torch.arange(outs * (ins - 1)).view(outs, ins - 1)
        place[:, -1] = outs * (ins - 1) + torch.arange(outs)
        block = got[index[:, None], index][place.reshape(-1)[:, None], place.reshape(-1)]
        expected = torch.kron(here[0], here[1].T.contiguous())
        expected -= 0.9 * torch.kron(there[0], there[1].T.contiguous())
        torch.testing.assert_close(block, 0.1 * expected, rtol=0, atol=1e-14)
    assert (got * (1 - inside(LAYERS))).abs().max() == 0


def test_kronecker_is_exact_for_one_sample():
    problem = LinearTD(1)
    net = linear(problem)
    one = CorrectedMomentum(net.parameters(), 0.1, BETA, zeta=Kronecker())
    list(train(problem, net, one, steps=2))
    twin = linear(problem)
    full = CorrectedMomentum(twin.parameters(), 0.1, BETA, Full())
    list(train(problem, twin, full, steps=2))
    torch.testing.assert_close(net.weight, twin.weight, rtol=0, atol=1e-14)


FORMS = [
    {"zeta": Full()},
    {"zeta": Full(rest="plain", layers=2), "weight_decay": 0.1},
    {"zeta": Diagonal(), "form": "printed"},
    {"zeta": Block()},
    {"zeta": Layer()},
    {"zeta": Kronecker(factor_size=3)},
    {"zeta": LowRank(window=5)},
    {"zeta": Diagonal(), "beta2": 0.99},
]


@pytest.mark.parametrize("options", FORMS)
def test_a_saved_state_continues_bit_for_bit(options):
    unsplit = trained(12, **options)
    net = network().double()
    optimizer = CorrectedMomentum(net.parameters(), 0.1, BETA, **options)
    learn(net, optimizer, 7)
    buffer = io.BytesIO()
    torch.save([net.state_dict(), optimizer.state_dict()], buffer)
    buffer.seek(0)
    weights, state = torch.load(buffer, weights_only=True)
    other = network().double()
    other.load_state_dict(weights)
    resumed = CorrectedMomentum(other.parameters(), 1.0, BETA, **options)
    resumed.load_state_dict(state)
    assert torch.equal(learn(other, resumed, 5, start=7), unsplit)


def test_convolutions_in_low_rank_and_kronecker_form():
    """Low-rank is the full matrix for every kind of layer. Kronecker: one position, one sample."""
    ends = []
    for options in (
        {"zeta": LowRank(window=9)},
        {"zeta": Full()},
        {"zeta": Layer()},
        {"zeta": Kronecker()},
    ):
        torch.manual_seed(0)
        kernel = 3 if options["zeta"].is_joint else 6
        m, groups = (4, 2) if kernel == 3 else (1, 1)
        net = nn.Sequential(
            nn.Conv2d(2, 4, kernel), nn.Tanh(), nn.Conv2d(4, 2, 1, groups=groups), nn.Flatten(),
            nn.Linear(2 * (7 - kernel) ** 2, 1),
        ).double()  # fmt: skip
        optimizer = CorrectedMomentum(net.parameters(), 0.05, BETA, **options)
        for _ in range(6 if m > 1 else 2):
            s, s2 = torch.randn(2, m, 2, 6, 6).double()
            optimizer.zero_grad()
            (0.5 * (net(s)[:, 0] - 1) ** 2).mean().backward()
            discount = torch.full((m,), 0.9).double()
            optimizer.observe(TemporalDifference(net, {"s": s}, value, {"s": s2}, discount))
            optimizer.step()
        ends.append(torch.cat([p.detach().reshape(-1) for p in net.parameters()]))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(ends[2], ends[3], rtol=0, atol=1e-12)


def test_minibatches_of_several_sizes():
    """The ring of the low-rank form grows; every form takes them as they come."""
    results = []
    for form in ({"zeta": Full()}, {"zeta": LowRank(window=9)}):
        net = network().double()
        optimizer = CorrectedMomentum(net.parameters(), 0.1, BETA, **form)
        for t, m in enumerate((3, 5, 2, 5, 7, 1)):
            s = torch.randn(m, 3, generator=torch.Generator().manual_seed(t)).double()
            optimizer.zero_grad()
            (0.5 * net(s) ** 2).mean().backward()
            optimizer.observe(TemporalDifference(net, {"s": s}, value))
            optimizer.step()
        results.append(torch.cat([p.detach().reshape(-1) for p in net.parameters()]))
    torch.testing.assert_close(*results, rtol=0, atol=1e-12)


def test_too_much_memory_is_refused_before_training():
    params = [nn.Parameter(torch.zeros(1000, 3000)), nn.Parameter(torch.zeros(1000))]
    for zeta in (Full(), Layer()):
        with pytest.raises(UserError) as error:
            CorrectedMomentum(params, 0.1, zeta=zeta)
        text = str(error.value)
        assert text.startswith(f"correction={zeta.name}: 3001000 parameters need a matrix of 32.76")
        assert "36024004000000 bytes" in text
        assert "diagonal needs 11.45 MiB" in text
        assert "block needs 183.2 MiB" in text
    for zeta in (Block(), Diagonal(), Kronecker(), LowRank()):
        CorrectedMomentum(params, 0.1, zeta=zeta)


def test_the_window_is_refused_where_its_rows_do_not_fit(monkeypatch):
    net = network()
    optimizer = CorrectedMomentum(net.parameters(), 0.1, zeta=LowRank(window=9))
    monkeypatch.setattr("semigradient.optim.low_rank.usable_memory", lambda device: 1000)
    optimizer.observe(TemporalDifference(net, {"s": torch.zeros(2, 3)}, value))
    # 9 minibatches of 2 samples: a share, inputs and outputs of three layers; 4 bytes each.
    size = 4 * 9 * 2 * (1 + (4 + 6) + (7 + 4) + (5 + 1))
    with pytest.raises(UserError, match=rf"low-rank: the window's rows need .* \({size} bytes\)"):
        optimizer.step()
