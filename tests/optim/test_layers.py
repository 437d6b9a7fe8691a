"""Derivatives layer by layer, and what a minibatch says of its loss, beside plain autograd."""

import pytest
import torch
from torch import nn

from semigradient.optim.batched import curvatures, semi_gradient, values
from semigradient.optim.derivatives import LayerDerivatives
from semigradient.optim.layers import Layer, Product, Rows
from semigradient.optim.temporal_difference import (
    LOG_LIKELIHOOD,
    TemporalDifference,
    huber,
    per_sample_gradients,
)
from support.layered import NETWORKS, M, action_value, minibatch, next_value


def written_out(part):
    return part.left.T @ part.right if isinstance(part, Product) else part


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", ["still", "function", "samples", "several"])
def test_layers_give_the_rows_of_every_sample(network, kind):
    batch = minibatch(network, kind, weight=torch.rand(M).double())
    rows_a, rows_b = per_sample_gradients(batch)
    derivatives = LayerDerivatives()
    for _ in range(2):  # the first time with a check of every layer, then without
        parts, weight = derivatives(batch, batch.parameters(), M)
        torch.testing.assert_close(weight, batch.weight / M)
        seen = set()
        for layer in parts:
            a, b = (layer.split(rows) for rows in layer.rows())
            diagonal = [written_out(part) for part in layer.diagonal(weight)]
            for name, *got in zip(layer.names, a, b, diagonal, strict=True):
                product = torch.einsum("m,m...->...", weight, rows_a[name] * rows_b[name])
                for one, expected in zip(got, (rows_a[name], rows_b[name], product), strict=True):
                    torch.testing.assert_close(
                        one.reshape(expected.shape), expected, rtol=0, atol=1e-10
                    )
                seen.add(name)
        missing = rows_a.keys() - seen
        assert all(not rows_a[name].any() for name in missing)
        fallbacks = {name for layer in parts if isinstance(layer, Rows) for name in layer.names}
        assert (
            fallbacks
            == {
                "convolutions": {"5.weight", "5.bias"},
                "tied": {"last.weight", "last.bias", "norm.weight", "norm.bias"},
                "sequence": set(),
            }[network]
        )


def test_some_parameters_and_frozen_ones():
    batch = minibatch("convolutions", "samples")
    batch.module[7].weight.requires_grad_(False)
    rows, _ = per_sample_gradients(batch)
    parts, _ = LayerDerivatives()(
        batch, {n: p for n, p in batch.parameters().items() if n[0] > "3"}, M
    )
    assert {n for layer in parts for n in layer.names} == {
        "4.weight", "4.bias", "5.weight", "5.bias", "7.bias", "9.weight", "9.bias",
    }  # fmt: skip
    for layer in parts:
        for name, part in zip(layer.names, layer.split(layer.rows()[0]), strict=True):
            torch.testing.assert_close(part.reshape(rows[name].shape), rows[name])


def test_batch_normalisation_is_refused_while_it_trains():
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(128, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)
    ).double()
    batch = minibatch(net.eval(), "samples")
    assert any(isinstance(x, Layer) for x in LayerDerivatives()(batch, batch.parameters(), M)[0])
    net.train()
    with pytest.raises(ValueError, match=r"layer '2' is BatchNorm1d in training mode.*eval"):
        LayerDerivatives()(batch, batch.parameters(), M)


def test_nothing_is_left_on_the_module():
    batch = minibatch("convolutions", "samples")
    LayerDerivatives()(batch, batch.parameters(), M)
    assert all(p.grad is None for p in batch.module.parameters())
    assert all(not layer._forward_hooks for layer in batch.module.modules())


# --- Z is how the semi-gradient changes (finite differences) ------------------------------------


def smooth():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def lambda_discounts(discount, lambda_):
    """(m, K) factors of the K later values of a lambda-return that ends there, of (m, K) gamma."""
    k = torch.arange(discount.shape[1])
    share = (1 - lambda_) * lambda_ ** k.to(discount.dtype)
    share[-1] = lambda_ ** (len(k) - 1)
    return share * discount.cumprod(1)


