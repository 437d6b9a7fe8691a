"""Estimators that need a layer z = W a, and REINFORCE with perturbed states."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from gradients.recurrent.test_estimators import data, enumerated, exact, network, summed
from semigradient.errors import UserError
from semigradient.gradients.recurrent import make
from semigradient.gradients.recurrent.artbp import ConstantLaw, PowerLaw, draw_length

SIGNS = torch.tensor([-1.0, 1.0])


def test_nobacktrack_is_exact_on_average_over_all_signs():
    net, (xs, targets) = network("rnn"), data(4, examples=1)
    found = enumerated(lambda n: make("nobacktrack", net, n), SIGNS, (1, 2), 3, xs, targets)
    torch.testing.assert_close(found, exact(net, xs, targets), rtol=0, atol=1e-12)


@pytest.mark.parametrize("exact_last_step", [True, False])
@pytest.mark.parametrize(
    ("kind", "hidden", "units"), [("rnn", 2, 2), ("gated", 2, 4), ("lstm", 1, 4)]
)
def test_projections_at_the_pre_activations_are_exact_on_average(
    kind, hidden, units, exact_last_step
):
    net, (xs, targets) = network(kind, hidden), data(3, examples=1)
    draws = 2 if exact_last_step else 3
    generator = torch.Generator().manual_seed(5)
    shape = torch.randn(units, units, generator=generator, dtype=torch.float64)
    for options in ({}, {"alpha": [1.0, 3.0, 0.2]}, {"shape": shape}):
        found = enumerated(
            lambda n, options=options: make(
                "shaped-uoro", net, n, exact_last_step=exact_last_step, **options
            ),
            SIGNS, (units,), draws, xs, targets,
        )  # fmt: skip
        torch.testing.assert_close(found, exact(net, xs, targets), rtol=0, atol=1e-12)
    found = enumerated(
        lambda n: make("preuoro", net, n, exact_last_step=exact_last_step),
        SIGNS, (1,), draws, xs, targets,
    )  # fmt: skip
    torch.testing.assert_close(found, exact(net, xs, targets), rtol=0, atol=1e-12)


def test_weights_of_times_end_with_an_error():
    net, (xs, targets) = network("rnn"), data(3)
    with pytest.raises(UserError, match="alpha: 1 weights, at step 1"):
        summed(make("shaped-uoro", net, 2, alpha=[1.0]), xs, targets)


@pytest.mark.parametrize(
    ("alpha", "mean", "first", "deviation", "beyond_100"),
    [(4.0, 50.0, 0.0297, 85.73, 0.1231), (6.0, 16.0, 0.0769, 20.0, 0.0082)],
)
def test_the_power_law_of_cuts(alpha, mean, first, deviation, beyond_100):
    law = PowerLaw(alpha, mean)
    assert law.cut(1) == pytest.approx(first, abs=5e-5)
    assert law.variance() ** 0.5 == pytest.approx(deviation, abs=0.005)
    assert law.survival(100) == pytest.approx(beyond_100, abs=5e-5)
    survived, mean_length, product = 1.0, 1.0, 1.0
    for steps in range(1, 20000):
        survived *= 1 - law.cut(steps)
        product /= 1 - law.cut(steps)
        mean_length += survived
        if steps in (10, 100):
            assert law.survival(steps) == pytest.approx(survived, rel=1e-9)
            assert product == pytest.approx(1 / law.survival(steps), rel=1e-9)
    assert mean_length == pytest.approx(mean, rel=1e-3)
    assert PowerLaw(3.0, mean).variance() == float("inf")


def test_drawn_lengths_have_the_laws_mean():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor(
        [draw_length(PowerLaw(6.0, 4.0), generator) for _ in range(4000)]
    ).double()
    error = PowerLaw(6.0, 4.0).variance() ** 0.5 / 4000**0.5
    assert abs(lengths.mean().item() - 4) < 4 * error
    assert draw_length(ConstantLaw(0.0), generator, longest=7) == 7


def perturbed_and_uoro(sigma: float, baseline: str, rows: int) -> tuple[Tensor, Tensor]:
    """Both estimates (rows, P) of the cell's gradient with the same noise."""
    net, (xs, targets) = network("rnn", 3), data(4, examples=1)
    wide = [part.expand(-1, rows, -1) for part in (xs, targets)]
    noise = torch.randn(4, rows, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    shape = torch.tensor([[1.0, 0.5, 0.0], [0.0, 2.0, 0.3], [0.1, 0.0, 0.7]])
    theirs = make("shaped-uoro", net, rows, alpha=[1.0] * 4, shape=shape, exact_last_step=False)
    ours = make("reinforce", net, rows, sigma=sigma, baseline=baseline, shape=shape)
    first, second = iter(noise), iter(noise)
    theirs.trace.draw = lambda shape: next(first)
    ours.draw = lambda: next(second)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return 0.5 * (output - target).square().sum(1)

    total = 0.0
    for x, target in zip(*wide, strict=True):
        losses = loss(ours.step(x), target)
        quiet = loss(ours.quiet_output, target) if baseline == "twin" else None
        total = total + ours.gradient(losses, quiet)
    cell = slice(net.head.numel(), None)
    return total[:, cell], summed(theirs, *wide)[:, cell]


def test_reinforce_comes_to_uoro_linearly_in_sigma():
    distances = []
    for sigma in (1e-2, 1e-3, 1e-4):
        ours, theirs = perturbed_and_uoro(sigma, "twin", 200)
        distances.append(((ours - theirs).norm() / theirs.norm()).item())
    for larger, smaller in itertools.pairwise(distances):
        assert larger / smaller == pytest.approx(10, rel=0.05)


def test_without_baseline_reinforces_variance_grows_like_one_over_sigma_squared():
    variances = [
        perturbed_and_uoro(sigma, "none", 400)[0].var(0).sum().item() for sigma in (1e-2, 1e-3)
    ]
    assert variances[1] / variances[0] == pytest.approx(100, rel=0.05)
    both = perturbed_and_uoro(1e-3, "twin", 400)
    assert (both[0].var(0).sum() / both[1].var(0).sum()).item() == pytest.approx(1, abs=0.01)


def test_reinforces_running_mean_and_continuation():
    net, (xs, targets) = network("lstm"), data(6)
    source = torch.Generator().manual_seed(0)
    estimator = make("reinforce", net, 2, source, baseline="mean", sigma=0.2)

    def advance(estimator: object, part: slice) -> Iterator[Tensor]:
        for x, target in zip(xs[part], targets[part], strict=True):
            losses = (estimator.step(x) - target).square().sum(1)
            before = estimator.mean.clone()
            gradient = estimator.gradient(losses)
            torch.testing.assert_close(gradient, (losses - before)[:, None] * estimator.score)
            yield losses

    seen = list(advance(estimator, slice(0, 3)))
    weights = 0.99 ** torch.arange(2, -1, -1)
    mean = sum(w * v for w, v in zip(weights, seen, strict=True)) / weights.sum()
    torch.testing.assert_close(estimator.mean, mean)
    estimator.reset(torch.tensor([True, False]))
    assert not estimator.score[0].any()
    stored, drawn = estimator.state_dict(), source.get_state()
    expected = list(advance(estimator, slice(3, 6)))
    again = make("reinforce", net, 2, other := torch.Generator(), baseline="mean", sigma=0.2)
    again.load_state_dict(stored)
    other.set_state(drawn)
    assert torch.equal(torch.stack(list(advance(again, slice(3, 6)))), torch.stack(expected))
    with pytest.raises(UserError, match="quiet_losses"):
        make("reinforce", net, 2).gradient(torch.zeros(2))
