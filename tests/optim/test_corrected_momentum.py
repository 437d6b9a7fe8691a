"""The corrected momentum against oracles on linear problems, loops, and finite differences."""

import copy
import math

import pytest
import torch
from torch import nn

from semigradient import optim
from semigradient.errors import UserError
from semigradient.optim.corrected_momentum import CorrectedMomentum
from semigradient.optim.forms import Diagonal, Full, LowRank
from semigradient.optim.momentum import Momentum
from semigradient.optim.temporal_difference import TemporalDifference
from support.rows import loop_rows, mlp, value


def next_value(call, sample):
    return call(sample["s2"]).squeeze(-1)


def test_hand_computed_example():
    """One parameter, V = theta, terminal reward 1, lr = beta = 1/2: every value is exact."""
    net = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(net.weight)
    one = torch.ones(1, 1, dtype=torch.float64)
    for zeta in (Full(), Diagonal()):
        nn.init.zeros_(net.weight)
        optimizer = CorrectedMomentum(net.parameters(), 0.5, 0.5, zeta=zeta)
        state = optimizer.state[net.weight]
        expected = [
            (0.0, -1.0, -0.5, 0.0, 0.5),
            (0.25, -0.75, -0.625, -0.0625, 0.75),
            (0.53125, -0.46875, -0.546875, -0.13671875, 0.875),
            (0.736328125, -0.263671875, -0.4052734375, -0.1580810546875, 0.9375),
        ]
        for theta, g, mu, eta, zeta in expected:
            assert net.weight.item() == theta
            optimizer.zero_grad()
            (0.5 * (net(one) - 1) ** 2).mean().backward()
            assert net.weight.grad.item() == g
            optimizer.observe(TemporalDifference(net, {"s": one}, value))
            optimizer.step()
            state = optimizer.state[net.weight]
            assert (state["mu"].item(), state["eta"].item()) == (mu, eta)
            assert state["zeta"].item() == zeta
        assert net.weight.item() == 0.85992431640625


class LinearProblem:
    """Random linear TD(0) with terminal states; g is affine in theta, so the oracle is exact."""

    def __init__(self, m, steps=300, d=5, states=7, gamma=0.95, seed=0):
        generator = torch.Generator().manual_seed(seed)
        features = torch.randn(states, d, generator=generator, dtype=torch.float64)
        transitions = torch.rand(states, states, generator=generator, dtype=torch.float64) ** 3
        s = torch.randint(states, (steps, m), generator=generator)
        s2 = torch.stack(
            [torch.multinomial(transitions[row], 1, generator=generator)[:, 0] for row in s]
        )
        alive = (torch.rand(steps, m, generator=generator) > 0.1).double()
        assert 0 < alive.mean() < 1
        self.d, self.m, self.steps = d, m, steps
        self.x, self.x2 = features[s], features[s2]
        self.discount = gamma * alive
        self.reward = torch.randn(steps, m, generator=generator, dtype=torch.float64)
        self.a = self.x - self.discount[..., None] * self.x2
        self.start = torch.randn(d, generator=generator, dtype=torch.float64)

    def gradient(self, t, theta):
        """Semi-gradient of minibatches t (an index or a slice) of half the squared error."""
        delta = self.a[t] @ theta - self.reward[t]
        return (delta[..., None] * self.x[t]).mean(-2)

    def oracle(self, t, theta, beta):
        """Every minibatch up to t, evaluated anew at theta."""
        weight = (1 - beta) * beta ** torch.arange(t, -1, -1, dtype=torch.float64)
        return weight @ self.gradient(slice(0, t + 1), theta)


