"""Momentum of gradients that are computed anew, and how near the correction comes to it."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from semigradient.optim.batched import semi_gradient
from semigradient.optim.corrected_momentum import CorrectedMomentum
from semigradient.optim.forms import Diagonal, Full, LowRank
from semigradient.optim.oracle_momentum import OracleMomentum
from semigradient.optim.temporal_difference import TemporalDifference
from support.linear_td import BETA, LinearTD, linear, train, value


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
    makers = (
        lambda *a: CorrectedMomentum(*a, zeta=Full()),
        lambda *a: OracleMomentum(*a, window=None),
    )
    for make in makers:
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
    optimizer.pass_over()
    optimizer.step()


def test_several_minibatches_of_a_step_add_up_and_continue_from_a_state():
    problem = LinearTD(6)
    twice, once = linear(problem), linear(problem)
    two, one = (OracleMomentum(net.parameters(), 0.1, BETA) for net in (twice, once))
    for t in range(6):
        two.observe(dataclasses.replace(problem.batch(twice, t), weight=None))
        two.observe(dataclasses.replace(problem.batch(twice, t), weight=None))
        batch = problem.batch(once, t)
        one.observe(dataclasses.replace(batch, weight=torch.full((batch.size,), 2.0).double()))
        two.step()
        one.step()
        torch.testing.assert_close(twice.weight, once.weight, rtol=0, atol=1e-12)
        state, two = two.state_dict(), OracleMomentum(twice.parameters(), 0.1, BETA)
        two.load_state_dict(state)


def test_the_rest_of_a_partial_loss_gets_plain_momentum():
    """Value loss recomputed, other term averaged: the sum of what two optimizers would do."""
    problem = LinearTD(6)
    net = linear(problem)
    optimizer = OracleMomentum(net.parameters(), 0.1, BETA)
    plain, pull = torch.zeros_like(net.weight), torch.ones_like(net.weight)
    for t in range(6):
        batch = problem.batch(net, t)
        start = net.weight.detach().clone()
        own = semi_gradient(batch)["weight"]
        net.weight.grad = own + (t + 1) * pull
        optimizer.observe(dataclasses.replace(batch, partial=True))
        optimizer.step()
        plain = BETA * plain + (1 - BETA) * (t + 1) * pull
        kept, share = optimizer._kept("minibatches", batch)
        old = net.weight.detach().clone()
        net.weight.data.copy_(start)
        expected = start - 0.1 * (semi_gradient(kept, share)["weight"] + plain)
        torch.testing.assert_close(old, expected, rtol=0, atol=1e-12)
        net.weight.data.copy_(old)


# --- order of accuracy --------------------------------------------------------------------------


def relative_error(lr, zeta, small=False):
    """Mean |mu_hat - mu_star| over mean |mu_star| of a small network, TD(0), m = 1 or 4."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    truth = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    m = 1
    if small:
        m = 4
        for p, q in zip(net.parameters(), truth.parameters(), strict=True):
            p.data.copy_(q.data + 0.01 * torch.randn(p.shape).double())
    ours = CorrectedMomentum(net.parameters(), lr, BETA, zeta or Full())
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
        hats = [ours.state[p]["mu"] - (ours.state[p]["eta"] if zeta else 0) for p in ours._params()]
        errors.append(
            math.sqrt(sum(((h - s) ** 2).sum().item() for h, s in zip(hats, star, strict=True)))
        )
        sizes.append(math.sqrt(sum((s**2).sum().item() for s in star)))
    return sum(errors) / sum(sizes)


def test_order_of_accuracy():
    """V5: leaving second derivatives out leaves an error of first order, only smaller."""
    for zeta in (None, Diagonal(), Full()):
        coarse, fine = (relative_error(lr, zeta) for lr in (0.05, 0.025))
        assert 1.7 < coarse / fine < 2.3
    assert relative_error(0.05, Full()) < relative_error(0.05, Diagonal())
    assert relative_error(0.05, Diagonal()) < relative_error(0.05, None)


def test_near_the_solution_the_full_matrix_removes_the_error():
    none, full = (relative_error(0.1, c, small=True) for c in (None, Full()))
    assert full < 0.1 * none
    assert relative_error(0.1, LowRank(window=40), small=True) == pytest.approx(full, rel=1e-6)
