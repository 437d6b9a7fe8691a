"""The evolution of interference against finite differences along a step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from semigradient.diagnostics import derivatives
from semigradient.diagnostics.evolution import (
    evolution,
    momentum_interference,
    momentum_of,
    momentum_update,
)
from semigradient.diagnostics.examples import Examples, half_square
from semigradient.diagnostics.interference import function_interference, loss_interference
from support.learners import LOSSES, TIGHT, moved, one_at_a_time, q_examples, q_net, row, stacked

pytestmark = pytest.mark.usefixtures("float64")


def rho_at(one: Examples, other: Examples, params: dict[str, Tensor]) -> Tensor:
    return loss_interference(one, other, params)


def along_flow(measure, params, direction, h=1e-5):
    return (measure(moved(params, direction, -h)) - measure(moved(params, direction, h))) / (2 * h)


@pytest.mark.parametrize("moving", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
def test_evolution_is_the_derivative_of_interference_along_an_sgd_step(moving, loss):
    net = q_net()
    one, other = q_examples(net, 3, moving, loss), q_examples(net, 4, moving, loss)
    result, params = evolution(one, other), one.parameters
    torch.testing.assert_close(result.rho, loss_interference(one, other), **TIGHT)
    steps = derivatives.loss_rows(other)
    for b in range(4):
        step = row(steps, b)
        expected = along_flow(lambda p: rho_at(one, other, p), params, step)
        torch.testing.assert_close(result.total[:, b], expected[:, b], rtol=1e-6, atol=1e-7)
        bare = replace(one, head=None), replace(other, head=None)
        curved = along_flow(lambda p, e=bare: function_interference(*e, p), params, step)
        torch.testing.assert_close(result.function[:, b], curved[:, b], rtol=1e-6, atol=1e-7)


def test_evolution_equals_double_backward_of_single_pairs():
    """3.40: minus the gradient of ∇J_A·∇J_B, times ∇J_B, for targets that do not move."""
    net = q_net()
    one, other = q_examples(net, 3, False), q_examples(net, 2, False)
    total = evolution(one, other).total
    params = list(net.parameters())

    def gradient(examples, i, graph):
        s = examples.samples
        f = net(s["obs"][i])[s["action"][i]]
        y = s["reward"][i] + s["discount"][i] * s["next_values"][i].max()
        return torch.autograd.grad(half_square(f, y), params, create_graph=graph)

    for a in range(3):
        for b in range(2):
            left, right = gradient(one, a, True), gradient(other, b, True)
            product = sum((x * y).sum() for x, y in zip(left, right, strict=True))
            second = torch.autograd.grad(product, params)
            step = gradient(other, b, False)
            expected = -sum((x * y).sum() for x, y in zip(second, step, strict=True))
            torch.testing.assert_close(total[a, b], expected, **TIGHT)


@pytest.mark.parametrize("moving", [True, False])
def test_parts_are_those_of_the_document_with_the_coefficient_one(moving):
    net = q_net()
    one, other = q_examples(net, 3, moving), q_examples(net, 4, moving)
    result = evolution(one, other)
    left, right = one_at_a_time(one), one_at_a_time(other)
    d_a, d_b = stacked(left, "error")[:, None], stacked(right, "error")
    b_a, b_b, a_a, a_b = (
        stacked(r, k) for r, k in ((left, "b"), (right, "b"), (left, "a"), (right, "a"))
    )
    g = b_a @ b_b.T
    torch.testing.assert_close(result.r1, d_b**2 * g * (a_a @ b_b.T), **TIGHT)
    torch.testing.assert_close(result.r2, d_a * d_b * g * (a_b * b_b).sum(1), **TIGHT)
    torch.testing.assert_close(result.total, -(result.r1 + result.r2 + result.r3), **TIGHT)


def test_the_printed_factor_two_is_refuted():
    net = q_net()
    one, other = q_examples(net, 1, False), q_examples(net, 1, False)
    result = evolution(one, other)
    step = row(derivatives.loss_rows(other), 0)
    truth = along_flow(lambda p: rho_at(one, other, p), one.parameters, step)
    printed = -(result.r1 + 2 * result.r2 + result.r3)
    assert (result.total - truth).abs() < 1e-6 < 1e-2 < (printed - truth).abs()


def test_linear_functions_have_no_third_part():
    net = nn.Linear(3, 2)
    one, other = q_examples(net, 5), q_examples(net, 5)
    result = evolution(one, other)
    assert result.r3.abs().max() == 0
    # The two actions share no parameter.
    same = one.samples["action"][:, None] == other.samples["action"]
    assert torch.equal(result.r1 != 0, same)


@pytest.mark.parametrize("moving", [True, False])
def test_evolution_under_momentum(moving):
    net = q_net()
    one, other = q_examples(net, 3, moving), q_examples(net, 4, moving)
    params, beta = one.parameters, 0.9
    average = {name: torch.randn_like(p) for name, p in params.items()}
    gradients = derivatives.loss_rows(other)
    update = momentum_update(gradients, average, beta)
    total = evolution(one, other, update=update).total
    interference = momentum_interference(one, other, average, beta)
    sgd = evolution(one, other).total
    only = evolution(one, other, update=momentum_update(gradients, average, 1.0)).total
    torch.testing.assert_close(total, (1 - beta) * sgd + beta * only, **TIGHT)
    for b in range(4):
        step = row(update, b)
        expected = along_flow(lambda p: rho_at(one, other, p), params, step)
        torch.testing.assert_close(total[:, b], expected[:, b], rtol=1e-6, atol=1e-7)
        product = derivatives.onto(derivatives.loss_rows(one), step)
        torch.testing.assert_close(interference[:, b], product, **TIGHT)


@pytest.mark.parametrize(
    ("make", "beta", "share"),
    [
        (lambda p: torch.optim.Adam(p, betas=(0.8, 0.9)), 0.8, 0.2),
        (lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.7), 0.7, 1.0),
        (lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.7, dampening=0.7), 0.7, 0.3),
        (lambda p: torch.optim.SGD(p, lr=1e-2), None, None),
    ],
)
def test_the_running_average_of_an_optimizer_predicts_its_next_one(make, beta, share):
    net = q_net()
    optimizer = make(net.parameters())
    assert momentum_of(optimizer) is None
    for _ in range(3):
        before = momentum_of(optimizer)
        before = None if before is None else ([t.clone() for t in before[0]], *before[1:])
        for p in net.parameters():
            p.grad = torch.randn_like(p)
        optimizer.step()
    after = momentum_of(optimizer)
    if beta is None:
        assert after is None
        return
    assert after[1:] == pytest.approx((beta, share))
    for old, new, p in zip(before[0], after[0], net.parameters(), strict=True):
        torch.testing.assert_close(new, beta * old + share * p.grad, **TIGHT)
