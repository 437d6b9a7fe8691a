"""The registry of optimizers, and the optimizers that do not look at samples."""

import copy
import dataclasses
import io
import subprocess
import sys

import pytest
import torch
from torch import nn

from semigradient import optim
from semigradient.errors import UserError
from semigradient.optim.momentum import Momentum
from semigradient.optim.rmsprop import RMSprop
from semigradient.optim.temporal_difference import (
    Loss,
    TemporalDifference,
    wants_temporal_difference,
)

VARIANTS = [
    ("sgd", {"weight_decay": 0.1}),
    ("momentum", {"weight_decay": 0.1}),
    ("momentum", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("nesterov", {}),
    ("rmsprop", {}),
    ("rmsprop", {"eps_inside_sqrt": True, "initial_square": 1.0, "eps": 1e-5}),
    ("rmsprop", {"centered": True, "momentum": 0.9, "weight_decay": 0.1}),
    ("adam", {"weight_decay": 0.1}),
    ("adamw", {}),
    ("corrected-momentum", {"correction": "full"}),
    ("corrected-momentum", {"correction": "diagonal", "weight_decay": 0.1, "chunk_size": 3}),
    ("corrected-momentum", {"correction": "block", "block_size": 5}),
    ("corrected-momentum", {"correction": "layer", "layers": 1, "form": "printed"}),
    ("corrected-momentum", {"correction": "kronecker", "factor_size": 3}),
    ("corrected-momentum", {"correction": "low-rank", "window": 4, "chunk_size": 2}),
    ("corrected-adam", {}),
    ("oracle-momentum", {"window": 4, "weight_decay": 0.1}),
]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def value(call, sample):
    return call(sample["s"]).squeeze(-1)


def train(net, optimizer, steps, start=0, lr=None):
    for t in range(start, start + steps):
        generator = torch.Generator().manual_seed(t)
        s = torch.randn(5, 4, generator=generator)
        s2 = torch.randn(5, 4, generator=generator)
        discount = torch.full((5,), 0.9)
        if lr is not None:
            optimizer.param_groups[0]["lr"] = lr(t)
        optimizer.zero_grad()
        with torch.no_grad():
            target = 1 + discount * net(s2)[:, 0]
        (0.5 * (net(s)[:, 0] - target) ** 2).mean().backward()
        if wants_temporal_difference(optimizer):
            optimizer.observe(
                TemporalDifference(net, {"s": s}, value, {"s": s2}, discount, target=torch.ones(5))
            )
        optimizer.step()


def build(name, net, options, lr=0.01):
    return optim.make(optim.config_class(name)(lr=lr, **options), net.parameters())


def weights(net):
    return torch.cat([p.detach().reshape(-1) for p in net.parameters()])


# --- registry -----------------------------------------------------------------------------------


def test_names():
    assert set(optim.names()) == {name for name, _ in VARIANTS}


def test_describing_every_optimizer_needs_no_torch():
    code = (
        "import sys\nfrom semigradient import optim\n"
        "for name in optim.names(): optim.config_class(name)()\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["sgd", "momentum", "corrected-momentum", "rmsprop", "adam"])
def test_configs_are_frozen_with_defaults(name):
    config = optim.config_class(name)()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.lr = 1.0
    assert all(isinstance(f.default, float | int | str) for f in dataclasses.fields(config))


def test_unknown_name():
    with pytest.raises(UserError, match=r"unknown optimizer 'adm': did you mean adam"):
        optim.config_class("adm")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adam", {"lr": -1.0}, r"^lr=-1.0: must be > 0$"),
        ("sgd", {"lr": float("nan")}, "lr=nan: must be > 0"),
        ("sgd", {"lr": float("inf")}, "lr=inf: must be finite"),
        ("momentum", {"beta": 1.0}, r"^beta=1.0: must be in \[0, 1\)$"),
        ("nesterov", {"momentum": 0.0}, "momentum=0.0"),
        ("rmsprop", {"alpha": -0.1}, "alpha=-0.1"),
        ("rmsprop", {"eps": 0.0}, "eps=0.0"),
        ("adam", {"beta2": 1.5}, "beta2=1.5"),
        ("adamw", {"weight_decay": -1.0}, "weight_decay=-1.0: must be >= 0"),
        ("corrected-momentum", {"correction": "diag"}, "did you mean diagonal"),
        ("corrected-momentum", {"correction": "layer", "rest": "plane"}, "did you mean plain"),
        ("corrected-momentum", {"correction": "block", "block_size": 0}, "block_size=0"),
        ("corrected-momentum", {"correction": "low-rank", "window": -1}, "window=-1"),
        ("corrected-momentum", {"window": 5}, r"^window=5: correction=diagonal has no such option"),
        ("corrected-momentum", {"correction": "kronecker", "block_size": 8}, "only .*=block has"),
        ("corrected-momentum", {"correction": "block", "rest": "plain"}, "=full or layer has"),
        ("corrected-adam", {"layers": 1}, "layers=1: correction=diagonal has no such option"),
        ("corrected-momentum", {"chunk_size": -1}, "chunk_size=-1"),
    ],
)
def test_bad_hyperparameters(name, options, message):
    with pytest.raises(UserError, match=message):
        optim.config_class(name)(**options)


