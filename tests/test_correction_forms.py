"""Forms of corrected momentum beside the oracle, in float64 on linear TD(0): there the gradient is
affine in the parameters, so the corrected average must equal the recomputed one."""

import io
import math

import pytest
import torch
from torch import nn

from errors import UserError
from optim.corrected_momentum import CorrectedMomentum
from optim.oracle_momentum import OracleMomentum
from optim.temporal_difference import TemporalDifference, per_sample_gradients

STEPS, FEATURES, STATES, BETA = 60, 5, 7, 0.9


def value(call, sample):
    return call(sample["s"]).squeeze(-1)


class LinearTD:
    """Random linear TD(0), a tenth of the transitions terminal; T minibatches of m."""

    def __init__(self, m, steps=STEPS, seed=0):
        generator = torch.Generator().manual_seed(seed)
        features = torch.randn(STATES, FEATURES, generator=generator).double()
        transitions = torch.rand(STATES, STATES, generator=generator).double() ** 3
        s = torch.randint(STATES, (steps, m), generator=generator)
        s2 = torch.multinomial(transitions[s.reshape(-1)], 1, generator=generator).view(s.shape)
        self.m, self.steps = m, steps
        self.x, self.x2 = features[s], features[s2]
        self.discount = 0.95 * (torch.rand(steps, m, generator=generator) > 0.1).double()
        self.reward = torch.randn(steps, m, generator=generator).double()
        self.start = torch.randn(FEATURES, generator=generator).double()

    def gradient(self, t, theta):
        """Semi-gradient of half the squared error of minibatches t (an index or a slice)."""
        a = self.x[t] - self.discount[t][..., None] * self.x2[t]
        return ((a @ theta - self.reward[t])[..., None] * self.x[t]).mean(-2)

    def oracle(self, t, theta, beta=BETA, horizon=None):
        """The last minibatches (all if None) evaluated anew at theta."""
        first = 0 if horizon is None else max(0, t - horizon)
        share = (1 - beta) * beta ** torch.arange(t - first, -1, -1).double()
        return share @ self.gradient(slice(first, t + 1), theta)

    def batch(self, net, t, weight=None):
        return TemporalDifference(
            net,
            {"s": self.x[t]},
            value,
            {"s": self.x2[t]},
            self.discount[t],
            target=self.reward[t],
            weight=weight,
        )


def linear(problem):
    net = nn.Linear(FEATURES, 1, bias=False).double()
    net.weight.data.copy_(problem.start)
    return net


def train(problem, net, optimizer, schedule=lambda t: 0.1, clip=None, steps=None, start=0):
    """Yield (t, theta_t, factor of the gradient) behind each step."""
    for t in range(start, steps or problem.steps):
        optimizer.param_groups[0]["lr"] = schedule(t)
        theta = net.weight.detach()[0].clone()
        gradient = problem.gradient(t, theta)
        factor = 1.0 if clip is None else min(1.0, clip / gradient.norm().item())
        net.weight.grad = factor * gradient[None]
        weight = None if clip is None else torch.full((problem.m,), factor, dtype=torch.float64)
        optimizer.observe(problem.batch(net, t, weight))
        optimizer.step()
        yield t, theta, factor


def worst(problem, schedule=lambda t: 0.1, clip=None, lr=0.1, **options):
    """Train; return the largest |mu_hat - mu_star|."""
    net = linear(problem)
    optimizer = CorrectedMomentum(net.parameters(), lr, BETA, **options)
    state, error, factors = optimizer.state[net.weight], 0.0, []
    for t, theta, factor in train(problem, net, optimizer, schedule, clip):
        factors.append(factor)
        if clip is None:
            star = problem.oracle(t, theta)
        else:
            share = (1 - BETA) * BETA ** torch.arange(t, -1, -1).double()
            share *= torch.tensor(factors, dtype=torch.float64)
            star = share @ problem.gradient(slice(0, t + 1), theta)
        if options.get("weight_decay") and not options.get("decoupled_weight_decay"):
            star += (1 - BETA ** (t + 1)) * options["weight_decay"] * theta
        state = optimizer.state[net.weight]
        error = max(error, (state["mu"][0] - state["eta"][0] - star).norm().item())
    assert net.weight.isfinite().all()
    assert clip is None or min(factors) < 0.5 < max(factors)
    return error


