"""DiCE against exact derivatives, without noise and with it; the surrogate loss as the control."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import jacrev

from semigradient.domains.games.repeated import (
    PRISONERS,
    Episodes,
    enumerate_all,
    expected_return,
    sample,
)
from semigradient.errors import UserError
from semigradient.gradients.dice import dice_graph, dice_return, loaded_dice, magic_box
from semigradient.gradients.self_play import self_play_return
from semigradient.gradients.surrogate import surrogate_graph, surrogate_return

GAMMA, ROUNDS = 0.96, 3
POLICIES = torch.tensor(
    [[0.3, -0.5, 0.8, 0.1, -0.2], [-0.4, 0.6, 0.2, -0.7, 0.5]], dtype=torch.float64
)
Objective = Callable[[Episodes, int], Tensor]


def boxed(episodes: Episodes, player: int) -> Tensor:
    both = episodes.log_probs.sum(0)
    return dice_return(both, episodes.rewards[player], GAMMA, episodes.weights)


def baselined(episodes: Episodes, player: int) -> Tensor:
    values = torch.tensor([-1.0, -2.0, -0.7], dtype=torch.float64)[:, None]
    values = values.expand(episodes.rewards.shape[1:])
    both = episodes.log_probs.sum(0)
    return dice_return(both, episodes.rewards[player], GAMMA, episodes.weights, values)


def loaded(episodes: Episodes, player: int) -> Tensor:
    """With returns to go for advantages; worth 0, so the value is added for the comparison."""
    rewards = episodes.rewards[player]
    discounted = GAMMA ** torch.arange(len(rewards), dtype=rewards.dtype)[:, None] * rewards
    to_go = discounted.flip(0).cumsum(0).flip(0)
    both = episodes.log_probs.sum(0)
    powers = GAMMA ** torch.arange(len(rewards), dtype=rewards.dtype)[:, None]
    objective = loaded_dice(both, to_go / powers, GAMMA, 1.0, episodes.weights)
    return objective + (to_go[0] * episodes.weights).sum()


def surrogate(episodes: Episodes, player: int) -> Tensor:
    both = episodes.log_probs.sum(0)
    return surrogate_return(both, episodes.rewards[player], GAMMA, episodes.weights)


def derivatives(function: Callable[[Tensor], Tensor], at: Tensor, order: int) -> list[Tensor]:
    """The function and its derivatives with respect to all ten logits, up to the order."""
    shape, flat = at.shape, at.flatten()
    orders, derivative = [], lambda x: function(x.view(shape))
    for _ in range(order + 1):
        orders.append(derivative(flat))
        derivative = jacrev(derivative)
    return orders


def exact(player: int, order: int) -> list[Tensor]:
    return derivatives(
        lambda x: expected_return(x, PRISONERS, ROUNDS, GAMMA)[player], POLICIES, order
    )


def enumerated(objective: Objective, player: int, order: int) -> list[Tensor]:
    return derivatives(
        lambda x: objective(enumerate_all(x, PRISONERS, ROUNDS), player), POLICIES, order
    )


# The box


def test_the_box_is_one_and_keeps_every_derivative() -> None:
    tau = torch.linspace(-200, 50, 1001)
    assert (magic_box(tau) == 1).all()
    for derivative in derivatives(lambda x: magic_box(x).sum(), torch.zeros(1), 4):
        torch.testing.assert_close(derivative.flatten(), torch.ones(1))


def bernoulli(theta: Tensor, graph: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """E[x (1 - θ) + (1 - x)(1 + θ)], x ~ Bernoulli(θ), over both outcomes: 1 + θ - 2θ²."""
    probabilities = torch.stack((1 - theta[0], theta[0]))
    costs = torch.stack((1 + theta[0], 1 - theta[0]))
    samples = graph(probabilities.log()[None], costs[None], torch.ones(1, 1, dtype=torch.bool))
    return (probabilities.detach() * samples).sum()


def test_a_cost_that_depends_on_the_parameter_itself() -> None:
    at = torch.tensor([0.2], dtype=torch.float64)
    orders = derivatives(lambda x: bernoulli(x, dice_graph), at, 4)
    torch.testing.assert_close(
        torch.stack([tensor.flatten()[0] for tensor in orders]),
        torch.tensor([1.12, 0.2, -4.0, 0.0, 0.0], dtype=torch.float64),
    )


@pytest.mark.parametrize("chance", [0.2, 0.5, 0.9])
def test_the_surrogate_of_the_surrogate_loses_half_of_the_second_derivative(chance: float) -> None:
    theta = torch.tensor(chance, dtype=torch.float64, requires_grad=True)
    upstream = torch.ones(1, 1, dtype=torch.bool)
    first, second = 0.0, 0.0
    for probability, cost in ((theta, 1 - theta), (1 - theta, 1 + theta)):
        node, weight = probability.log().view(1, 1), probability.item()
        objective = surrogate_graph(node, cost.view(1, 1), upstream)
        (gradient,) = torch.autograd.grad(objective, theta, create_graph=True)
        again = surrogate_graph(node, gradient.view(1, 1), upstream)
        first += weight * gradient.item()
        second += weight * torch.autograd.grad(again, theta)[0].item()
    assert first == pytest.approx(1 - 4 * chance)
    assert second == pytest.approx(-2.0)  # of -4


def chain(theta: Tensor, graph: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """E[f(x) + g(y)], x ~ p(θ), y ~ p(x, θ), over the four outcomes; f has no y upstream."""
    x, y = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    one, two = theta[0].sigmoid(), (theta[0] * (1 + x) + theta[1]).sigmoid()
    log_probs = torch.stack(
        (torch.where(x == 1, one, 1 - one).log(), torch.where(y == 1, two, 1 - two).log())
    )
    costs = torch.stack((3.0 * x, (1 + x) * (y + 0.5)))
    samples = graph(log_probs, costs.double(), torch.tensor([[True, True], [False, True]]))
    return (log_probs.detach().sum(0).exp() * samples).sum()


def chain_exactly(theta: Tensor) -> Tensor:
    one = theta[0].sigmoid()
    low, high = (theta[0] + theta[1]).sigmoid(), (2 * theta[0] + theta[1]).sigmoid()
    return 3 * one + (1 - one) * (low + 0.5) + one * 2 * (high + 0.5)


def test_any_graph_to_third_order() -> None:
    at = torch.tensor([0.4, -0.3], dtype=torch.float64)
    orders = derivatives(lambda x: chain(x, dice_graph), at, 3)
    torch.testing.assert_close(orders, derivatives(chain_exactly, at, 3), rtol=0, atol=1e-12)
    control = derivatives(lambda x: chain(x, surrogate_graph), at, 1)[1]
    torch.testing.assert_close(control, orders[1], rtol=0, atol=1e-12)


# Two players, every course of the game


def test_all_courses_of_the_game() -> None:
    episodes = enumerate_all(POLICIES, PRISONERS, ROUNDS)
    assert episodes.weights.shape == (64,)
    assert episodes.weights.sum().item() == pytest.approx(1, abs=1e-14)
    powers = GAMMA ** torch.arange(3, dtype=torch.float64)
    means = (episodes.rewards * powers[:, None]).sum(1) @ episodes.weights
    expected = expected_return(POLICIES, PRISONERS, ROUNDS, GAMMA)
    torch.testing.assert_close(means, expected, rtol=0, atol=1e-13)


def test_the_exact_derivatives_are_the_published_ones() -> None:
    value, gradient, hessian = exact(0, 2)
    assert value.item() == pytest.approx(-4.551728988665715, abs=1e-13)
    first = [-0.349513, -0.110966, -0.154023, -0.107791, -0.114534]
    torch.testing.assert_close(gradient[:5].tolist(), first, rtol=0, atol=1e-6)
    mixed = [0.07842, 0.04258, -0.06501, 0.09296, -0.07536]
    torch.testing.assert_close(hessian[0, 5:].tolist(), mixed, rtol=0, atol=1e-5)


@pytest.mark.parametrize("objective", [boxed, baselined, loaded])
@pytest.mark.parametrize("player", [0, 1])
def test_estimates_over_all_courses_equal_the_exact_derivatives(
    objective: Objective, player: int
) -> None:
    estimated, true = enumerated(objective, player, 3), exact(player, 3)
    assert [tensor.dim() for tensor in estimated] == [0, 1, 2, 3]
    for estimate, derivative in zip(estimated, true, strict=True):
        torch.testing.assert_close(estimate, derivative, rtol=0, atol=1e-12)


def test_the_surrogate_is_right_once_and_blind_to_the_other_afterwards() -> None:
    estimated, true = enumerated(surrogate, 0, 2), exact(0, 2)
    torch.testing.assert_close(estimated[1], true[1], rtol=0, atol=1e-12)
    assert (estimated[2][:5, 5:] == 0).all()
    assert (estimated[2] - true[2]).abs().max() > 0.05
    assert (enumerated(boxed, 0, 2)[2][:5, 5:].abs() > 1e-3).all()


def test_forgetting_biases_the_second_derivative_only() -> None:
    def forgetful(episodes: Episodes, decay: float) -> Tensor:
        rewards = episodes.rewards[0]
        to_go = rewards.flip(0).cumsum(0).flip(0)
        return loaded_dice(episodes.log_probs.sum(0), to_go, 1.0, decay, episodes.weights)

    def at(decay: float) -> list[Tensor]:
        return derivatives(
            lambda x: forgetful(enumerate_all(x, PRISONERS, ROUNDS), decay), POLICIES, 2
        )

    full, half = at(1.0), at(0.5)
    torch.testing.assert_close(full[1], half[1], rtol=0, atol=1e-12)
    assert (full[2] - half[2]).abs().max() > 1e-2


# Samples

_GROUPS, _COUNT = 100, 400
_AXES = torch.randn(3, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def along(function: Callable[[Tensor], Tensor], order: int) -> list[Tensor]:
    """Derivatives along three directions of the ten logits."""
    moved = lambda x: function(POLICIES + (x @ _AXES).view(2, 5))  # noqa: E731
    return derivatives(moved, torch.zeros(3, dtype=torch.float64), order)


def z_scores(objective: Objective, order: int) -> list[Tensor]:
    """Of each derivative's mean over groups of sampled episodes, against the exact one."""
    groups = []
    for group in range(_GROUPS):

        def value(x: Tensor, group: int = group) -> Tensor:
            random = torch.Generator().manual_seed(group)  # the same draws for every derivative
            return objective(sample(x, PRISONERS, ROUNDS, _COUNT, random), 0)

        groups.append(along(value, order))
    true = along(lambda x: expected_return(x, PRISONERS, ROUNDS, GAMMA)[0], order)
    scores = []
    for estimates, derivative in zip(zip(*groups, strict=True), true, strict=True):
        stacked = torch.stack(estimates)
        scores.append((stacked.mean(0) - derivative) / (stacked.std(0) / _GROUPS**0.5))
    return scores


