"""Spectrum, signs, staleness, drift, sensitivity: estimators against identities."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semigradient.diagnostics import derivatives
from semigradient.diagnostics.coherence import sign_variance
from semigradient.diagnostics.drift import value_drift
from semigradient.diagnostics.examples import Examples, Experience
from semigradient.diagnostics.sensitivity import (
    class_sensitivity,
    field_of,
    gini,
    loss_sensitivity,
    measured_of,
    unrolled,
)
from semigradient.diagnostics.spectrum import effective_rank, singular_values, stable_rank
from semigradient.diagnostics.staleness import Path, compare, corrected, horizon, momentum, oracle
from semigradient.optim.corrected_momentum import CorrectedMomentum
from semigradient.optim.forms import Full
from semigradient.optim.temporal_difference import TemporalDifference, functional
from support.learners import TIGHT, flat, moved, one_at_a_time, q_examples, q_net, stacked

pytestmark = pytest.mark.usefixtures("float64")


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
    path, optimizer = wander(net, False, 6, lambda p: CorrectedMomentum(p, 0.1, beta, Full()))
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
        gradients = stacked(one_at_a_time(batch.with_module(net)), "gradient").mean(0)
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
    params, expected = examples.parameters, {}
    for t, index in enumerate(ORDER.tolist()):
        if t in TIMES:
            now = replace(examples, samples={**examples.samples, "obs": clean})
            expected[t] = derivatives.losses(now, params)[index]
        step = derivatives.semi_gradient(changed.select(torch.tensor([index])), params)
        params = moved(params, step, -lr)
    return [expected[t] for t in TIMES]


@pytest.mark.parametrize("moving", [True, False])
def test_sensitivity_equals_retraining_on_perturbed_inputs(moving):
    examples, lr, h = q_examples(q_net(), 4, moving), 0.1, 1e-5
    sensitivity = unrolled(
        field_of(examples), measured_of(examples), examples.parameters, examples.samples,
        ORDER, lr, TIMES,
    )  # fmt: skip
    assert sensitivity.shape == (2, 1, 4, 3)
    obs = examples.samples["obs"]
    for i in range(4):
        for j in range(3):
            bump = torch.zeros_like(obs)
            bump[i, j] = h
            up, down = retrained(examples, obs + bump, lr), retrained(examples, obs - bump, lr)
            for k in range(2):
                expected = (up[k] - down[k]) / (2 * h)
                torch.testing.assert_close(sensitivity[k, 0, i, j], expected, rtol=1e-6, atol=1e-9)
    # Before t = 2 only examples 0 and 3 were learned from.
    assert sensitivity[0, 0, [1, 2]].abs().max() == 0
    mean = loss_sensitivity(sensitivity)
    torch.testing.assert_close(mean, sensitivity.abs().sum(-1).mean(0), **TIGHT)


def test_sensitivity_of_every_class():
    net, classes = q_net(actions=3), 3
    samples = {"obs": torch.randn(4, 3), "label": torch.tensor([0, 1, 1, 0])}

    def cross_entropies(params, s):
        return -functional(net, params)(s["obs"]).log_softmax(0)

    def cross_entropy(params, s):
        return cross_entropies(params, s).gather(0, s["label"])

    params = {n: p.detach() for n, p in net.named_parameters()}
    args = (params, samples, ORDER, 0.1, TIMES)
    sensitivity = unrolled(torch.func.grad(cross_entropy), cross_entropies, *args)
    assert sensitivity.shape == (2, classes, 4, 3)
    # The loss of one class by itself gives that class's part.
    for c in range(classes):
        alone = unrolled(
            torch.func.grad(cross_entropy), lambda p, s, c=c: cross_entropies(p, s)[[c]], *args
        )
        torch.testing.assert_close(sensitivity[:, c], alone[:, 0], **TIGHT)
    table = class_sensitivity(sensitivity, samples["label"])
    g = sensitivity.abs().sum(-1).mean(0)
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