EXACT = [
    {"correction": "full"},
    {"correction": "layer"},
    {"correction": "block", "block_size": FEATURES},
    {"correction": "block", "block_size": 64},
    {"correction": "low-rank", "window": STEPS},
    {"correction": "low-rank", "window": STEPS, "chunk_size": 3},
    {"correction": "kronecker"},  # one output: the signals are all 1, and inputs a full matrix
]
MOTIONS = [
    {},
    {"schedule": lambda t: 0.2 / math.sqrt(t + 1)},
    {"schedule": lambda t: 0.1 * (t % 3 == 0) + 0.01},
    {"weight_decay": 0.01},
    {"weight_decay": 0.01, "decoupled_weight_decay": True},
    {"clip": 0.3},
    {"beta2": 0.99, "eps": 1e-3, "schedule": lambda t: 0.02},
]


@pytest.mark.parametrize("m", [1, 4, 16])
@pytest.mark.parametrize("form", EXACT)
def test_forms_that_keep_all_of_zeta_equal_the_oracle(m, form):
    assert worst(LinearTD(m), **form) <= 1e-12


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("form", [EXACT[0], EXACT[4]])
def test_exact_whatever_moves_the_parameters(motion, form):
    assert worst(LinearTD(4), **motion, **form) <= 1e-12


@pytest.mark.parametrize("motion", [MOTIONS[0], MOTIONS[1], MOTIONS[2]])
def test_the_printed_form_is_exact_for_plain_steps_and_schedules(motion):
    assert worst(LinearTD(4), form="printed", **motion) <= 1e-12


@pytest.mark.parametrize("motion", [MOTIONS[4], MOTIONS[6]])
def test_the_printed_form_is_not_where_the_step_is_another(motion):
    assert worst(LinearTD(4), form="printed", **motion) > 1e-4


@pytest.mark.parametrize(
    "form",
    [
        {"correction": "diagonal"},
        {"correction": "block", "block_size": 2},
        {"correction": "low-rank", "window": 3},
        {"correction": "kronecker", "factor_size": 2},
    ],
)
def test_forms_that_lose_something_err_but_less_than_momentum(form):
    problem = LinearTD(4)
    net, uncorrected = linear(problem), 0.0
    optimizer = CorrectedMomentum(net.parameters(), 0.1, BETA)
    for t, theta, _ in train(problem, net, optimizer):
        mu = optimizer.state[net.weight]["mu"][0]
        uncorrected = max(uncorrected, (mu - problem.oracle(t, theta)).norm().item())
    assert 1e-4 < worst(problem, **form) < uncorrected


def test_a_block_of_one_is_the_diagonal():
    results = []
    for form in ({"correction": "diagonal"}, {"correction": "block", "block_size": 1}):
        problem = LinearTD(4)
        net = linear(problem)
        list(train(problem, net, CorrectedMomentum(net.parameters(), 0.1, BETA, **form)))
        results.append(net.weight.detach())
    torch.testing.assert_close(*results, rtol=0, atol=1e-13)


# --- readings that must fail --------------------------------------------------------------------


def recursion(problem, variant, schedule=lambda t: 0.1):
    """The update written out, right or with one mistake; return the largest |mu_hat - mu_star|."""
    theta, d = problem.start.clone(), FEATURES
    mu = eta = torch.zeros(d).double()
    moved, zeta, error = torch.zeros(d).double(), torch.zeros(d, d).double(), 0.0
    scale = 2.0 if variant.startswith("square") else 1.0
    v = torch.zeros(d).double()
    for t in range(problem.steps):
        a = problem.x[t] - problem.discount[t][:, None] * problem.x2[t]
        z = scale * a.T @ problem.x[t] / problem.m
        if variant == "mean-outer":
            z = torch.outer(a.mean(0), problem.x[t].mean(0))
        elif variant == "square, Z of half":
            z = z / 2
        elif variant == "residual":
            z = a.T @ a / problem.m
        elif variant == "fixed target":
            z = problem.x[t].T @ problem.x[t] / problem.m
        new = BETA * zeta + (1 - BETA) * z
        used = new if variant == "zeta_t" else zeta
        shift = used @ moved if variant == "transposed" else used.T @ moved
        eta = eta * BETA - shift if variant == "missing beta" else BETA * (eta - shift)
        zeta = new
        gradient = scale * problem.gradient(t, theta)
        mu = BETA * mu + (1 - BETA) * gradient
        star = scale * problem.oracle(t, theta)
        error = max(error, (mu - eta - star).norm().item())
        step = moved = -schedule(t) / scale * (mu - eta)
        if variant == "learning rate of now":
            moved = step * schedule(t + 1) / schedule(t)
        elif "Adam" in variant:
            v = 0.99 * v + 0.01 * gradient**2
            step = step / ((v / (1 - 0.99 ** (t + 1))).sqrt() + 1e-3) / (1 - BETA ** (t + 1))
            moved = step if variant == "Adam, displacement" else moved
        theta = theta + step
    return error