def run(problem, make, schedule, beta, scale=1.0, shared=True):
    """Train through the public interface; return the largest |mu_hat - mu_star|."""
    net = nn.Linear(problem.d, 1, bias=False).double()
    net.weight.data.copy_(problem.start)
    optimizer = make(net.parameters())
    worst = 0.0
    for t in range(problem.steps):
        optimizer.param_groups[0]["lr"] = schedule(t)
        optimizer.zero_grad()
        x, x2, discount = problem.x[t], problem.x2[t], problem.discount[t]
        with torch.no_grad():
            target = problem.reward[t] + discount * net(x2)[:, 0]
        (scale * 0.5 * (net(x)[:, 0] - target) ** 2).mean().backward()
        weight = None if scale == 1 else torch.full((problem.m,), scale, dtype=torch.float64)
        optimizer.observe(
            TemporalDifference(net, {"s": x}, value, {"s": x2}, discount, weight)
            if shared
            else TemporalDifference(net, {"s": x, "s2": x2}, value, next_value, discount, weight)
        )
        theta = net.weight.detach()[0].clone()
        optimizer.step()
        state = optimizer.state[net.weight]
        star = scale * problem.oracle(t, theta, beta)
        group = optimizer.param_groups[0]
        if not group["decoupled_weight_decay"]:
            # The decay of every past gradient, too, is that of the present parameters.
            star += (1 - beta ** (t + 1)) * group["weight_decay"] * theta
        worst = max(worst, (state["mu"][0] - state["eta"][0] - star).norm().item())
    assert net.weight.isfinite().all()
    return worst


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("m", [1, 4, 16])
def test_linear_td_equals_the_oracle(m, shared):
    problem = LinearProblem(m)
    worst = run(
        problem,
        lambda p: CorrectedMomentum(p, 0.1, zeta=Full()),
        lambda t: 0.1,
        beta=0.9,
        shared=shared,
    )
    assert worst <= 1e-12


SCHEDULES = [lambda t: 0.2 / math.sqrt(t + 1), lambda t: 0.1 * (t % 3 == 0) + 0.01]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.01},
        {"weight_decay": 0.01, "decoupled_weight_decay": True},
        {"chunk_size": 3},
    ],
)
def test_schedules_decay_and_chunks_stay_exact(schedule, options):
    problem = LinearProblem(4)
    worst = run(
        problem, lambda p: CorrectedMomentum(p, 0.1, zeta=Full(), **options), schedule, beta=0.9
    )
    assert worst <= 1e-12


def test_weight_follows_the_scale_of_the_loss():
    problem = LinearProblem(4)
    assert (
        run(problem, lambda p: CorrectedMomentum(p, 0.05, zeta=Full()), lambda t: 0.05, 0.9, 2.0)
        <= 1e-12
    )


def test_diagonal_is_an_approximation():
    problem = LinearProblem(4)
    worst = run(problem, lambda p: CorrectedMomentum(p, 0.1, zeta=Diagonal()), lambda t: 0.1, 0.9)
    assert 1e-4 < worst < 1


def recursion(problem, variant, lr=0.1, beta=0.9):
    """The update written out, with one mistake; return the largest |mu_hat - mu_star|."""
    theta, d = problem.start.clone(), problem.d
    mu = eta = moved = torch.zeros(d, dtype=torch.float64)
    zeta = torch.zeros(d, d, dtype=torch.float64)
    worst = 0.0
    for t in range(problem.steps):
        z = problem.a[t].T @ problem.x[t] / problem.m
        if variant == "mean-outer":
            z = torch.outer(problem.a[t].mean(0), problem.x[t].mean(0))
        new = beta * zeta + (1 - beta) * z
        used = new if variant == "zeta_t" else zeta
        shift = used @ moved if variant == "transposed" else used.T @ moved
        eta = eta * beta - shift if variant == "missing beta" else beta * (eta - shift)
        zeta = new
        mu = beta * mu + (1 - beta) * problem.gradient(t, theta)
        worst = max(worst, (mu - eta - problem.oracle(t, theta, beta)).norm().item())
        moved = -lr * (mu - eta)
        theta = theta + moved
    return worst


@pytest.mark.parametrize("variant", ["transposed", "mean-outer", "zeta_t", "missing beta"])
def test_the_bound_tells_wrong_variants_apart(variant):
    problem = LinearProblem(4)
    assert recursion(problem, "right") <= 1e-12
    assert recursion(problem, variant) > 1e-4


def test_the_same_batch_every_step_is_gradient_descent():
    """Linear, full batch: the correction cancels momentum but for its warm-up (V3)."""
    problem, lr, beta = LinearProblem(16), 0.05, 0.9
    net = nn.Linear(problem.d, 1, bias=False).double()
    net.weight.data.copy_(problem.start)
    theta = problem.start.clone()
    optimizer = CorrectedMomentum(net.parameters(), lr, beta, Full())
    for t in range(100):
        net.weight.grad = problem.gradient(0, net.weight.detach()[0])[None]
        optimizer.observe(
            TemporalDifference(
                net, {"s": problem.x[0]}, value, {"s": problem.x2[0]}, problem.discount[0]
            )
        )
        optimizer.step()
        theta = theta - lr * (1 - beta ** (t + 1)) * problem.gradient(0, theta)
    torch.testing.assert_close(net.weight.detach()[0], theta, rtol=0, atol=1e-12)


