"""Exact values of repeated matrix games against plain sums, closed forms and identities."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from semigradient.envs.games.matrix_games import (
    PAYOFFS,
    SEEN_BY_OTHER,
    STRATEGIES,
    MatrixGame,
    discounted_value,
    extortion,
    finite_value,
    occupancy,
    payoff_tensor,
    strategy,
)
from semigradient.errors import UserError

IPD = payoff_tensor("prisoners-dilemma")
NAMES = (*STRATEGIES, "extortion")


def policy(name: str) -> Tensor:
    return strategy(name, IPD, 0.96)


def brute_force(p: Tensor, q: Tensor, weights: list[float]) -> Tensor:
    """Weighted probabilities (4,) of AA, AB, BA, BB, one round after another in plain Python."""
    mine, theirs = p.tolist(), q.tolist()
    chance, total = {0: 1.0}, [0.0] * 4
    for weight in weights:
        after = [0.0] * 4
        for seen, likely in chance.items():
            own, other = mine[seen], theirs[{0: 0, 1: 1, 2: 3, 3: 2, 4: 4}[seen]]
            for a, b in itertools.product((0, 1), repeat=2):
                after[2 * a + b] += likely * (1 - own if a else own) * (1 - other if b else other)
        total = [before + weight * now for before, now in zip(total, after, strict=True)]
        chance = {joint + 1: now for joint, now in enumerate(after)}
    return torch.tensor(total, dtype=torch.float64)


def test_every_pair_of_strategies_against_the_sum() -> None:
    weights = [0.04 * 0.96**t for t in range(800)]  # the rest weighs 7e-15
    for first, second in itertools.product(NAMES, repeat=2):
        p, q = policy(first), policy(second)
        weighted = brute_force(p, q, weights)
        for payoff in PAYOFFS:
            table = payoff_tensor(payoff)
            value = discounted_value(p, q, table, 0.96)
            torch.testing.assert_close(value, table @ weighted, rtol=0, atol=1e-10)
            plain = discounted_value(p, q, table, 0.96, normalised=False)
            torch.testing.assert_close(plain, 25 * table @ weighted, rtol=0, atol=1e-10)


def test_every_pair_of_strategies_in_the_finite_game() -> None:
    for discount, (first, second) in itertools.product((1.0, 0.9), itertools.product(NAMES, NAMES)):
        weights = [discount**t for t in range(6)]
        p, q = policy(first), policy(second)
        value = finite_value(p, q, IPD, 6, discount, mean=False)
        summed = IPD @ brute_force(p, q, weights)
        torch.testing.assert_close(value, summed, rtol=0, atol=1e-12)


def test_totals_of_six_rounds() -> None:
    totals = {
        ("always-cooperate", "always-cooperate"): (-6, -6),
        ("always-defect", "always-defect"): (-12, -12),
        ("always-cooperate", "always-defect"): (-18, 0),
        ("tit-for-tat", "always-defect"): (-13, -10),
        ("tit-for-tat", "tit-for-tat"): (-6, -6),
        ("cynic-tit-for-tat", "cynic-tit-for-tat"): (-12, -12),
        ("random", "random"): (-9, -9),
    }
    for (first, second), expected in totals.items():
        value = finite_value(policy(first), policy(second), IPD, 6, mean=False)
        torch.testing.assert_close(value, torch.tensor(expected, dtype=torch.float64))


def test_closed_forms() -> None:
    table = {
        "always-cooperate": "-1,-1 -3,0 -1,-1 -1.08,-0.96 -1,-1 -1,-1 -2,-0.5",
        "always-defect": "0,-3 -2,-2 -1.92,-2.04 -2,-2 -1.92,-2.04 -0.9796,-2.5102 -1,-2.5",
        "tit-for-tat": "-1,-1 -2.04,-1.92 -1,-1 -1.5306,-1.4694 -1,-1 -1,-1 -1.52,-1.46",
        "cynic-tit-for-tat": "-0.96,-1.08 -2,-2 -1.4694,-1.5306 -2,-2 -1.9584,-1.9632 "
        "-1.6391,-1.6807 -1.48,-1.54",
    }
    columns = [*list(STRATEGIES)[:5], "pavlov", "random"]
    for first, row in table.items():
        for second, cell in zip(columns, row.split(), strict=True):
            expected = torch.tensor([float(number) for number in cell.split(",")])
            value = discounted_value(policy(first), policy(second), IPD, 0.96).float()
            torch.testing.assert_close(value, expected, rtol=0, atol=5e-5)


def test_values_and_gradients_at_points() -> None:
    at = torch.tensor([[1, 2, -1, 0.5, -2], [-0.5, 1, 0, 1.5, -1]], dtype=torch.float64)
    expected = {
        "prisoners-dilemma": (
            (-1.37555089, -1.50654374),
            (-0.00159241, -0.01697326, -0.02077114, -0.01633116, -0.00255890),
        ),
        "matching-pennies": (
            (0.13162269, -0.13162269),
            (-0.00646710, 0.03497572, 0.05398199, -0.01001784, -0.03130319),
        ),
        "chicken": (
            (-22.35163437, -22.43896294),
            (1.13057690, 2.97345183, 2.66209432, 6.67595119, 3.64351953),
        ),
    }
    for name, (value, slope) in expected.items():
        x = at.clone().requires_grad_()
        f = MatrixGame(name).value(x)
        (gradient,) = torch.autograd.grad(f[0], x)
        torch.testing.assert_close(f, torch.tensor(value, dtype=torch.float64), rtol=0, atol=1e-8)
        torch.testing.assert_close(
            gradient[0], torch.tensor(slope, dtype=torch.float64), rtol=0, atol=1e-8
        )
    x = torch.zeros(2, 5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(MatrixGame("chicken").value(x)[0], x)
    slopes = torch.tensor([[0.49] + 4 * [2.94], [0.51] + 4 * [3.06]])
    torch.testing.assert_close(gradient.float(), slopes)


def test_derivatives_of_every_order_are_those_of_a_linear_solve() -> None:
    def solved(x: Tensor) -> Tensor:
        p, q = torch.sigmoid(x).unbind(0)
        q = q[list(SEEN_BY_OTHER)]
        joint = torch.stack((p * q, p * (1 - q), (1 - p) * q, (1 - p) * (1 - q)), 1)
        system = torch.eye(4).double() - 0.96 * joint[1:]
        return 0.04 * joint[0] @ torch.linalg.solve(system, IPD[0])

    x = torch.randn(2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    values = [MatrixGame().value(ours)[0], solved(theirs)]
    weight = torch.linspace(-1, 1, 10, dtype=torch.float64).view(2, 5)
    for _ in range(4):
        values = [
            (torch.autograd.grad(value, at, create_graph=True)[0] * weight).sum()
            for value, at in zip(values, (ours, theirs), strict=True)
        ]
        torch.testing.assert_close(values[0], values[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("discount", [0.0, 0.5, 0.96, 0.999])
def test_occupancy_is_a_distribution_and_obeys_akins_identity(discount: float) -> None:
    drawn = torch.Generator().manual_seed(1)
    p, q = torch.rand(2, 5, 1000, dtype=torch.float64, generator=drawn)
    d = occupancy(p, q, discount)
    assert bool((d > -1e-12).all())
    torch.testing.assert_close(d.sum(0), torch.ones(1000, dtype=torch.float64))
    own = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)[:, None]
    other = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)[:, None]
    for policy_, took in ((p, own), (q, other)):
        left = (d * (discount * policy_[1:] - took)).sum(0) + (1 - discount) * policy_[0]
        assert left.abs().max() < 1e-9


def test_roles() -> None:
    x = MatrixGame().draw(100, torch.Generator().manual_seed(0))
    for name in PAYOFFS:
        game = MatrixGame(name)
        f, swapped = game.value(x), game.value(x.flip(-2)).flip(-1)
        assert torch.allclose(f, swapped) == game.symmetric
        assert game.symmetric == (name != "matching-pennies")
    f = MatrixGame("matching-pennies").value(x)
    torch.testing.assert_close(f[:, 0], -f[:, 1])


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_any_leading_axes(batch: tuple[int, ...]) -> None:
    x = torch.randn(*batch, 2, 5, dtype=torch.float64)
    for game in (MatrixGame(), MatrixGame(horizon=6, discount=1.0)):
        f = game.value(x)
        assert f.shape == (*batch, 2)
        one = game.value(x.view(-1, 2, 5)[-1])
        torch.testing.assert_close(f.view(-1, 2)[-1], one)


def test_extortion_holds_every_opponent_on_its_line() -> None:
    p = extortion(IPD, 0.96, 3.0, phi=0.1)
    torch.testing.assert_close(p.float(), torch.tensor([0, 0.833333, 0.3125, 0.520833, 0]))
    q = torch.rand(500, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for slope in (1.5, 3.0, 10.0):
        p = strategy("extortion", IPD, 0.96, slope).expand(500, 5)
        surplus = discounted_value(p, q, IPD, 0.96) + 2
        torch.testing.assert_close(surplus[:, 0], slope * surplus[:, 1])
    values = discounted_value(extortion(IPD, 0.96, 3.0, 0.1), policy("random"), IPD, 0.96)
    torch.testing.assert_close(values.float(), torch.tensor([-1.357143, -1.785714]))


def test_four_thousand_pairs_in_single_precision() -> None:
    x = MatrixGame().draw(4096, torch.Generator().manual_seed(0)) * 5
    exact = MatrixGame().value(x)
    torch.testing.assert_close(MatrixGame().value(x.float()).double(), exact, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MatrixGame([[1, 2], [3, 4]]), "payoff="),
        (lambda: MatrixGame("hawk-dove"), "unknown payoff"),
        (lambda: MatrixGame([[1, 2, 3, 4], [1, 2, 3, float("nan")]]), "finite"),
        (lambda: MatrixGame("oops"), "chicken"),
        (lambda: MatrixGame(discount=1.0), r"discount=1.0: must be in \[0, 1\)"),
        (lambda: MatrixGame(discount=1.5, horizon=6), "discount=1.5"),
        (lambda: MatrixGame(horizon=-1), "horizon=-1"),
        (lambda: strategy("tit-for-two-tats", IPD, 0.96), "unknown opponent"),
        (lambda: strategy([0, 1, 2, 0, 1], IPD, 0.96), "five probabilities"),
        (lambda: strategy([0, 1], IPD, 0.96), "five probabilities"),
        (lambda: strategy("extortion", IPD, 0.96, 0.5), "slope=0.5"),
        (lambda: strategy("extortion", payoff_tensor("matching-pennies"), 0.96), "no such policy"),
        (lambda: extortion(IPD, 0.96, 3.0, phi=0.9), "phi=0.9"),
    ],
)
def test_bad_input_is_one_line(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