@pytest.mark.parametrize("name", optim.names())
def test_generators_and_groups_of_parameters(name):
    net = network()
    config = optim.config_class(name)()
    assert isinstance(optim.make(config, net.parameters()), torch.optim.Optimizer)
    groups = [{"params": net[0].parameters()}, {"params": net[2].weight, "lr": 0.5}]
    optimizer = optim.make(config, groups)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 1]
    assert [group["lr"] for group in optimizer.param_groups] == [config.lr, 0.5]


def test_adam_takes_the_fused_kernel():
    for name in ("adam", "adamw", "sgd", "nesterov"):
        assert build(name, network(), {}).param_groups[0]["fused"] is True
    assert build("adam", network().to("meta"), {}).param_groups[0]["fused"] is None


# --- every optimizer ----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_resumed_training_equals_uninterrupted_training(name, options):
    whole = network()
    train(whole, build(name, whole, options), 20)
    first = network()
    optimizer = build(name, first, options)
    train(first, optimizer, 10)
    buffer = io.BytesIO()
    torch.save([first.state_dict(), optimizer.state_dict()], buffer)
    buffer.seek(0)
    model, state = torch.load(buffer, weights_only=True)
    second = network()
    second.load_state_dict(model)
    resumed = build(name, second, options, lr=1.0)  # the state brings its own learning rate
    resumed.load_state_dict(state)
    train(second, resumed, 10, start=10)
    assert torch.equal(weights(second), weights(whole))
    train(first, optimizer, 10, start=10)
    assert torch.equal(weights(first), weights(whole))
    assert not torch.equal(weights(network()), weights(whole))


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_learning_rate_is_read_at_every_step(name, options):
    net = network()
    optimizer = build(name, net, options)
    train(net, optimizer, 3)
    before = weights(net)
    train(net, optimizer, 3, start=3, lr=lambda t: 0.0)
    assert torch.equal(weights(net), before)
    # From one state, one step is proportional to the learning rate.
    moves = []
    for lr in (0.001, 0.002):
        twin, twin_optimizer = copy.deepcopy((net, optimizer))
        train(twin, twin_optimizer, 1, start=6, lr=lambda t, lr=lr: lr)
        moves.append(weights(twin) - before)
    assert moves[0].abs().max() > 1e-6
    torch.testing.assert_close(2 * moves[0], moves[1], rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_closure_and_missing_gradients(name, options):
    net = network()
    optimizer = build(name, net, {**options, "weight_decay": 0.0})
    before, linear = weights(net)[:40], Loss(torch.ones_like)

    def closure():
        optimizer.zero_grad()
        loss = net[2](torch.ones(1, 8)).sum()
        loss.backward()
        if wants_temporal_difference(optimizer):
            batch = {"s": torch.ones(1, 8)}
            # The loss is the value itself, whatever its target.
            target = torch.zeros(1)
            optimizer.observe(TemporalDifference(net[2], batch, value, target=target, loss=linear))
        return loss

    assert optimizer.step(closure).requires_grad
    assert torch.equal(weights(net)[:40], before)


# --- momentum -----------------------------------------------------------------------------------


def test_momentum_equals_its_recursion_and_not_torch_sgd():
    p, q = (nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64)) for _ in range(2))
    optimizer = Momentum([p], lr=0.1, beta=0.9)
    other = torch.optim.SGD([q], lr=0.1, momentum=0.9, dampening=0.1)
    theta, mu = p.detach().clone(), torch.zeros(2, dtype=torch.float64)
    for t in range(50):
        g = torch.tensor([t - 1.0, 2.0 * t + 1], dtype=torch.float64).cos()
        optimizer.param_groups[0]["lr"] = lr = 0.1 / (t + 1)
        p.grad, q.grad = g.clone(), g.clone()
        optimizer.step()
        mu = 0.9 * mu + 0.1 * g
        theta = theta - lr * mu
        torch.testing.assert_close(p.detach(), theta, rtol=0, atol=1e-15)
        if t == 0:
            other.step()
            torch.testing.assert_close(theta, torch.tensor([1, -2.0]).double() - 0.01 * g)
            torch.testing.assert_close(q.detach(), torch.tensor([1, -2.0]).double() - 0.1 * g)


