"""Interference, stiffness and gain against loops over single samples and identities."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from semigradient.diagnostics import derivatives
from semigradient.diagnostics.examples import Examples
from semigradient.diagnostics.gain import pointwise_gain
from semigradient.diagnostics.interference import (
    function_interference,
    loss_interference,
    pair_mean,
    stiffness,
)
from support.learners import (
    LOSSES,
    TIGHT,
    flat,
    moved,
    one_at_a_time,
    q_examples,
    q_net,
    row,
    stacked,
)

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("moving", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
def test_derivatives_equal_a_loop_over_single_samples(moving, loss):
    examples = q_examples(q_net(), moving=moving, loss=loss)
    expected = one_at_a_time(examples)
    for got, key in (
        (derivatives.errors(examples), "error"),
        (derivatives.losses(examples), "loss"),
        (flat(derivatives.rows(examples.prediction, examples)), "b"),
        (flat(derivatives.error_rows(examples)), "a"),
        (flat(derivatives.loss_rows(examples)), "gradient"),
    ):
        torch.testing.assert_close(got, stacked(expected, key), **TIGHT)
    mean = stacked(expected, "gradient").mean(0)
    torch.testing.assert_close(flat(derivatives.semi_gradient(examples), False), mean, **TIGHT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_interference_equals_a_double_loop(dtype):
    net = q_net().to(dtype)
    cast = lambda e: replace(  # noqa: E731
        e, samples={k: v.to(dtype) if v.is_floating_point() else v for k, v in e.samples.items()}
    )
    u, v = cast(q_examples(net, 4)), cast(q_examples(net, 3))
    left, right = one_at_a_time(u), one_at_a_time(v)
    loss, function = loss_interference(u, v), function_interference(u, v)
    cosine = stiffness(derivatives.loss_rows(u), derivatives.loss_rows(v))
    tolerance = 1e-6 if dtype == torch.float32 else 1e-10
    close = lambda x, y: torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)  # noqa: E731
    for i, one in enumerate(left):
        for j, other in enumerate(right):
            close(loss[i, j], one["gradient"] @ other["gradient"])
            close(function[i, j], one["head"] @ other["head"])
            close(cosine[i, j], torch.cosine_similarity(one["gradient"], other["gradient"], 0))


def test_stiffness_is_a_cosine():
    examples = q_examples(q_net(), 6)
    rows = derivatives.loss_rows(examples)
    cosine = stiffness(rows, rows)
    assert cosine.abs().max() <= 1
    torch.testing.assert_close(cosine.diagonal(), torch.ones(6), **TIGHT)
    rows = {name: r.clone() for name, r in rows.items()}
    for r in rows.values():
        r[2] = 0
        r[3] = -7 * r[4]
    cosine = stiffness(rows, rows)
    assert cosine[2].abs().max() == 0
    torch.testing.assert_close(cosine[3, 4], torch.tensor(-1.0))


def test_function_interference_is_a_gram_matrix_and_constant_for_linear_models():
    examples = q_examples(q_net(), 6)
    gram = function_interference(examples, examples)
    assert torch.linalg.eigvalsh(gram).min() > -1e-10
    net = nn.Linear(3, 1, bias=False)
    linear = Examples(
        net, {"x": torch.randn(4, 3)}, lambda call, s: call(s["x"])[0], lambda call, s: s["x"][0]
    )
    x = linear.samples["x"]
    torch.testing.assert_close(function_interference(linear, linear), x @ x.T, **TIGHT)
    one_hot = replace(linear, samples={"x": torch.eye(3)})
    assert torch.equal(function_interference(one_hot, one_hot), torch.eye(3))


def test_pair_mean_leaves_out_the_diagonal():
    pairs = torch.tensor([[100.0, 1, 2], [1, 100, 6], [2, 6, 100]])
    assert pair_mean(pairs) == 3


# --- gain ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("moving", [True, False])
def test_gain_is_the_step_times_interference_to_first_order(moving):
    net = q_net()
    examples = q_examples(net, 5, moving)
    before = examples.parameters
    step = row(derivatives.loss_rows(examples), 2)
    # The loss itself moves by the whole derivative d(f - y), target included.
    slope = derivatives.slopes(examples)[0]
    gradients = derivatives.scaled(derivatives.error_rows(examples), slope)
    expected = derivatives.onto(gradients, step)
    if not moving:
        torch.testing.assert_close(expected, loss_interference(examples, examples)[:, 2], **TIGHT)
    ratios = []
    for lr in (1e-3, 5e-4):
        gain = pointwise_gain(examples, before, moved(before, step, -lr))
        ratios.append((gain / lr - expected).abs().max())
    assert ratios[0] < 0.05
    assert 1.9 < ratios[0] / ratios[1] < 2.1


def test_gain_of_a_table_is_that_of_its_own_entry():
    net = nn.Linear(4, 1, bias=False)
    table = Examples(
        net,
        {"x": torch.eye(4), "y": torch.randn(4)},
        prediction=lambda call, s: call(s["x"])[0],
        target=lambda call, s: s["y"],
        loss=lambda f, y: (f - y) ** 2,
    )
    before, lr = table.parameters, 0.1
    gain = pointwise_gain(table, before, moved(before, row(derivatives.loss_rows(table), 1), -lr))
    delta = derivatives.errors(table)[1]
    torch.testing.assert_close(gain[1], delta**2 * (1 - (1 - 2 * lr) ** 2), **TIGHT)
    assert gain[[0, 2, 3]].abs().max() == 0
