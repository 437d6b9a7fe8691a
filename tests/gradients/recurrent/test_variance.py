"""The variance of UORO's total gradient by enumeration, Monte Carlo and a numerical optimiser."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from gradients.recurrent.test_estimators import data, exact, network
from semigradient.errors import UserError
from semigradient.gradients.recurrent import make, shaping, variance
from semigradient.gradients.recurrent.variance import NORMAL, SIGNS, Episode

STEPS = 4


def episode(steps: int = STEPS, kind: str = "rnn", hidden: int = 3, seed: int = 0) -> Episode:
    net = network(kind, hidden, seed)
    xs, targets = data(steps, 1, seed + 1)
    losses = [lambda o, t=t: 0.5 * (o - t).square().sum() for t in targets[:, 0]]
    return variance.record(net, xs[:, 0], losses)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


ALPHA, SHAPE = normal(STEPS, seed=8).exp(), normal(3, 3, seed=9) + torch.eye(3)


@pytest.mark.parametrize("kind", ["rnn", "gated", "lstm"])
def test_a_recorded_episode_has_the_gradient_of_the_layer(kind):
    net, (xs, targets) = network(kind, 3), data(STEPS, 1, 1)
    found = episode(kind=kind).gradient().reshape(-1)
    truth = exact(net, xs, targets)[0, net.head.numel() :]
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-12)


def test_the_estimate_is_the_running_estimators():
    net, (xs, targets) = network("lstm", 3), data(STEPS, 1, 1)
    xs, targets = xs.expand(-1, 5, -1), targets.expand(-1, 5, -1)
    noise, shape = normal(5, STEPS, 12), normal(12, 12, seed=4)
    estimator = make("shaped-uoro", net, 5, alpha=ALPHA, shape=shape, exact_last_step=False)
    draws = iter(noise.transpose(0, 1))
    estimator.trace.draw = lambda shape: next(draws)
    total = sum(estimator.gradient(estimator.step(x) - t) for x, t in zip(xs, targets, strict=True))
    found = variance.estimate(episode(kind="lstm"), noise, variance.shaped_by(ALPHA, shape))
    torch.testing.assert_close(total[:, net.head.numel() :], found.flatten(1), rtol=1e-9, atol=1e-9)


def test_the_variance_with_signs_is_that_of_all_signs():
    for shape in (torch.eye(3, dtype=torch.float64), SHAPE):
        case = episode()
        flat = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=12)), dtype=torch.float64)
        g = variance.estimate(case, flat.reshape(-1, STEPS, 3), variance.shaped_by(ALPHA, shape))
        torch.testing.assert_close(g.mean(0), case.gradient(), rtol=0, atol=1e-12)
        found = (g - case.gradient()).square().sum((1, 2)).mean()
        torch.testing.assert_close(
            variance.total(case, ALPHA, shape, SIGNS), found, rtol=1e-10, atol=0
        )
        times = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4)), dtype=torch.float64)
        g = variance.estimate_in_time(case, times, ALPHA)
        torch.testing.assert_close(g.mean(0), case.gradient(), rtol=0, atol=1e-12)
        found = (g - case.gradient()).square().sum((1, 2)).mean()
        torch.testing.assert_close(
            variance.total_in_time(case, ALPHA, SIGNS), found, rtol=1e-10, atol=0
        )


def test_the_variance_with_normal_noise_is_the_simulations():
    case, draws = episode(), 100_000
    g = variance.estimate(case, normal(draws, STEPS, 3), variance.shaped_by(ALPHA, SHAPE))
    squares = (g - case.gradient()).square().sum((1, 2))
    error = squares.std() / draws**0.5
    assert (squares.mean() - variance.total(case, ALPHA, SHAPE, NORMAL)).abs() < 3 * error
    g = variance.estimate_in_time(case, normal(draws, STEPS), ALPHA)
    squares = (g - case.gradient()).square().sum((1, 2))
    error = squares.std() / draws**0.5
    assert (squares.mean() - variance.total_in_time(case, ALPHA, NORMAL)).abs() < 3 * error


def test_all_forms_of_the_dominant_term_agree():
    case = episode()
    v = variance.weighted(variance.coefficients(case, SHAPE), ALPHA)
    general = variance.dominant(case, variance.shaped_by(ALPHA, SHAPE))
    square = SHAPE @ SHAPE.mT
    b = variance.spatial(case, ALPHA)
    torch.testing.assert_close(general, v)
    torch.testing.assert_close((b @ square).trace() * torch.linalg.inv(square).trace(), v)
    plain = variance.weighted(variance.coefficients(case, torch.eye(3).double()), ALPHA)
    rest = variance.correction(case)
    torch.testing.assert_close(
        plain / (variance.total_in_time(case, ALPHA) - rest), torch.tensor(3.0).double()
    )


def test_the_best_weights_balance_and_no_optimiser_finds_better_ones():
    c = variance.coefficients(episode(6), torch.eye(3).double())
    alpha = shaping.best_alpha(c)
    bar = c * (alpha / alpha[:, None]).square()
    assert (bar.sum(0) - bar.sum(1)).abs().max() < 1e-11 * bar.sum()
    assert alpha.log().sum().abs() < 1e-10

    def value(zeta: np.ndarray) -> float:
        return float(variance.weighted(c, torch.tensor(zeta).exp()))

    best = minimize(value, np.zeros(6), method="BFGS", options={"gtol": 1e-9}).fun
    assert value(alpha.log().numpy()) == pytest.approx(best, rel=1e-9)
    assert best < value(np.zeros(6))
    m, n = normal(5, seed=2).exp(), normal(5, seed=3).exp()
    found, closed = shaping.best_alpha(m[:, None] * n), shaping.separable_alpha(m, n)
    torch.testing.assert_close(found / found[0], closed / closed[0])
    far = shaping.best_alpha(torch.tensor([[1.0, 1e12], [1e-12, 1.0]]).double())
    assert (far[0] / far[1]).item() == pytest.approx(1e6)


def test_the_best_shape_is_the_root_and_no_optimiser_finds_a_better_one():
    b = variance.spatial(episode(6), torch.ones(6).double())
    shape = shaping.best_shape(b)
    roots = torch.linalg.eigvalsh(b).sqrt().sum() ** 2

    def value(q: Tensor) -> Tensor:
        return (b @ q @ q.mT).trace() * torch.linalg.inv(q @ q.mT).trace()

    torch.testing.assert_close(value(shape), roots)
    assert value(shape) < value(torch.eye(3).double()) < value(torch.linalg.inv(shape))
    found = minimize(
        lambda q: float(value(torch.tensor(q).reshape(3, 3))), np.eye(3).ravel(), method="BFGS"
    )
    assert found.fun == pytest.approx(float(roots), rel=1e-6)
    with pytest.raises(UserError, match=r"damping=0.0: B is singular"):
        shaping.best_shape(torch.zeros(2, 2))
    damped = shaping.best_shape(torch.diag(torch.tensor([1.0, 0.0])), damping=0.5)
    torch.testing.assert_close(damped.diagonal(), torch.tensor([1.25, 0.25]) ** -0.25)


def test_the_product_of_traces_has_theorem_5s_minimum():
    x, y = (p @ p.mT for p in (normal(3, 3, seed=1), normal(3, 3, seed=2)))
    a, minimum = shaping.best_product(x, y)

    def value(a: Tensor) -> Tensor:
        return (x @ a).trace() * (y @ torch.linalg.inv(a)).trace()

    torch.testing.assert_close(value(a), minimum)
    torch.testing.assert_close(value(5 * a), minimum)
    for trial in normal(1000, 3, 3, seed=3):
        assert value(trial @ trial.mT) >= minimum


def test_weights_as_ratios_multiply_to_the_weights():
    gamma, beta = shaping.ratios(ALPHA)
    powers = torch.tensor([gamma ** (STEPS - 1 - s) for s in range(STEPS)]).double()
    torch.testing.assert_close(beta * powers, ALPHA)
    assert gamma == pytest.approx(float((ALPHA[:-1] / ALPHA[1:]).prod() ** (1 / 3)))


def test_online_weights_are_best_one_at_a_time():
    case = episode()
    eye = torch.eye(3).double()
    for steps in range(2, STEPS + 1):
        part = Episode(case.b[:steps, :steps], case.a[:steps])
        alpha = shaping.online_alpha(part.b, part.a, eye)
        c = variance.coefficients(part, eye)
        values = [
            variance.weighted(c, torch.cat((alpha[:-1], (alpha[-1] * f)[None])))
            for f in (0.99, 1.0, 1.01)
        ]
        assert values[1] < values[0]
        assert values[1] < values[2]
    beta, gamma = shaping.online_weights(*(torch.tensor(v) for v in (0.0, 1.0, 1e20, 1e-20)))
    assert beta == 1
    assert gamma == 1e3


def test_the_estimate_of_b_is_unbiased():
    case = episode(3, hidden=2)
    alpha, count = ALPHA[:3], 200_000
    noises = [normal(count, 3, seed=1).sign(), normal(count, 3, seed=2).sign()]
    noises += [normal(count, 3, 2, seed=s).sign() for s in (3, 4)]
    found = shaping.spatial_estimate(case.b, case.a, alpha, *noises)
    error = found.std(0) / count**0.5
    assert ((found.mean(0) - variance.spatial(case, alpha)).abs() < 4 * error).all()