@pytest.mark.parametrize("decoupled", [False, True])
def test_weight_decay(decoupled):
    p = nn.Parameter(torch.tensor([2.0]))
    p.grad = torch.tensor([1.0])
    Momentum([p], 0.1, 0.5, 0.25, decoupled).step()
    expected = 2 * (1 - 0.1 * 0.25) - 0.1 * 0.5 if decoupled else 2 - 0.1 * 0.5 * (1 + 0.25 * 2)
    torch.testing.assert_close(p.detach(), torch.tensor([expected]))
    assert torch.equal(p.grad, torch.tensor([1.0]))


@pytest.mark.parametrize("optimizer_class", [Momentum, RMSprop])
def test_learning_rate_as_a_tensor(optimizer_class):
    results = []
    for lr in (0.125, torch.tensor(0.125)):
        p = nn.Parameter(torch.arange(4.0))
        optimizer = optimizer_class([p], lr)
        for _ in range(3):
            p.grad = p.detach() + 1
            optimizer.step()
        results.append(p.detach())
    torch.testing.assert_close(results[0], results[1])


# --- RMSprop ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"centered": True}, {"momentum": 0.9}, {"weight_decay": 0.1, "alpha": 0.9, "eps": 1e-3}],
)
def test_rmsprop_equals_torch(options):
    net, twin = network().double(), network().double()
    ours = RMSprop(net.parameters(), 0.01, **options)
    theirs = torch.optim.RMSprop(twin.parameters(), 0.01, **options)
    for t in range(20):
        for p, q in zip(net.parameters(), twin.parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(t)).double()
            q.grad = p.grad.clone()
        ours.step()
        theirs.step()
    # Centered from zero, the first variance is small: rounding shows there.
    torch.testing.assert_close(weights(net), weights(twin), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("start", "centered"), [(0.0, False), (1.0, False), (0.0, True)])
def test_epsilon_inside_the_root(start, centered):
    p = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = RMSprop(
        [p], 0.1, alpha=0.9, eps=0.01, eps_inside_sqrt=True, initial_square=start, centered=centered
    )
    theta, v, mean = 0.0, start, 0.0
    for g in (1.0, -0.5, 0.001):
        p.grad = torch.tensor([g], dtype=torch.float64)
        optimizer.step()
        v, mean = 0.9 * v + 0.1 * g * g, 0.9 * mean + 0.1 * g
        theta -= 0.1 * g / (v - mean**2 * centered + 0.01) ** 0.5
        assert p.item() == pytest.approx(theta, abs=1e-14)


def test_centered_survives_a_steady_gradient():
    p = nn.Parameter(torch.zeros(64))
    optimizer = RMSprop([p], 1e-9, alpha=0.5, centered=True)
    for _ in range(200):
        p.grad = torch.linspace(0.1, 3, 64)
        optimizer.step()
    assert p.isfinite().all()