RIGHT = ["right", "square", "Adam, displacement"]
WRONG = ["transposed", "mean-outer", "zeta_t", "missing beta", "square, Z of half", "residual"]
WRONG += ["fixed target", "learning rate of now", "Adam, printed"]


@pytest.mark.parametrize("variant", RIGHT + WRONG)
def test_the_bound_tells_wrong_readings_apart(variant):
    error = recursion(LinearTD(4), variant, lambda t: 0.1 / (1 + t) ** 0.5)
    assert error <= 1e-12 if variant in RIGHT else error > 1e-4


# --- consequences -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", EXACT[:5:2])
def test_the_same_minibatch_every_step_is_gradient_descent(form):
    """The correction leaves of momentum but its warm-up: steps lr (1 - beta^t)."""
    problem, theta = LinearTD(16, steps=1), None
    net = linear(problem)
    optimizer = CorrectedMomentum(net.parameters(), 0.05, BETA, **form)
    theta = problem.start.clone()
    for t in range(60):
        list(train(problem, net, optimizer, lambda _: 0.05))
        theta -= 0.05 * (1 - BETA ** (t + 1)) * problem.gradient(0, theta)
        torch.testing.assert_close(net.weight.detach()[0], theta, rtol=0, atol=1e-12)


def linear_system(z, lr, beta, steps, correction):
    """|theta| after gradient steps g = Z^T theta from |theta| = 1, Z a given 2 x 2 matrix."""
    net = nn.Linear(2, 1, bias=False).double()
    net.weight.data.copy_(torch.tensor([[1.0, 0.0]]))
    # Two samples e_k with a_k = row k of Z^T: x - (x - a) with the bootstrap at x - a.
    x = math.sqrt(2) * torch.eye(2).double()
    a = z.T / math.sqrt(2) * 2
    batch = TemporalDifference(net, {"s": x}, value, {"s": x - a}, torch.ones(2).double())
    if correction is None:
        optimizer = torch.optim.SGD(net.parameters(), lr * (1 - beta), momentum=beta)
    else:
        optimizer = CorrectedMomentum(net.parameters(), lr, beta, correction=correction)
    for _ in range(steps):
        net.weight.grad = (z.T @ net.weight.detach()[0])[None]
        if correction is not None:
            optimizer.observe(batch)
        optimizer.step()
    return net.weight.norm().item()


def test_stability_follows_the_spectrum():
    """It is that of gradient descent, |1 - lr lambda| < 1, not that of momentum (V4)."""
    real = torch.eye(2).double()
    assert linear_system(real, 3.0, 0.9, 200, None) < 1e-3
    assert linear_system(real, 3.0, 0.9, 200, "full") > 1e10
    rotating = torch.tensor([[0.1, 1.0], [-1.0, 0.1]]).double()
    assert linear_system(rotating, 0.1, 0.99, 200, None) == pytest.approx(15.4, rel=0.02)
    assert linear_system(rotating, 0.1, 0.99, 200, "full") == pytest.approx(0.4688, abs=2e-4)


def test_adam_without_a_correction_is_adam():
    """Zeta is zero where the targets move exactly as the predictions do."""
    torch.manual_seed(0)
    net, twin = (nn.Linear(4, 1).double() for _ in range(2))
    twin.load_state_dict(net.state_dict())
    ours = CorrectedMomentum(net.parameters(), 0.01, 0.9, correction="diagonal", beta2=0.99)
    adam = torch.optim.Adam(twin.parameters(), 0.01, (0.9, 0.99))
    for _ in range(20):
        s, target = torch.randn(6, 4).double(), torch.randn(6).double()
        for n, optimizer in ((net, ours), (twin, adam)):
            optimizer.zero_grad()
            (0.5 * (n(s)[:, 0] - target) ** 2).mean().backward()
        ones = torch.ones(6).double()
        ours.observe(TemporalDifference(net, {"s": s}, value, {"s": s}, ones))
        ours.step()
        adam.step()
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