def observed_step(net, optimizer, s, target, weight=None, loss=nn.functional.mse_loss):
    optimizer.zero_grad()
    loss(net(s).squeeze(-1), target).backward()
    optimizer.observe(TemporalDifference(net, {"s": s}, value, weight=weight))
    optimizer.step()


@pytest.mark.parametrize("zeta", [Full(), Diagonal()])
def test_z_over_several_parameters_with_huber_weights(zeta):
    """Zeta after one step is (1 - beta) times the weighted mean of the outer products."""
    torch.manual_seed(0)
    net, s, target = mlp().double(), torch.randn(6, 5).double(), torch.randn(6).double() * 2
    delta = (net(s)[:, 0] - target).detach()
    weight = (delta.abs() < 1).double()
    assert 0 < weight.sum() < 6
    optimizer = CorrectedMomentum(net.parameters(), 0.01, 0.9, zeta=zeta, chunk_size=4)
    rows = loop_rows(net, [net(x[None])[0, 0] for x in s])
    flat = torch.cat([r.reshape(6, -1) for r in rows.values()], 1)
    z = torch.einsum("b,bi,bj->ij", weight, flat, flat) / 6
    observed_step(net, optimizer, s, target, weight, nn.functional.smooth_l1_loss)
    params = list(net.parameters())
    if zeta == Full():
        torch.testing.assert_close(optimizer.state[params[0]]["zeta"], 0.1 * z)
    else:
        zeta = torch.cat([optimizer.state[p]["zeta"].reshape(-1) for p in params])
        torch.testing.assert_close(zeta, 0.1 * z.diagonal())


def test_z_is_the_derivative_of_the_huber_gradient():
    """Linear predictions have no second derivative, so Z is exactly dg/dtheta."""
    torch.manual_seed(0)
    x, target = torch.randn(8, 4).double(), 2 * torch.randn(8).double()
    net = nn.Linear(4, 1, bias=False).double()

    def gradient(theta):
        delta = x @ theta - target
        return (delta.clamp(-1, 1)[:, None] * x).mean(0)

    theta = net.weight.detach()[0].clone()
    weight = ((x @ theta - target).abs() < 1).double()
    optimizer = CorrectedMomentum(net.parameters(), 0.01, 0.0, Full())
    observed_step(net, optimizer, x, target, weight, nn.functional.smooth_l1_loss)
    jacobian = torch.autograd.functional.jacobian(gradient, theta)
    torch.testing.assert_close(optimizer.state[net.weight]["zeta"].T, jacobian)


@pytest.mark.parametrize("zeta", [Full(), Diagonal()])
def test_without_memory_it_is_gradient_descent(zeta):
    torch.manual_seed(0)
    net = mlp()
    twin = mlp()
    twin.load_state_dict(net.state_dict())
    optimizer = CorrectedMomentum(net.parameters(), 0.1, 0.0, zeta=zeta)
    plain = torch.optim.SGD(twin.parameters(), 0.1)
    for _ in range(5):
        s, target = torch.randn(4, 5), torch.randn(4)
        observed_step(net, optimizer, s, target)
        plain.zero_grad()
        nn.functional.mse_loss(twin(s)[:, 0], target).backward()
        plain.step()
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("zeta", [Full(), Diagonal()])
def test_foreign_and_gradient_free_parameters(zeta):
    """A parameter the module lacks gets plain momentum; one without gradient stays put."""
    net, other, idle = mlp(), nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    groups = [
        {"params": [other], "lr": 0.2},
        {"params": list(net.parameters())},
        {"params": [idle]},
    ]
    optimizer = CorrectedMomentum(groups, 0.1, 0.9, zeta=zeta)
    twin = nn.Parameter(torch.ones(3))
    plain = Momentum([twin], 0.2, 0.9)
    for _ in range(4):
        optimizer.zero_grad()
        other.grad = other.detach().clone()
        twin.grad = twin.detach().clone()
        s = torch.randn(3, 5)
        net(s).sum().backward()
        optimizer.observe(TemporalDifference(net, {"s": s}, value))
        optimizer.step()
        plain.step()
    torch.testing.assert_close(other, twin)
    assert torch.equal(idle, torch.ones(2))


