"""The policy-evaluation bench: stacked networks, updates, streams, and what is measured."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from semigradient.nets.bricks import mlp
from semigradient.optim.corrected_momentum import CorrectedMomentum
from semigradient.optim.forms import FORMS
from semigradient.optim.momentum import Momentum
from semigradient.optim.temporal_difference import TemporalDifference, per_sample_gradients
from semigradient.reproductions.td import updates
from semigradient.reproductions.td.history import History, per_sample, semi_gradient, window
from semigradient.reproductions.td.policy_evaluation import (
    DIAGONAL,
    FULL,
    FULL_HALF,
    MOMENTUM,
    ORACLE,
    RELEASED,
    EvaluationSetting,
    Method,
    StackLearner,
    run,
)
from semigradient.reproductions.td.problems import MountainCar, Sines, TransitionBatch
from semigradient.reproductions.td.stacked_networks import Stack
from semigradient.reproductions.td.updates import Averages, Correction

SIZES = (2, 5, 4, 1)


def networks(theta, sizes=SIZES):
    """The members as ordinary networks."""
    found = []
    for row in theta:
        network = mlp(sizes, "leaky_relu").to(theta.dtype)
        torch.nn.utils.vector_to_parameters(row.clone(), network.parameters())
        found.append(network)
    return found


def value(call, sample):
    return call(sample["s"]).squeeze(-1)


def random_batch(members, size, width=2, seed=0):
    source = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=source, dtype=torch.float64)  # noqa: E731
    discount = 0.95 * (torch.rand(members, size, generator=source) > 0.2).double()
    return TransitionBatch(
        draw(members, size, width), draw(members, size), discount, draw(members, size, width)
    )


def setting(method, **changes):
    plain = EvaluationSetting(MountainCar(), (5, 4), method, 0.9, 4, (0.1, 0.02), 60, every=20)
    return replace(plain, **changes)


# --- networks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(2, 1), (2, 3, 1), (3, 5, 4, 2, 1)])
def test_members_equal_ordinary_networks_and_autograd(sizes):
    stack = Stack(sizes)
    theta = stack.initial([3, 4]).double()
    x = torch.randn(2, 6, sizes[0], dtype=torch.float64)
    weight = torch.randn(2, 6, dtype=torch.float64)
    values, given = stack.forward(theta, x)
    rows, summed = stack.rows(theta, given), stack.summed(theta, given, weight)
    for member, network in enumerate(networks(theta, sizes)):
        assert stack.count == sum(p.numel() for p in network.parameters())
        output = network(x[member]).squeeze(-1)
        torch.testing.assert_close(values[member], output.detach(), rtol=0, atol=1e-14)
        for i in range(6):
            grads = torch.autograd.grad(output[i], list(network.parameters()), retain_graph=True)
            flat = torch.cat([g.reshape(-1) for g in grads])
            torch.testing.assert_close(rows[member, i], flat, rtol=0, atol=1e-14)
        total = weight[member] @ rows[member]
        torch.testing.assert_close(summed[member], total, rtol=0, atol=1e-13)


def test_members_start_as_torch_starts_them_and_leave_its_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    theta = Stack(SIZES).initial([7, 8])
    assert torch.equal(torch.rand(1), expected)
    torch.manual_seed(8)
    network = mlp(SIZES, "leaky_relu")
    assert torch.equal(theta[1], torch.nn.utils.parameters_to_vector(network.parameters()))


@pytest.mark.parametrize(("hidden", "count"), [(8, 177), (16, 609), (32, 2241)])
def test_published_parameter_counts(hidden, count):
    assert Stack((2, hidden, hidden, hidden, 1)).count == count


# --- updates --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4, 16])
@pytest.mark.parametrize("kind", ["momentum", "full", "diagonal"])
def test_members_equal_the_optimizers(size, kind):
    """50 steps of two members, each beside the same network under the real optimizer."""
    method = {"momentum": MOMENTUM, "full": FULL, "diagonal": DIAGONAL}[kind]
    learner = StackLearner(setting(method, size=size), range(2), torch.float64)
    ordinary = networks(learner.theta)
    optimizers = []
    for network, lr in zip(ordinary, learner.lr.flatten().tolist(), strict=True):
        if kind == "momentum":
            optimizers.append(Momentum(network.parameters(), lr, 0.9))
        else:
            zeta = FORMS[kind]()
            optimizers.append(CorrectedMomentum(network.parameters(), lr, 0.9, zeta))
    stream = learner.setting.problem.batches(range(2), size)
    for batch in itertools.islice(stream, 50):
        members = learner.of_members(batch)
        learner.learn(members)
        for member, (network, optimizer) in enumerate(zip(ordinary, optimizers, strict=True)):
            x, reward, discount, following = (part[member] for part in members[:4])
            optimizer.zero_grad()
            with torch.no_grad():
                target = reward + discount * network(following).squeeze(-1)
            ((network(x).squeeze(-1) - target) ** 2).mean().backward()
            if kind != "momentum":
                td = TemporalDifference(
                    network, {"s": x}, value, {"s": following}, discount, torch.full_like(reward, 2)
                )
                optimizer.observe(td)
            optimizer.step()
    for member, network in enumerate(ordinary):
        expected = torch.nn.utils.parameters_to_vector(network.parameters())
        torch.testing.assert_close(learner.theta[member], expected, rtol=0, atol=1e-12)


def recursion(theta, batches, lr, beta, mask, scale=1.0, averaged=False):
    """The corrected update of one member as a plain loop; `mask` (n, n) of derivatives used.

    `scale` is that of the loss; `averaged` is the form of the first release, without it.
    """
    stack, eta, mu = Stack(SIZES), torch.zeros_like(theta), torch.zeros_like(theta)
    zeta, previous = torch.zeros(len(theta), len(theta), dtype=theta.dtype), theta.clone()
    (network,) = networks(theta[None])
    assert stack.count == len(theta)
    for batch in batches:
        torch.nn.utils.vector_to_parameters(theta, network.parameters())
        x, reward, discount, following = (part[0] for part in batch[:4])
        td = TemporalDifference(network, {"s": x}, value, {"s": following}, discount)
        flat = lambda rows: torch.cat([r.flatten(1) for r in rows.values()], 1)  # noqa: E731
        a, b = (flat(rows) for rows in per_sample_gradients(td))
        with torch.no_grad():
            target = reward + discount * network(following).squeeze(-1)
            error = network(x).squeeze(-1) - target
        z = scale * sum(torch.outer(a[i], b[i]) for i in range(len(x))) / len(x) * mask
        if averaged:
            z = torch.outer(a.mean(0), b.mean(0)) * mask
        eta = beta * (eta - zeta.T @ (theta - previous))
        zeta = beta * zeta + (1 - beta) * z
        mu = beta * mu + (1 - beta) * scale * (error @ b) / len(x)
        previous, theta = theta, theta - lr * (mu - eta)
    return theta


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize("layers", [(0, 0), (0, 1), (1, 3), (0, 3)])
def test_blocks_of_layers_equal_a_plain_loop(layers, diagonal, averaged):
    kind = replace(RELEASED if averaged else FULL, full_layers=layers, diagonal=diagonal)
    learner = StackLearner(setting(kind, lrs=(0.1,), size=3), range(1), torch.float64)
    batches = [random_batch(1, 3, seed=t) for t in range(20)]
    ends = [0, *(part.stop for part in learner.stack.layers)]
    mask = torch.eye(learner.stack.count, dtype=torch.float64) * diagonal
    part = slice(ends[layers[0]], ends[layers[1]])
    mask[part, part] = 1
    expected = recursion(learner.theta[0].clone(), batches, 0.1, 0.9, mask, 2.0, averaged)
    for batch in batches:
        learner.learn(batch)
    torch.testing.assert_close(learner.theta[0], expected, rtol=0, atol=1e-12)


def test_in_the_linear_case_the_correction_is_the_exact_oracle():
    """With no window to cut it off, mu* on the trajectory of the correction is its direction."""
    stack, beta = Stack((3, 1)), 0.9
    theta = stack.initial([0]).double()
    averages = Averages.zero(theta, Correction(slice(0, stack.count)))
    lr = torch.tensor([[0.1]], dtype=torch.float64)
    batches = [random_batch(1, 4, 3, seed=t) for t in range(200)]
    history = History(200, batches[0])
    plain = []
    for batch in batches:
        history.push(batch)
        weight = history.weight(beta).repeat_interleave(4) / 4
        star = semi_gradient(stack, theta, history.joined(), weight, None)
        gradients, a, b = per_sample(stack, theta, batch)
        start = theta.clone()
        updates.corrected(
            averages, theta, gradients.mean(1), a, b / 4, lr, beta, Correction(slice(0, 4))
        )
        torch.testing.assert_close((start - theta) / 0.1, star, rtol=0, atol=1e-13)
        plain.append((averages.mu - star).abs().max())
    assert max(plain) > 1e-2


# --- history --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("beta", "mass"), [(0.8, 0.9141), (0.9, 0.8906), (0.95, 0.8779), (0.99, 0.8674)]
)
def test_the_window_keeps_the_weight_it_should(beta, mass):
    batch = random_batch(1, 1)
    history = History(window(beta) + 1, batch)
    for _ in range(window(beta) + 7):
        history.push(batch)
    assert history.weight(beta).sum() == pytest.approx(mass, abs=5e-5)


def test_the_oracle_equals_a_loop_over_the_window():
    beta, size = 0.8, 3
    learner = StackLearner(setting(ORACLE, beta=beta, size=size), range(2), torch.float64)
    past = []
    for batch in itertools.islice(learner.setting.problem.batches(range(2), size), 25):
        members = learner.of_members(batch)
        past.append(members)
        start = learner.theta.clone()
        learner.remember(members)
        learner.learn(members)
        expected = torch.zeros_like(start)
        for age, old in enumerate(past[::-1][:11]):  # 2 / (1 - 0.8) = 10, and the present one
            share = (1 - beta) * beta**age * 2 / size
            expected += share * semi_gradient(learner.stack, start, old, 1.0, None)
        moved = (start - learner.theta) / learner.lr
        torch.testing.assert_close(moved, expected, rtol=0, atol=1e-12)


def test_drift_equals_a_loop():
    stack = Stack(SIZES)
    old, theta = stack.initial([0, 1]).double(), stack.initial([2, 3]).double()
    batches = [random_batch(2, 4, seed=t) for t in range(5)]
    history = History(3, batches[0], next_values=batches[0].reward)
    for batch in batches:
        history.push(batch, next_values=stack.values(old, batch.next_inputs))
    expected = []
    for before, now, member in zip(networks(old), networks(theta), range(2), strict=True):
        found = []
        for batch in batches[2:]:
            for x, discount in zip(batch.next_inputs[member], batch.discount[member], strict=True):
                if discount > 0:
                    found.append((before(x) - now(x)).item() ** 2)
        expected.append(np.mean(found))
    np.testing.assert_allclose(history.drift(stack, theta).numpy(), expected, rtol=1e-12)


def test_cosine_is_exactly_one_in_the_linear_case():
    stack, source = Stack((2, 1)), torch.Generator().manual_seed(0)
    theta = stack.initial([0, 1]).double()
    history = History(4, random_batch(2, 4), theta=theta)
    for t in range(6):
        history.push(random_batch(2, 4, seed=t), theta=theta)
        theta = theta + 0.3 * torch.randn(theta.shape, generator=source)
    assert history.cosine(stack, theta).sub(1).abs().max() < 1e-12
    # Errors that changed sign since turn the stale gradients around.
    assert history.cosine(stack, theta, correct=False).min() < 1


@pytest.mark.parametrize("correct", [True, False])
def test_cosine_equals_a_loop_of_autograd(correct):
    stack = Stack(SIZES)
    thetas = [stack.initial([seed]).double() for seed in range(4)]
    batches = [random_batch(1, 3, seed=t) for t in range(3)]
    history = History(2, batches[0], theta=thetas[0])
    for batch, theta in zip(batches, thetas, strict=False):
        history.push(batch, theta=theta)
    flat = lambda out, net: torch.cat(  # noqa: E731
        [g.reshape(-1) for g in torch.autograd.grad(out, list(net.parameters()))]
    )
    found = []
    for batch, theta in zip(batches[1:], thetas[1:], strict=False):
        (old,), (new,) = networks(theta), networks(thetas[-1])
        for x, reward, discount, following in zip(*(p[0] for p in batch[:4]), strict=True):
            gradients = []
            for network in (old, new):
                error = network(x) - reward - discount * network(following)
                gradients.append(error.item() * flat(network(x), network))
            if correct:
                a = flat(old(x), old) - discount * flat(old(following), old)
                moved = (thetas[-1] - theta)[0]
                gradients[0] = gradients[0] + flat(old(x), old) * (a @ moved)
            found.append(torch.cosine_similarity(*gradients, dim=0).item())
    computed = history.cosine(stack, thetas[-1], correct=correct)
    assert computed.item() == pytest.approx(np.mean(found), abs=1e-12)


def test_rows_are_those_of_the_optimizers():
    stack = Stack(SIZES)
    theta, batch = stack.initial([0]).double(), random_batch(1, 5)
    (network,) = networks(theta)
    x, reward, discount, following = (part[0] for part in batch[:4])
    td = TemporalDifference(network, {"s": x}, value, {"s": following}, discount)
    gradients, a, b = per_sample(stack, theta, batch)
    for ours, theirs in zip((a, b), per_sample_gradients(td), strict=True):
        flat = torch.cat([rows.flatten(1) for rows in theirs.values()], 1)
        torch.testing.assert_close(ours[0], flat, rtol=0, atol=1e-14)
    error = network(x)[:, 0] - reward - discount * network(following)[:, 0]
    expected = error.detach()[:, None] * b[0]
    torch.testing.assert_close(gradients[0], expected, rtol=0, atol=1e-13)


# --- frozen targets -------------------------------------------------------------------------------


def test_frozen_targets_equal_a_plain_loop():
    learner = StackLearner(setting(Method("frozen", renewed_every=7)), range(1), torch.float64)
    ordinary, copies = networks(learner.theta), networks(learner.theta)
    optimizers = [
        Momentum(network.parameters(), lr, 0.9)
        for network, lr in zip(ordinary, (0.1, 0.02), strict=True)
    ]
    stream = learner.setting.problem.batches(range(1), 4)
    for t, batch in enumerate(itertools.islice(stream, 30)):
        members = learner.of_members(batch)
        learner.learn(members)
        for i, (network, copy, optimizer) in enumerate(
            zip(ordinary, copies, optimizers, strict=True)
        ):
            if t % 7 == 0:
                copy.load_state_dict(network.state_dict())
            optimizer.zero_grad()
            target = members.reward[i] + members.discount[i] * copy(members.next_inputs[i])[:, 0]
            error = network(members.inputs[i])[:, 0] - target.detach()
            (error**2).mean().backward()
            optimizer.step()
    for i, network in enumerate(ordinary):
        expected = torch.nn.utils.parameters_to_vector(network.parameters())
        torch.testing.assert_close(learner.theta[i], expected, rtol=0, atol=1e-12)


# --- running --------------------------------------------------------------------------------------


def test_a_run_measures_what_it_is_asked():
    cell = setting(FULL_HALF, measure=("drift", "cosine"), loss_scale=2.0)
    found = run(cell, range(3))
    assert found["step"].tolist() == [20, 40, 60]
    for name in ("error", "drift", "cosine", "stale_cosine"):
        assert found[name].shape == (2, 3, 3)
    again = run(cell, range(3))
    assert all(np.array_equal(found[name], again[name]) for name in found)
    assert found["error"][0, :, -1].mean() < found["error"][0, :, 0].mean()
    assert "visited" in run(setting(MOMENTUM, problem=MountainCar(online=True), size=1), [0])


def test_a_member_that_diverges_leaves_the_others_alone():
    wild = run(setting(MOMENTUM, lrs=(1e6, 0.1)), range(2))["error"]
    tame = run(setting(MOMENTUM, lrs=(0.1,)), range(2))["error"]
    assert np.isinf(wild[0, :, -1]).all()
    np.testing.assert_allclose(wild[1], tame[0], rtol=1e-4)


def test_regression_is_the_case_without_a_next_value():
    cell = setting(FULL, problem=Sines(200), loss_scale=1.0)
    batch = next(cell.problem.batches([0], 4))
    assert not batch.discount.any()
    torch.testing.assert_close(batch.reward, Sines.target(batch.inputs[..., 0]))
    stack = Stack((1, 4, 1))
    _, a, b = per_sample(stack, stack.initial([0]), batch)
    assert torch.equal(a, b)