def log_probability(call, sample):
    return call(sample["s"]).log_softmax(0).gather(0, sample["a"])


def cases(net):
    """One minibatch of every loss; the last K = 3 later states of a lambda-return."""
    torch.manual_seed(3)
    s = torch.randn(M, 3).double()
    later, actions = torch.randn(M, 3, 3).double(), torch.randint(3, (M, 3))
    a, reward = torch.randint(3, (M,)), torch.randn(M).double()
    alive = torch.tensor([1.0, 1, 0, 1, 1]).double()
    td = {"samples": {"s": s, "a": a}, "prediction": action_value, "target": reward}
    here = {"s": later[:, 0], "a": actions[:, 0]}
    steps = 0.9 * torch.stack([alive.new_ones(M), alive, alive], 1)
    lambda_return = lambda_discounts(steps, 0.7)
    return {
        "regression": TemporalDifference(net, **td),
        "square": TemporalDifference(net, **td, weight=torch.full((M,), 2.0).double()),
        "huber": TemporalDifference(net, **td, loss=huber(0.8)),
        "td0": TemporalDifference(net, **td, bootstrap=here, discount=0.9 * alive),
        "n-step": TemporalDifference(net, **td, bootstrap=here, discount=0.9**3 * alive),
        "weighted": TemporalDifference(
            net, **td, bootstrap=here, discount=0.9 * alive, weight=torch.rand(M).double()
        ),
        "greedy": TemporalDifference(
            net,
            **{**td, "samples": {**td["samples"], "s2": later[:, 0]}},
            bootstrap=next_value,
            discount=0.9 * alive,
        ),
        "lambda": TemporalDifference(
            net, **td, bootstrap={"s": later, "a": actions}, discount=lambda_return
        ),
        "cross-entropy": TemporalDifference(
            net, {"s": s, "a": a}, log_probability, loss=LOG_LIKELIHOOD
        ),
    }  # fmt: skip


def flat(tensors):
    return torch.cat([t.detach().reshape(-1) for t in tensors.values()])


def curvature_term(batch, direction):
    """The term that Z leaves out, 1/m sum weight slope d2(prediction) direction, by autograd."""
    from semigradient.optim.batched import error, evaluate

    slope = batch.loss.slope(error(batch, *values(batch)))
    if batch.weight is not None:
        slope = slope * batch.weight
    prediction = evaluate(batch.prediction, batch.module, batch.samples)
    if batch.loss is LOG_LIKELIHOOD:
        # -d2 log p = d log p (d log p)^T - d2 p / p: what Z leaves out is the second term.
        prediction = prediction.exp()
        slope = -1 / prediction
    params = list(batch.parameters().values())
    first = torch.autograd.grad((slope.detach() * prediction).mean(), params, create_graph=True)
    along = torch.cat([g.reshape(-1) for g in first]) @ direction
    return torch.cat(
        [g.reshape(-1) for g in torch.autograd.grad(along, params, materialize_grads=True)]
    )


@pytest.mark.parametrize("name", cases(smooth()))
def test_z_is_the_derivative_of_the_semi_gradient(name):
    net = smooth()
    batch = cases(net)[name]
    a, b = (
        torch.cat([r.reshape(M, -1) for r in rows.values()], 1)
        for rows in per_sample_gradients(batch)
    )
    z = (a * torch.as_tensor(curvatures(batch)).expand(M)[:, None]).T @ b / M
    direction = torch.randn(z.shape[0], generator=torch.Generator().manual_seed(1)).double()
    theta, ends, h = flat(batch.parameters()), [], 1e-5
    predicted = z.T @ direction + curvature_term(batch, direction)
    for sign in (1, -1):
        nn.utils.vector_to_parameters(theta + sign * h * direction, net.parameters())
        ends.append(flat(semi_gradient(batch)))
    measured = (ends[0] - ends[1]) / (2 * h)
    torch.testing.assert_close(predicted, measured, rtol=1e-7, atol=1e-8)


