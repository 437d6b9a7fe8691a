"""Forms of corrected momentum beside the oracle on linear TD(0); readings that must fail there."""

import math

import pytest
import torch
from torch import nn

from semigradient.optim.corrected_momentum import CorrectedMomentum
from semigradient.optim.forms import Block, Diagonal, Full, Kronecker, Layer, LowRank
from semigradient.optim.temporal_difference import TemporalDifference
from support.linear_td import BETA, FEATURES, STEPS, LinearTD, linear, train, value


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
    {"zeta": Full()},
    {"zeta": Layer()},
    {"zeta": Block(block_size=FEATURES)},
    {"zeta": Block(block_size=64)},
    {"zeta": LowRank(window=STEPS)},
    {"zeta": LowRank(window=STEPS), "chunk_size": 3},
    {"zeta": Kronecker()},  # one output: the signals are all 1, and inputs a full matrix
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
    assert worst(LinearTD(4), zeta=Full(), form="printed", **motion) <= 1e-12


@pytest.mark.parametrize("motion", [MOTIONS[4], MOTIONS[6]])
def test_the_printed_form_is_not_where_the_step_is_another(motion):
    assert worst(LinearTD(4), zeta=Full(), form="printed", **motion) > 1e-4


@pytest.mark.parametrize(
    "form",
    [
        {"zeta": Diagonal()},
        {"zeta": Block(block_size=2)},
        {"zeta": LowRank(window=3)},
        {"zeta": Kronecker(factor_size=2)},
    ],
)
def test_forms_that_lose_something_err_but_less_than_momentum(form):
    problem = LinearTD(4)
    net, uncorrected = linear(problem), 0.0
    optimizer = CorrectedMomentum(net.parameters(), 0.1, BETA, Full())
    for t, theta, _ in train(problem, net, optimizer):
        mu = optimizer.state[net.weight]["mu"][0]
        uncorrected = max(uncorrected, (mu - problem.oracle(t, theta)).norm().item())
    assert 1e-4 < worst(problem, **form) < uncorrected


def test_a_block_of_one_is_the_diagonal():
    results = []
    for form in ({"zeta": Diagonal()}, {"zeta": Block(block_size=1)}):
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


def linear_system(z, lr, beta, steps, zeta):
    """|theta| after gradient steps g = Z^T theta from |theta| = 1, Z a given 2 x 2 matrix."""
    net = nn.Linear(2, 1, bias=False).double()
    net.weight.data.copy_(torch.tensor([[1.0, 0.0]]))
    # Two samples e_k with a_k = row k of Z^T: x - (x - a) with the bootstrap at x - a.
    x = math.sqrt(2) * torch.eye(2).double()
    a = z.T / math.sqrt(2) * 2
    batch = TemporalDifference(net, {"s": x}, value, {"s": x - a}, torch.ones(2).double())
    if zeta is None:
        optimizer = torch.optim.SGD(net.parameters(), lr * (1 - beta), momentum=beta)
    else:
        optimizer = CorrectedMomentum(net.parameters(), lr, beta, zeta)
    for _ in range(steps):
        net.weight.grad = (z.T @ net.weight.detach()[0])[None]
        if zeta is not None:
            optimizer.observe(batch)
        optimizer.step()
    return net.weight.norm().item()


def test_stability_follows_the_spectrum():
    """It is that of gradient descent, |1 - lr lambda| < 1, not that of momentum (V4)."""
    real = torch.eye(2).double()
    assert linear_system(real, 3.0, 0.9, 200, None) < 1e-3
    assert linear_system(real, 3.0, 0.9, 200, Full()) > 1e10
    rotating = torch.tensor([[0.1, 1.0], [-1.0, 0.1]]).double()
    assert linear_system(rotating, 0.1, 0.99, 200, None) == pytest.approx(15.4, rel=0.02)
    assert linear_system(rotating, 0.1, 0.99, 200, Full()) == pytest.approx(0.4688, abs=2e-4)


def test_adam_without_a_correction_is_adam():
    """Zeta is zero where the targets move exactly as the predictions do."""
    torch.manual_seed(0)
    net, twin = (nn.Linear(4, 1).double() for _ in range(2))
    twin.load_state_dict(net.state_dict())
    ours = CorrectedMomentum(net.parameters(), 0.01, 0.9, zeta=Diagonal(), beta2=0.99)
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
