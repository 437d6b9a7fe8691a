"""Per-sample derivatives of predictions and bootstraps against loops of autograd."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from semigradient.optim.corrected_momentum import CorrectedMomentum
from semigradient.optim.momentum import Momentum
from semigradient.optim.temporal_difference import (
    TemporalDifference,
    per_sample_gradients,
    wants_temporal_difference,
)
from support.rows import loop_rows, mlp, value


def action_value(call, sample):
    return call(sample["s"]).gather(0, sample["a"])


def conv_net(actions=3):
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 8), nn.ReLU(),
        nn.Linear(8, actions),
    )  # fmt: skip


def assert_rows(got, expected, tolerance=1e-6):
    assert got.keys() == expected.keys()
    for name in got:
        assert got[name].shape == expected[name].shape
        assert not got[name].requires_grad
        torch.testing.assert_close(got[name], expected[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", ["mlp", "conv"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_rows_equal_a_loop_of_autograd(shape, shared, chunk_size):
    torch.manual_seed(0)
    m = 5
    net = mlp(outputs=3) if shape == "mlp" else conv_net()
    size = (5,) if shape == "mlp" else (2, 8, 8)
    s, s2 = torch.randn(m, *size), torch.randn(m, *size)
    a, a2 = torch.randint(3, (m,)), torch.randint(3, (m,))
    discount = 0.9 * torch.tensor([1.0, 1, 0, 1, 1])
    if shared:
        batch = TemporalDifference(
            net, {"s": s, "a": a}, action_value, {"s": s2, "a": a2}, discount
        )
    else:
        batch = TemporalDifference(
            net,
            {"s": s, "a": a, "s2": s2, "a2": a2},
            action_value,
            lambda call, x: call(x["s2"]).gather(0, x["a2"]),
            discount,
        )
    rows_a, rows_b = per_sample_gradients(batch, chunk_size=chunk_size)
    here = [net(x[None])[0, i] for x, i in zip(s, a, strict=True)]
    there = [net(x[None])[0, i] for x, i in zip(s2, a2, strict=True)]
    moving = [p - c * q for p, c, q in zip(here, discount, there, strict=True)]
    assert_rows(rows_a, loop_rows(net, moving))
    assert_rows(rows_b, loop_rows(net, here))
    # The terminal sample has no bootstrap.
    assert all(torch.equal(rows_a[name][2], rows_b[name][2]) for name in rows_a)


def test_rows_of_some_parameters_and_of_other_values():
    net = mlp()
    s = torch.randn(3, 5)
    batch = TemporalDifference(net, {"s": s}, value)
    other = {"2.weight": torch.randn(1, 7), "0.bias": net[0].bias}
    rows, _ = per_sample_gradients(batch, other)
    assert list(rows) == ["2.weight", "0.bias"]
    torch.testing.assert_close(rows["2.weight"][:, 0], torch.tanh(net[0](s)))
    hidden = torch.tanh(net[0](s))
    torch.testing.assert_close(rows["0.bias"], other["2.weight"] * (1 - hidden**2))


def test_a_target_that_does_not_move_gives_a_equal_to_b():
    batch = TemporalDifference(mlp(), {"s": torch.randn(3, 5)}, value)
    rows_a, rows_b = per_sample_gradients(batch)
    assert rows_a is rows_b


def test_modules_with_several_outputs_and_inputs():
    class ActorCritic(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(5, 4)

        def forward(self, observation, *, scale):
            logits = self.body(observation) * scale
            return {"logits": logits, "value": logits.sum(-1)}

    net = ActorCritic()
    samples = {"s": torch.randn(3, 5), "scale": torch.full((3, 1), 2.0)}
    batch = TemporalDifference(
        net, samples, lambda call, x: call(x["s"], scale=x["scale"])["value"]
    )
    _, rows = per_sample_gradients(batch)
    torch.testing.assert_close(rows["body.bias"], torch.full((3, 4), 2.0))


def test_rows_leave_gradients_and_types_alone():
    net = mlp()
    batch = TemporalDifference(
        net,
        {"s": torch.randn(3, 5)},
        value,
        {"s": torch.randn(3, 5)},
        torch.ones(3, dtype=torch.float64),
    )
    rows_a, rows_b = per_sample_gradients(batch)
    assert all(p.grad is None for p in net.parameters())
    assert {r.dtype for rows in (rows_a, rows_b) for r in rows.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": {}}, "empty"),
        ({"samples": {"s": torch.zeros(3, 5), "a": torch.zeros(2)}}, "'a'"),
        ({"discount": None}, "go together"),
        ({"bootstrap": None}, "go together"),
        ({"discount": torch.ones(3, 1)}, "discount"),
        ({"weight": torch.ones(2)}, "weight"),
        ({"bootstrap": {"s": torch.zeros(2, 5)}}, "bootstrap"),
        ({"bootstrap": {"other": torch.zeros(3, 5)}}, "names"),
    ],
)
def test_inconsistent_minibatches_are_refused(change, message):
    samples = {"s": torch.zeros(3, 5)}
    batch = TemporalDifference(mlp(), samples, value, dict(samples), torch.ones(3))
    with pytest.raises(ValueError, match=message):
        replace(batch, **change)


def test_which_optimizers_want_the_minibatch():
    params = list(mlp().parameters())
    assert wants_temporal_difference(CorrectedMomentum(params, 0.1))
    assert not wants_temporal_difference(Momentum(params, 0.1))
    assert not wants_temporal_difference(torch.optim.Adam(params))
