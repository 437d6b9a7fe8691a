"""Clipped gradients and running statistics against torch and NumPy."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from semigradient.training import parts
from semigradient.training.gradients import clip_gradients
from semigradient.training.normalise import ObservationNormaliser, RewardNormaliser, RunningMoments


@pytest.mark.parametrize("max_norm", [0.1, 3.0, 1e6])
def test_clip_gradients_equals_torch(max_norm: float) -> None:
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for shape in ((3, 4), (5,), (2,))]
    for parameter in ours[:2]:
        parameter.grad = torch.randn_like(parameter)
    theirs = copy.deepcopy(ours)
    for a, b in zip(ours, theirs, strict=True):
        b.grad = None if a.grad is None else a.grad.clone()
    norm = clip_gradients(ours, max_norm)
    torch.testing.assert_close(norm, nn.utils.clip_grad_norm_(theirs, max_norm))
    for a, b in zip(ours[:2], theirs[:2], strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    untouched = [p.grad.clone() for p in ours[:2]]
    clip_gradients(ours, 0.0)
    assert all(torch.equal(a, p.grad) for a, p in zip(untouched, ours[:2], strict=True))


def test_running_moments_equal_numpy() -> None:
    rng = np.random.default_rng(0)
    data = rng.normal(5, 3, (500, 4))
    moments = RunningMoments((4,))
    for part in np.split(data, [3, 4, 100, 350]):
        moments.update(part)
    # The pseudo-observation weighs 1e-4 of 500.
    np.testing.assert_allclose(moments.mean, data.mean(0), rtol=1e-6)
    np.testing.assert_allclose(moments.var, data.var(0), rtol=1e-5)
    other = RunningMoments((4,))
    parts.load(other, copy.deepcopy(parts.state(moments)))
    other.update(data)
    moments.update(data)
    np.testing.assert_array_equal(other.var, moments.var)


def test_normalised_observations() -> None:
    data = np.random.default_rng(0).normal(5, 3, (1000, 2))
    normaliser = ObservationNormaliser((2,), clip=2.0)
    scaled = normaliser(data, update=True)
    assert scaled.dtype == np.float32
    expected = np.clip((data - data.mean(0)) / data.std(0), -2, 2)
    np.testing.assert_allclose(scaled, expected, atol=1e-4)
    before = copy.deepcopy(parts.state(normaliser.moments))
    normaliser(data * 3)
    np.testing.assert_array_equal(normaliser.moments.mean, before["mean"])


def test_normalised_rewards_divide_by_the_deviation_of_returns() -> None:
    rng, gamma = np.random.default_rng(0), 0.9
    normaliser, running, seen = RewardNormaliser(2, gamma, clip=100.0), np.zeros(2), []
    for _ in range(200):
        reward, ended = rng.normal(1, 4, 2), rng.random(2) < 0.1
        running = running * gamma + reward
        seen.append(running.copy())
        expected = reward / np.std(seen)
        scaled = normaliser(reward, ended)
        if len(seen) > 20:
            np.testing.assert_allclose(scaled, expected, rtol=1e-3)
        running[ended] = 0