def test_several_observations_add_up_and_zero_grad_drops_them():
    torch.manual_seed(0)
    net, s = nn.Linear(3, 1).double(), torch.randn(4, 3).double()
    for zeta in (Full(), Diagonal()):
        zetas = []
        for times in (1, 2):
            optimizer = CorrectedMomentum(net.parameters(), 0.0, zeta=zeta)
            batch = TemporalDifference(net, {"s": s}, value)
            optimizer.observe(batch)
            optimizer.zero_grad()
            for _ in range(times):
                optimizer.observe(batch)
            optimizer.step()
            zetas.append(optimizer.state[net.weight]["zeta"])
        torch.testing.assert_close(2 * zetas[0], zetas[1])


@pytest.mark.parametrize("zeta", [Full(), Diagonal()])
def test_a_step_without_the_minibatch_says_so(zeta):
    net = mlp()
    optimizer = CorrectedMomentum(net.parameters(), 0.1, zeta=zeta)
    net(torch.randn(2, 5)).sum().backward()
    with pytest.raises(RuntimeError, match=r"observe\(TemporalDifference"):
        optimizer.step()
    optimizer.observe(TemporalDifference(net, {"s": torch.randn(2, 5)}, value))
    optimizer.step()
    with pytest.raises(RuntimeError, match="observe"):
        optimizer.step()


def test_a_foreign_module_is_refused():
    optimizer = CorrectedMomentum(mlp().parameters(), 0.1)
    with pytest.raises(ValueError, match="no trainable parameter"):
        optimizer.observe(TemporalDifference(mlp(), {"s": torch.randn(2, 5)}, value))


def test_too_large_a_matrix_is_refused_before_training():
    params = [nn.Parameter(torch.zeros(3000, 1000))]
    with pytest.raises(UserError, match=r"36000000000000 bytes.*correction=diagonal needs 11.44 M"):
        CorrectedMomentum(params, 0.1, zeta=Full())
    CorrectedMomentum(params, 0.1, zeta=Diagonal())


@pytest.mark.parametrize(("spare", "fits"), [(0, True), (-1, False)])
def test_zeta_leaves_half_of_the_memory_to_others(monkeypatch, spare, fits):
    params, size = [nn.Parameter(torch.zeros(10))], 4 * 10 * 10
    monkeypatch.setattr(
        "semigradient.optim.memory.available_memory", lambda device: 2 * size + spare
    )
    if fits:
        CorrectedMomentum(params, 0.1, zeta=Full())
    else:
        with pytest.raises(UserError, match=r"need a matrix of 400 B .* 399 B to give"):
            CorrectedMomentum(params, 0.1, zeta=Full())


@pytest.mark.parametrize("name", ["corrected-momentum", "corrected-adam"])
def test_by_default_it_keeps_what_adam_keeps_and_little_more(name):
    net = mlp()
    optimizer = optim.make(optim.config_class(name)(), net.parameters())
    assert optimizer.zeta == CorrectedMomentum(net.parameters(), 0.1).zeta == Diagonal()
    observed_step(net, optimizer, torch.randn(6, 5), torch.randn(6))
    state = [v for kept in optimizer.state.values() for v in kept.values() if torch.is_tensor(v)]
    assert sum(v.numel() for v in state) <= 5 * sum(p.numel() for p in net.parameters())


def test_a_copy_has_the_same_form():
    optimizer = copy.deepcopy(CorrectedMomentum(mlp().parameters(), 0.1, zeta=LowRank(7)))
    assert optimizer.zeta == LowRank(window=7)
    with pytest.raises(ValueError, match=r"window=7.*window=8"):
        CorrectedMomentum(mlp().parameters(), 0.1, zeta=LowRank(8)).load_state_dict(
            optimizer.state_dict()
        )


def test_misuse_is_refused():
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    with pytest.raises(UserError, match="same beta"):
        CorrectedMomentum([{"params": [a]}, {"params": [b], "beta": 0.5}], 0.1, zeta=Full())
    with pytest.raises(UserError, match="one type"):
        CorrectedMomentum([a, nn.Parameter(torch.zeros(2).double())], 0.1, zeta=Full())
    with pytest.raises(UserError, match=r"zeta='full': accepted are Full\(\), .* LowRank\(\)"):
        CorrectedMomentum([a], 0.1, zeta="full")
    full = CorrectedMomentum([a], 0.1, zeta=Full())
    with pytest.raises(ValueError, match=r"the state is of zeta=Full\(layers=0, .*=Diagonal\(\)"):
        CorrectedMomentum([a], 0.1, zeta=Diagonal()).load_state_dict(full.state_dict())