# --- networks of several layers -----------------------------------------------------------------


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
        ({"correction": "low-rank", "window": 30}, {"correction": "full"}),
        ({"correction": "low-rank", "window": 30, "chunk_size": 2}, {"correction": "full"}),
        ({"correction": "block", "block_size": 10**4}, {"correction": "full"}),
        ({"correction": "full", "layers": 3}, {"correction": "full"}),
        ({"correction": "full", "layers": -3}, {"correction": "full"}),
        ({"correction": "layer", "layers": 1}, {"correction": "full", "layers": 1}),
        ({"correction": "block", "block_size": 1}, {"correction": "diagonal"}),
    ],
)
def test_forms_that_are_the_same(some, other):
    torch.testing.assert_close(trained(**some), trained(**other), rtol=0, atol=1e-12)
    assert not torch.equal(trained(**some), trained(correction="layer", rest="plain"))


def zeta_of(correction, **options):
    """Zeta^T as a matrix, column by column through the form's product; and rows a, b."""
    net, torch_state = network().double(), torch.random.get_rng_state()
    optimizer = CorrectedMomentum(net.parameters(), 0.1, BETA, correction=correction, **options)
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
        shifted = optimizer._form().shift(moved)
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
        ({"correction": "full"}, [range(57)]),
        ({"correction": "low-rank"}, [range(57)]),
        ({"correction": "diagonal"}, [[i] for i in range(57)]),
        ({"correction": "layer"}, LAYERS),
        ({"correction": "block", "block_size": 10}, TENS),
        ({"correction": "full", "layers": 2}, [range(52), *[[i] for i in range(52, 57)]]),
        ({"correction": "full", "layers": -2, "rest": "plain"}, [range(24, 57)]),
        ({"correction": "layer", "layers": -1}, [LAYERS[2], *[[i] for i in range(52)]]),
    ],
)  # fmt: skip
def test_which_entries_of_zeta_a_form_keeps(options, groups):
    got, z = zeta_of(**options)
    torch.testing.assert_close(got, z * inside(groups), rtol=0, atol=1e-14)


def test_kronecker_factors_give_their_product():
    """By its own definition, from factors of a loop; the parameters' order is (out, in), bias."""
    got, _ = zeta_of("kronecker")
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
    one = CorrectedMomentum(net.parameters(), 0.1, BETA, correction="kronecker")
    list(train(problem, net, one, steps=2))
    twin = linear(problem)
    full = CorrectedMomentum(twin.parameters(), 0.1, BETA)
    list(train(problem, twin, full, steps=2))
    torch.testing.assert_close(net.weight, twin.weight, rtol=0, atol=1e-14)


FORMS = [
    {"correction": "full"},
    {"correction": "full", "layers": 2, "rest": "plain", "weight_decay": 0.1},
    {"correction": "diagonal", "form": "printed"},
    {"correction": "block"},
    {"correction": "layer"},
    {"correction": "kronecker", "factor_size": 3},
    {"correction": "low-rank", "window": 5},
    {"correction": "diagonal", "beta2": 0.99},
]


@pytest.mark.parametrize("options", FORMS)
def test_a_saved_state_goes_on_bit_for_bit(options):
    whole = trained(12, **options)
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
    assert torch.equal(learn(other, resumed, 5, start=7), whole)


def test_convolutions_in_low_rank_and_kronecker_form():
    """Low-rank is the full matrix for every kind of layer. Kronecker: one position, one sample."""
    ends = []
    for options in (
        {"correction": "low-rank", "window": 9},
        {"correction": "full"},
        {"correction": "layer"},
        {"correction": "kronecker"},
    ):
        torch.manual_seed(0)
        kernel = 3 if options["correction"] in ("low-rank", "full") else 6
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
    for form in ({"correction": "full"}, {"correction": "low-rank", "window": 9}):
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
    for correction in ("full", "layer"):
        with pytest.raises(UserError) as error:
            CorrectedMomentum(params, 0.1, correction=correction)
        text = str(error.value)
        assert text.startswith(
            f"correction={correction}: 3001000 parameters need a matrix of 32.76"
        )
        assert "36024004000000 bytes" in text
        assert "diagonal needs 11.45 MiB" in text
        assert "block needs 183.2 MiB" in text
    for correction in ("block", "diagonal", "kronecker", "low-rank"):
        CorrectedMomentum(params, 0.1, correction=correction)


def test_the_window_is_refused_where_its_rows_do_not_fit(monkeypatch):
    net = network()
    optimizer = CorrectedMomentum(net.parameters(), 0.1, correction="low-rank", window=9)
    monkeypatch.setattr("optim.low_rank.available_memory", lambda device: 1000)
    optimizer.observe(TemporalDifference(net, {"s": torch.zeros(2, 3)}, value))
    # 9 minibatches of 2 samples: a share, inputs and outputs of three layers; 4 bytes each.
    size = 4 * 9 * 2 * (1 + (4 + 6) + (7 + 4) + (5 + 1))
    with pytest.raises(UserError, match=rf"low-rank: the window's rows need .* \({size} bytes\)"):
        optimizer.step()