@pytest.mark.parametrize("objective", [boxed, baselined, loaded])
def test_sampled_estimates_pass_z_tests(objective: Objective) -> None:
    for score in z_scores(objective, 3):
        assert score.abs().max() < 4


def test_the_surrogate_fails_the_same_test_at_second_order() -> None:
    _, first, second = z_scores(surrogate, 2)
    assert first.abs().max() < 4
    assert second.abs().max() > 12


def test_a_baseline_saves_variance() -> None:
    def spread(values: Tensor | None) -> float:
        gradients = []
        for seed in range(60):
            x = POLICIES.clone().requires_grad_()
            episodes = sample(x, PRISONERS, 10, 50, torch.Generator().manual_seed(seed))
            both = episodes.log_probs.sum(0)
            value = dice_return(both, episodes.rewards[0], 1.0, None, values)
            gradients.append(torch.autograd.grad(value, x)[0])
        return torch.stack(gradients).var(0).sum().item()

    left = -1.5 * torch.arange(10, 0, -1, dtype=torch.float64)[:, None].expand(10, 50)
    assert spread(left) < 0.3 * spread(None)


# Self-play with reward sharing

ROCK_PAPER = torch.tensor([[1.0, 2.0, -2.0, 0.5], [1.0, -2.0, 2.0, 0.5]], dtype=torch.float64)
"""A symmetric game of two actions: what the first earns after AB, the second earns after BA."""
ZERO_SUM = torch.tensor([[0.0, 2.0, -2.0, 0.0], [0.0, -2.0, 2.0, 0.0]], dtype=torch.float64)


