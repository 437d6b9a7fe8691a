"""Estimators of `diagnostics` against loops over single samples, finite differences, identities."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diagnostics import derivatives
from diagnostics.coherence import sign_variance
from diagnostics.drift import value_drift
from diagnostics.evolution import evolution, momentum_interference, momentum_of, momentum_update
from diagnostics.examples import Examples, Experience, half_square
from diagnostics.gain import pointwise_gain
from diagnostics.interference import (
    function_interference,
    loss_interference,
    pair_mean,
    stiffness,
)
from diagnostics.sensitivity import (
    class_sensitivity,
    field_of,
    gini,
    loss_sensitivity,
    measured_of,
    unrolled,
)
from diagnostics.spectrum import effective_rank, singular_values, stable_rank
from diagnostics.staleness import Path, compare, corrected, horizon, momentum, oracle
from optim.corrected_momentum import CorrectedMomentum
from optim.temporal_difference import TemporalDifference, functional

TIGHT = {"rtol": 1e-10, "atol": 1e-10}
LOSSES = {
    "half_square": half_square,
    "huber": F.smooth_l1_loss,
    "square": lambda f, y: 2 * (f - y) ** 2,
}


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def q_net(inputs: int = 3, actions: int = 2, hidden: int = 5) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, actions))


def q_examples(
    net: nn.Module, m: int = 4, moving: bool = True, loss: str = "half_square"
) -> Examples:
    """Q-learning, the bootstrap moving or given by numbers."""
    samples = {
        "obs": torch.randn(m, 3),
        "action": torch.randint(2, (m,)),
        "next_obs": torch.randn(m, 3),
        "reward": torch.randn(m),
        "discount": 0.9 * (torch.arange(m) != 1),
        "next_values": torch.randn(m, 2),
    }

    def target(call, s):
        values = call(s["next_obs"]) if moving else s["next_values"]
        return s["reward"] + s["discount"] * values.max(0).values

    return Examples(
        net,
        samples,
        prediction=lambda call, s: call(s["obs"]).gather(0, s["action"]),
        target=target,
        loss=LOSSES[loss],
        moving=moving,
        head=lambda call, s: call(s["obs"]).max(0).values,
    )


def one_at_a_time(examples: Examples) -> list[dict[str, Tensor]]:
    """Each sample by itself with plain autograd: f, y, J, their flat gradients, and parameters."""
    net, s = examples.module, examples.samples
    params = list(net.parameters())

    def flat(scalar: Tensor) -> Tensor:
        grads = torch.autograd.grad(scalar, params, retain_graph=True, allow_unused=True)
        return torch.cat(
            [
                torch.zeros(p.numel()) if g is None else g.flatten()
                for g, p in zip(grads, params, strict=True)
            ]
        )

    rows = []
    for i in range(examples.size):
        values = net(s["obs"][i])
        f = values[s["action"][i]]
        after = net(s["next_obs"][i]) if examples.moving else s["next_values"][i]
        y = s["reward"][i] + s["discount"][i] * after.max()
        loss = examples.loss(f, y.detach())
        rows.append(
            {
                "error": (f - y).detach(),
                "loss": loss.detach(),
                "b": flat(f),
                "a": flat(f - y),
                "gradient": flat(loss),
                "head": flat(values.max()),
            }
        )
    return rows


def stacked(rows: list[dict[str, Tensor]], key: str) -> Tensor:
    return torch.stack([row[key] for row in rows])


def flat(rows: dict[str, Tensor], batched: bool = True) -> Tensor:
    return torch.cat([r.flatten(1 if batched else 0) for r in rows.values()], dim=-1)


def moved(
    params: dict[str, Tensor], direction: dict[str, Tensor], step: float
) -> dict[str, Tensor]:
    return {name: p + step * direction[name] for name, p in params.items()}


def row(rows: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    return {name: r[index] for name, r in rows.items()}


# --- derivatives and interference ---------------------------------------------------------------


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
    whole = derivatives.scaled(derivatives.error_rows(examples), slope)
    expected = derivatives.onto(whole, step)
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


# --- evolution ----------------------------------------------------------------------------------


def rho_at(one: Examples, other: Examples, params: dict[str, Tensor]) -> Tensor:
    return loss_interference(one, other, params)


def along_flow(measure, params, direction, h=1e-5):
    return (measure(moved(params, direction, -h)) - measure(moved(params, direction, h))) / (2 * h)


@pytest.mark.parametrize("moving", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
def test_evolution_is_the_derivative_of_interference_along_an_sgd_step(moving, loss):
    net = q_net()
    one, other = q_examples(net, 3, moving, loss), q_examples(net, 4, moving, loss)
    found, params = evolution(one, other), one.parameters
    torch.testing.assert_close(found.rho, loss_interference(one, other), **TIGHT)
    steps = derivatives.loss_rows(other)
    for b in range(4):
        step = row(steps, b)
        expected = along_flow(lambda p: rho_at(one, other, p), params, step)
        torch.testing.assert_close(found.total[:, b], expected[:, b], rtol=1e-6, atol=1e-7)
        bare = replace(one, head=None), replace(other, head=None)
        curved = along_flow(lambda p, e=bare: function_interference(*e, p), params, step)
        torch.testing.assert_close(found.function[:, b], curved[:, b], rtol=1e-6, atol=1e-7)


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
    found = evolution(one, other)
    left, right = one_at_a_time(one), one_at_a_time(other)
    d_a, d_b = stacked(left, "error")[:, None], stacked(right, "error")
    b_a, b_b, a_a, a_b = (
        stacked(r, k) for r, k in ((left, "b"), (right, "b"), (left, "a"), (right, "a"))
    )
    g = b_a @ b_b.T
    torch.testing.assert_close(found.r1, d_b**2 * g * (a_a @ b_b.T), **TIGHT)
    torch.testing.assert_close(found.r2, d_a * d_b * g * (a_b * b_b).sum(1), **TIGHT)
    torch.testing.assert_close(found.total, -(found.r1 + found.r2 + found.r3), **TIGHT)


def test_the_printed_factor_two_is_refuted():
    net = q_net()
    one, other = q_examples(net, 1, False), q_examples(net, 1, False)
    found = evolution(one, other)
    step = row(derivatives.loss_rows(other), 0)
    truth = along_flow(lambda p: rho_at(one, other, p), one.parameters, step)
    printed = -(found.r1 + 2 * found.r2 + found.r3)
    assert (found.total - truth).abs() < 1e-6 < 1e-2 < (printed - truth).abs()


def test_linear_functions_have_no_third_part():
    net = nn.Linear(3, 2)
    one, other = q_examples(net, 5), q_examples(net, 5)
    found = evolution(one, other)
    assert found.r3.abs().max() == 0
    # The two actions share no parameter.
    same = one.samples["action"][:, None] == other.samples["action"]
    assert torch.equal(found.r1 != 0, same)


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


# --- spectrum and signs -------------------------------------------------------------------------


def test_singular_values():
    orthogonal = torch.linalg.qr(torch.randn(6, 6)).Q
    values = singular_values(orthogonal)
    torch.testing.assert_close(values, torch.ones(6), **TIGHT)
    torch.testing.assert_close(stable_rank(values), torch.tensor(6.0), **TIGHT)
    torch.testing.assert_close(effective_rank(values), torch.tensor(6.0), **TIGHT)
    low = torch.randn(6, 2) @ torch.randn(2, 9)
    values = singular_values(low)
    assert (values > 1e-10).sum() == 2
    torch.testing.assert_close(singular_values(-3 * low), 3 * values, **TIGHT)
    torch.testing.assert_close(values.square().sum(), low.square().sum(), **TIGHT)
    torch.testing.assert_close(effective_rank(singular_values(low[:1])), torch.tensor(1.0), **TIGHT)


def test_sign_variance():
    signs = torch.tensor([[1.0 if i < k else -1.0 for k in range(6)] for i in range(5)])
    expected = torch.tensor([0, 0.64, 0.96, 0.96, 0.64, 0])
    torch.testing.assert_close(sign_variance(signs * torch.rand(5, 6)), expected, **TIGHT)
    every = torch.tensor([[1.0 if n >> i & 1 else -1.0 for n in range(32)] for i in range(5)])
    assert sign_variance(every).mean() == pytest.approx(0.8)  # fair coins
    rising, alternating = torch.arange(1.0, 7), torch.tensor([1.0, 2, 1, 2, 1, 2])
    for values, variance in ((rising, 0.0), (alternating, 0.96)):
        delta = values[:-1] - values[1:]
        assert delta.abs().mean() == 1
        assert sign_variance(delta[:, None]) == pytest.approx(variance)


# --- staleness and drift ------------------------------------------------------------------------


def wander(net: nn.Module, linear: bool, steps: int, make) -> tuple[Path, torch.optim.Optimizer]:
    """Minibatches and parameters along the updates of an optimizer; its last gradient is in."""
    optimizer = make(net.parameters())
    batches, parameters = [], []
    for _ in range(steps):
        batch = q_examples(net, 5)
        if linear:  # the greedy action must not jump: bootstrap from action 0
            batch = replace(
                batch,
                target=lambda call, s: s["reward"] + s["discount"] * call(s["next_obs"])[0],
            )
        batches.append(batch)
        parameters.append({n: p.detach().clone() for n, p in net.named_parameters()})
        gradient = derivatives.semi_gradient(batch)
        for name, p in net.named_parameters():
            p.grad = gradient[name]
        if isinstance(optimizer, CorrectedMomentum):
            optimizer.observe(
                TemporalDifference(
                    net, batch.samples, batch.prediction, batch.target, torch.ones(5)
                )
            )
        optimizer.step()
    return Path(batches, parameters), optimizer


def test_momentum_and_its_correction_are_those_of_the_optimizer():
    net, beta = q_net(), 0.8
    path, optimizer = wander(net, False, 6, lambda p: CorrectedMomentum(p, 0.1, beta))
    state = {name: optimizer.state[p] for name, p in net.named_parameters()}
    plain = {name: s["mu"] for name, s in state.items()}
    better = {name: s["mu"] - s["eta"] for name, s in state.items()}
    for got, expected in ((momentum(path, beta), plain), (corrected(path, beta), better)):
        torch.testing.assert_close(flat(got, False), flat(expected, False), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("make", [
    lambda p: torch.optim.SGD(p, 0.2), lambda p: torch.optim.Adam(p, 0.05),
])  # fmt: skip
def test_the_correction_is_exact_for_linear_values(make):
    path, _ = wander(nn.Linear(3, 2), True, 12, make)
    truth = oracle(path, 0.8)
    distance, cosine = compare(corrected(path, 0.8), truth)
    assert distance < 1e-12
    assert cosine == pytest.approx(1)
    assert compare(momentum(path, 0.8), truth)[0] > 1e-2


def test_the_oracle_takes_every_gradient_at_the_present_parameters():
    path, _ = wander(q_net(), False, 5, lambda p: torch.optim.SGD(p, 0.1))
    beta, expected = 0.7, 0.0
    net = q_net()
    net.load_state_dict(path.last)
    for age, batch in enumerate(reversed(path.batches)):
        gradients = stacked(one_at_a_time(batch.of(net)), "gradient").mean(0)
        expected = expected + (1 - beta) * beta**age * gradients
    torch.testing.assert_close(flat(oracle(path, beta), False), expected, **TIGHT)


def test_the_correction_is_first_order_near_a_solution():
    """With small errors the neglected second derivatives vanish, and the correction is good."""
    path, _ = wander(q_net(), False, 8, lambda p: torch.optim.SGD(p, 1e-3))
    batches = []
    for batch in path.batches:  # rewards that make every error tiny
        off = derivatives.errors(batch, path.last)
        reward = batch.samples["reward"] + off + 1e-3 * torch.randn(5)
        batches.append(replace(batch, samples={**batch.samples, "reward": reward}))
    path = Path(batches, path.parameters)
    truth = oracle(path, 0.8)
    plain, better = (compare(estimate(path, 0.8), truth)[0] for estimate in (momentum, corrected))
    assert better < 0.1 * plain


def test_horizons():
    assert [horizon(beta) for beta in (0.8, 0.9, 0.95, 0.99)] == [10, 20, 40, 200]


def test_drift_is_the_mean_square_of_what_moved():
    path, _ = wander(q_net(), False, 4, lambda p: torch.optim.SGD(p, 0.1))
    value = path.batches[0].head
    changes = []
    for batch, at in zip(path.batches, path.parameters, strict=True):
        for obs in batch.samples["obs"]:
            before, after = (functional(batch.module, p)(obs).max() for p in (at, path.last))
            changes.append((before - after) ** 2)
    torch.testing.assert_close(value_drift(value, path), torch.stack(changes).mean(), **TIGHT)
    still = Path(path.batches, [path.last] * 4)
    assert value_drift(value, still) == 0


# --- sensitivity --------------------------------------------------------------------------------


def test_gini():
    assert gini(torch.full((7,), 3.0)) == pytest.approx(0, abs=1e-12)
    assert gini(torch.zeros(4)) == 0
    for n in (2, 10):
        assert gini(F.one_hot(torch.tensor(1), n).double()) == pytest.approx(1 - 1 / n)
    assert gini(torch.tensor([4.0, 1, 3, 2])) == pytest.approx(0.25)
    values = torch.rand(9)
    pairs = (values[:, None] - values).abs().sum()
    torch.testing.assert_close(gini(values), pairs / (2 * 9 * values.sum()), **TIGHT)


ORDER = torch.tensor([0, 3, 1, 0, 2, 3, 1])
TIMES = [2, 6]


def retrained(examples: Examples, obs: Tensor, lr: float) -> list[Tensor]:
    """Losses of example ORDER[t] at t in TIMES, itself as it was, after training on `obs`."""
    clean = examples.samples["obs"]
    changed = replace(examples, samples={**examples.samples, "obs": obs})
    params, found = examples.parameters, {}
    for t, index in enumerate(ORDER.tolist()):
        if t in TIMES:
            now = replace(examples, samples={**examples.samples, "obs": clean})
            found[t] = derivatives.losses(now, params)[index]
        step = derivatives.semi_gradient(changed.select(torch.tensor([index])), params)
        params = moved(params, step, -lr)
    return [found[t] for t in TIMES]


@pytest.mark.parametrize("moving", [True, False])
def test_sensitivity_equals_retraining_on_perturbed_inputs(moving):
    examples, lr, h = q_examples(q_net(), 4, moving), 0.1, 1e-5
    found = unrolled(
        field_of(examples), measured_of(examples), examples.parameters, examples.samples,
        ORDER, lr, TIMES,
    )  # fmt: skip
    assert found.shape == (2, 1, 4, 3)
    obs = examples.samples["obs"]
    for i in range(4):
        for j in range(3):
            bump = torch.zeros_like(obs)
            bump[i, j] = h
            up, down = retrained(examples, obs + bump, lr), retrained(examples, obs - bump, lr)
            for k in range(2):
                expected = (up[k] - down[k]) / (2 * h)
                torch.testing.assert_close(found[k, 0, i, j], expected, rtol=1e-6, atol=1e-9)
    # Before t = 2 only examples 0 and 3 were learned from.
    assert found[0, 0, [1, 2]].abs().max() == 0
    mean = loss_sensitivity(found)
    torch.testing.assert_close(mean, found.abs().sum(-1).mean(0), **TIGHT)


def test_sensitivity_of_every_class():
    net, classes = q_net(actions=3), 3
    samples = {"obs": torch.randn(4, 3), "label": torch.tensor([0, 1, 1, 0])}

    def cross_entropies(params, s):
        return -functional(net, params)(s["obs"]).log_softmax(0)

    def cross_entropy(params, s):
        return cross_entropies(params, s).gather(0, s["label"])

    params = {n: p.detach() for n, p in net.named_parameters()}
    args = (params, samples, ORDER, 0.1, TIMES)
    found = unrolled(torch.func.grad(cross_entropy), cross_entropies, *args)
    assert found.shape == (2, classes, 4, 3)
    # The loss of one class by itself gives that class's part.
    for c in range(classes):
        alone = unrolled(
            torch.func.grad(cross_entropy), lambda p, s, c=c: cross_entropies(p, s)[[c]], *args
        )
        torch.testing.assert_close(found[:, c], alone[:, 0], **TIGHT)
    table = class_sensitivity(found, samples["label"])
    g = found.abs().sum(-1).mean(0)
    torch.testing.assert_close(table[:, 0], g[:, [0, 3]].mean(1), **TIGHT)
    torch.testing.assert_close(table[:, 1], g[:, [1, 2]].mean(1), **TIGHT)
    assert table[:, 2].isnan().all()


# --- windows of time ----------------------------------------------------------------------------


def test_neighbours_in_time_stay_in_their_episode():
    times, count = 9, 2
    ended = torch.zeros(times, count, dtype=torch.bool)
    ended[3, 0] = ended[6, 0] = ended[0, 1] = True
    experience = Experience(
        nn.Identity(), None, None, 0, 1, times, times, count, None,
        lambda number: ended.flatten()[number], torch.zeros(1), True,
    )  # fmt: skip
    centres, offsets = torch.arange(times * count), torch.arange(-4, 5)
    index, valid = experience.around(centres, offsets)
    episode = torch.cat([torch.zeros(1, count), ended[:-1].cumsum(0)])
    for column, centre in enumerate(centres.tolist()):
        t, env = divmod(centre, count)
        for line, offset in enumerate(offsets.tolist()):
            there = 0 <= t + offset < times and episode[t + offset, env] == episode[t, env]
            assert valid[line, column] == there
            if there:
                assert index[line, column] == (t + offset) * count + env
    assert index.min() >= 0
    assert index.max() < times * count
    assert math.prod(index.shape) == 9 * 18