# --- the oracle ---------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [1, 4])
@pytest.mark.parametrize("window", [None, 0, 3])
def test_the_oracle_is_the_sum_it_stands_for(m, window):
    problem = LinearTD(m, steps=60)
    net = linear(problem)
    optimizer = OracleMomentum(net.parameters(), 0.1, BETA, window=window)
    horizon = 20 if window == 0 else window
    for t, theta, _ in train(problem, net, optimizer):
        star = problem.oracle(t, theta, horizon=horizon)
        torch.testing.assert_close(optimizer.state[net.weight]["mu"][0], star, rtol=0, atol=1e-13)


def test_corrected_momentum_goes_the_oracles_way():
    problem = LinearTD(4)
    ends = []
    for make in (CorrectedMomentum, lambda *a: OracleMomentum(*a, window=None)):
        net = linear(problem)
        list(train(problem, net, make(net.parameters(), 0.1, BETA)))
        ends.append(net.weight.detach())
    torch.testing.assert_close(*ends, rtol=0, atol=1e-12)


def test_the_oracle_asks_for_what_it_needs():
    problem = LinearTD(2)
    net = linear(problem)
    optimizer = OracleMomentum(net.parameters(), 0.1)
    with pytest.raises(ValueError, match="target"):
        optimizer.observe(TemporalDifference(net, {"s": problem.x[0]}, value))
    with pytest.raises(RuntimeError, match="observe"):
        optimizer.step()
    optimizer.observe(problem.batch(net, 0))
    with pytest.raises(RuntimeError, match="one minibatch"):
        optimizer.observe(problem.batch(net, 0))


# --- order of accuracy --------------------------------------------------------------------------


def relative_error(lr, correction, small=False):
    """Mean |mu_hat - mu_star| over mean |mu_star| of a small network, TD(0), m = 1 or 4."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    truth = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    m = 1
    if small:
        m = 4
        for p, q in zip(net.parameters(), truth.parameters(), strict=True):
            p.data.copy_(q.data + 0.01 * torch.randn(p.shape).double())
    options = {"correction": correction or "full", "window": 40}
    ours = CorrectedMomentum(net.parameters(), lr, BETA, **options)
    reference = OracleMomentum(net.parameters(), lr, BETA, window=None)
    errors, sizes = [], []
    for _ in range(40):
        s, s2 = torch.randn(2, m, 2).double()
        discount = torch.full((m,), 0.9).double()
        with torch.no_grad():
            own = truth(s)[:, 0] - discount * truth(s2)[:, 0]
        reward = own if small else torch.randn(m).double()
        batch = TemporalDifference(net, {"s": s}, value, {"s": s2}, discount, target=reward)
        before = [p.detach().clone() for p in net.parameters()]
        reference.zero_grad()
        reference.observe(batch)
        reference.step()
        star = [reference.state[p]["mu"].clone() for p in net.parameters()]
        with torch.no_grad():
            for p, old in zip(net.parameters(), before, strict=True):
                p.copy_(old)
                p.grad = None
        with torch.enable_grad():
            target = reward + discount * net(s2)[:, 0].detach()
            (0.5 * (net(s)[:, 0] - target) ** 2).mean().backward()
        ours.observe(batch)
        ours.step()
        hats = [
            ours.state[p]["mu"] - (ours.state[p]["eta"] if correction else 0)
            for p in ours._params()
        ]
        errors.append(
            math.sqrt(sum(((h - s) ** 2).sum().item() for h, s in zip(hats, star, strict=True)))
        )
        sizes.append(math.sqrt(sum((s**2).sum().item() for s in star)))
    return sum(errors) / sum(sizes)


def test_order_of_accuracy():
    """V5: leaving second derivatives out leaves an error of first order, only smaller."""
    for correction in (None, "diagonal", "full"):
        coarse, fine = (relative_error(lr, correction) for lr in (0.05, 0.025))
        assert 1.7 < coarse / fine < 2.3
    assert relative_error(0.05, "full") < relative_error(0.05, "diagonal")
    assert relative_error(0.05, "diagonal") < relative_error(0.05, None)


def test_near_the_solution_the_full_matrix_removes_the_error():
    none, full = (relative_error(0.1, c, small=True) for c in (None, "full"))
    assert full < 0.1 * none
    assert relative_error(0.1, "low-rank", small=True) == pytest.approx(full, rel=1e-6)