def shared(logits: Tensor, payoff: Tensor) -> Tensor:
    """The self-play update over all courses of the game."""
    x = logits.clone().requires_grad_()
    episodes = enumerate_all(x.expand(2, 5), payoff, 4)
    total = episodes.rewards[0].sum(0).expand(4, -1)
    value = self_play_return(*episodes.log_probs, total, episodes.weights)
    return torch.autograd.grad(value, x)[0]


@pytest.mark.parametrize("payoff", [PRISONERS, ROCK_PAPER])
def test_self_play_is_half_the_joint_gradient_of_both_returns(payoff: Tensor) -> None:
    logits = POLICIES[0]
    pair = logits.expand(2, 5).clone().requires_grad_()
    (joint,) = torch.autograd.grad(expected_return(pair, payoff, 4).sum(), pair)
    torch.testing.assert_close(shared(logits, payoff), joint.sum(0) / 2, rtol=0, atol=1e-12)
    assert shared(logits, payoff).abs().max() > 0.05


def test_self_play_leaves_a_symmetric_zero_sum_game_alone() -> None:
    assert shared(POLICIES[1], ZERO_SUM).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dice_return(torch.zeros(2, 3), torch.zeros(2, 4)), r"rewards: \(2, 4\)"),
        (lambda: dice_return(torch.zeros(2, 3), torch.zeros(2, 3), 1.5), "discount=1.5"),
        (lambda: loaded_dice(torch.zeros(2, 3), torch.zeros(2, 3), decay=2.0), "decay=2.0"),
        (lambda: surrogate_return(torch.zeros(2, 3), torch.zeros(2, 3), -1.0), "discount=-1.0"),
        (lambda: enumerate_all(POLICIES, PRISONERS, 20), "rounds=20"),
        (lambda: enumerate_all(POLICIES[:, :4], PRISONERS, 2), r"policies: \(2, 4\)"),
        (lambda: enumerate_all(POLICIES, PRISONERS[:1], 2), r"payoff: \(1, 4\)"),
        (
            lambda: dice_graph(torch.zeros(2, 3), torch.zeros(1, 3), torch.ones(1, 2)),
            r"influence: \(1, 2\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()
