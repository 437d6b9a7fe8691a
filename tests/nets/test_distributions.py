"""Distributions of actions against torch's, and their samples against their probabilities."""

from __future__ import annotations

import math

import pytest
import torch
from gymnasium import spaces

from semigradient.errors import UserError
from semigradient.nets.distributions import Categorical, Gaussian, MultiCategorical, distribution
from support.problems import DQN, build


def tensor(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers)


def test_categorical_against_torch() -> None:
    logits, action = torch.randn(50, 4), torch.randint(4, (50,))
    ours, reference = Categorical(4), torch.distributions.Categorical(logits=logits)
    log_prob, entropy = ours.log_prob_entropy(logits, action)
    torch.testing.assert_close(log_prob, reference.log_prob(action))
    torch.testing.assert_close(entropy, reference.entropy())
    torch.testing.assert_close(ours.log_prob(logits, action), log_prob)
    assert torch.equal(ours.mode(logits), reference.mode)


def test_multi_categorical_against_torch() -> None:
    counts = (3, 2, 4)
    logits = torch.randn(50, 9)
    action = torch.stack([torch.randint(count, (50,)) for count in counts], -1)
    parts = [torch.distributions.Categorical(logits=p) for p in logits.split(counts, -1)]
    log_prob, entropy = MultiCategorical(counts).log_prob_entropy(logits, action)
    pairs = zip(parts, action.unbind(-1), strict=True)
    torch.testing.assert_close(log_prob, sum(part.log_prob(a) for part, a in pairs))
    torch.testing.assert_close(entropy, sum(part.entropy() for part in parts))
    mode = MultiCategorical(counts).mode(logits)
    assert torch.equal(mode, torch.stack([part.mode for part in parts], -1))


def test_gaussian_against_torch() -> None:
    ours = Gaussian(3)
    with torch.no_grad():
        ours.log_std.copy_(tensor(-1.0, 0.0, 0.5))
    mean, action = torch.randn(50, 3), torch.randn(50, 3)
    reference = torch.distributions.Normal(mean, ours.log_std.exp().expand(50, 3))
    log_prob, entropy = ours.log_prob_entropy(ours.parameters_of(mean), action)
    torch.testing.assert_close(log_prob, reference.log_prob(action).sum(-1))
    torch.testing.assert_close(entropy, reference.entropy().sum(-1))
    assert torch.equal(ours.mode(ours.parameters_of(mean)), mean)


def test_samples_have_the_right_frequencies() -> None:
    count, own = 200_000, torch.Generator().manual_seed(0)
    logits = tensor(0.5, -1.0, 2.0, -3.0)
    single = Categorical(4)
    drawn = single.sample(logits, single.noise((count,), own))
    shares = torch.bincount(drawn, minlength=4) / count
    torch.testing.assert_close(shares, logits.softmax(0), atol=0.005, rtol=0)

    both = MultiCategorical((2, 3))
    logits = tensor(1.0, 0.0, 0.0, 1.0, -1.0)
    drawn = both.sample(logits, both.noise((count,), own))
    joint = torch.bincount(drawn[:, 0] * 3 + drawn[:, 1], minlength=6) / count
    exact = torch.outer(logits[:2].softmax(0), logits[2:].softmax(0)).flatten()
    torch.testing.assert_close(joint, exact, atol=0.005, rtol=0)

    normal = Gaussian(2, log_std_init=math.log(0.5))
    drawn = normal.sample(
        normal.parameters_of(tensor(1.0, -2.0)), normal.noise((count,), own)
    ).detach()
    torch.testing.assert_close(drawn.mean(0), tensor(1.0, -2.0), atol=0.01, rtol=0)
    torch.testing.assert_close(drawn.std(0), tensor(0.5, 0.5), atol=0.01, rtol=0)


def test_masked_actions_have_no_probability_and_finite_entropy() -> None:
    ours, own = Categorical(3), torch.Generator().manual_seed(0)
    mask = torch.tensor([True, False, True])
    outputs = tensor(0.0, 50.0, 1.0).requires_grad_()
    logits = ours.parameters_of(outputs, mask)
    drawn = ours.sample(logits, ours.noise((10_000,), own))
    assert set(drawn.tolist()) == {0, 2}
    entropy = ours.log_prob_entropy(logits, torch.tensor(0))[1]
    reference = torch.distributions.Categorical(logits=tensor(0.0, 1.0)).entropy()
    torch.testing.assert_close(entropy, reference)
    entropy.backward()
    assert torch.isfinite(outputs.grad).all()
    alone = ours.parameters_of(outputs.detach(), torch.tensor([False, False, True]))
    assert ours.log_prob_entropy(alone, torch.tensor(2))[1].item() == 0


def test_unsupported_action_spaces_are_user_errors() -> None:
    grid = spaces.MultiBinary([2, 2])
    for space in (spaces.Discrete(3, start=1), grid, spaces.Box(-1, 1, (2, 2))):
        with pytest.raises(UserError, match="action space"):
            distribution(space)
    with pytest.raises(UserError, match="Q-learning accepts Discrete"):
        build("dqn", "Pendulum-v1", DQN)


def test_bits_are_choices_of_two() -> None:
    bits = distribution(spaces.MultiBinary(3))
    logits = torch.tensor([[0.0, 2.0, 1.0, 1.0, 3.0, -1.0]])
    assert bits.mode(logits).tolist() == [[1, 0, 0]]
    expected = sum(logits.view(3, 2).log_softmax(1)[[0, 1, 2], [1, 0, 0]])
    torch.testing.assert_close(bits.log_prob(logits, torch.tensor([[1, 0, 0]]))[0], expected)