def test_the_printed_lambda_weights_are_not_the_derivative():
    """V6: lambda^k in place of lambda^(k-1); for lambda = 0 nothing would be left of TD(0)."""
    steps = torch.full((1, 3), 0.9, dtype=torch.float64)
    expected = [0.3 * 0.9, 0.3 * 0.7 * 0.9**2, 0.7**2 * 0.9**3]
    torch.testing.assert_close(lambda_discounts(steps, 0.7)[0], torch.tensor(expected).double())
    torch.testing.assert_close(lambda_discounts(steps, 0.0)[0], torch.tensor([0.9, 0, 0]).double())
    ones = torch.tensor([0, 0, 0.9**3]).double()
    torch.testing.assert_close(lambda_discounts(steps, 1.0)[0], ones)
    # The lambda-return by its recursion: G = r + gamma ((1 - lambda) V + lambda G').
    reward, value, g = [1.0, 2.0, 3.0], [0.3, -0.4, 0.5], 0.5
    for k in (2, 1, 0):
        g = reward[k] + 0.9 * (0.3 * value[k] + 0.7 * g)
    rewards = sum((0.9 * 0.7) ** k * reward[k] for k in range(3))
    bootstrap = lambda_discounts(steps, 0.7)[0] @ torch.tensor(value, dtype=torch.float64)
    assert g == pytest.approx(rewards + bootstrap.item(), abs=1e-12)
    net = smooth()
    batch = cases(net)["lambda"]
    wrong = TemporalDifference(**{**vars(batch), "discount": 0.7 * batch.discount})
    right_a, wrong_a = (per_sample_gradients(x)[0] for x in (batch, wrong))
    assert (flat(right_a) - flat(wrong_a)).norm() > 1e-2 * flat(right_a).norm()


@pytest.mark.parametrize("name", cases(smooth()))
def test_the_semi_gradient_is_that_of_the_loss(name):
    net = smooth()
    batch = cases(net)[name]
    prediction, bootstrap = (v.detach() for v in values(batch))
    target = torch.zeros(M).double() if batch.target is None else batch.target.clone()
    if batch.discount is not None:
        target += (batch.discount.reshape(M, -1) * bootstrap).sum(1)
    output = net(batch.samples["s"])
    chosen = output.gather(1, batch.samples["a"][:, None])[:, 0]
    torch.testing.assert_close(
        chosen.detach() if name != "cross-entropy" else prediction, prediction
    )
    losses = {
        "huber": lambda: nn.functional.huber_loss(chosen, target, delta=0.8),
        "square": lambda: nn.functional.mse_loss(chosen, target),
        "weighted": lambda: (0.5 * batch.weight * (chosen - target) ** 2).mean(),
        "cross-entropy": lambda: nn.functional.cross_entropy(output, batch.samples["a"]),
    }
    loss = losses.get(name, lambda: 0.5 * nn.functional.mse_loss(chosen, target))()
    expected = torch.autograd.grad(loss, list(net.parameters()))
    for got, correct in zip(semi_gradient(batch).values(), expected, strict=True):
        torch.testing.assert_close(got, correct, rtol=0, atol=1e-14)


def test_a_loss_with_curvature_needs_its_target():
    net = smooth()
    with pytest.raises(ValueError, match="needs the target"):
        TemporalDifference(
            net, {"s": torch.zeros(2, 3), "a": torch.zeros(2).long()}, action_value, loss=huber()
        )
    s, a = torch.zeros(2, 3), torch.zeros(2).long()
    later = {"s": torch.zeros(2, 4, 3), "a": torch.zeros(2, 4).long()}
    with pytest.raises(ValueError, match="that of discount and of one sample"):
        TemporalDifference(net, {"s": s, "a": a}, action_value, later, torch.ones(2))
