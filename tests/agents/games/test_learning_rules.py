"""Learning rules against hand-derived updates, published points and the basins of a plane."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from semigradient.domains.games.rules import NAMES, Rule, learn, pola, rule
from semigradient.envs.games.differentiable import Game, simultaneous_gradient
from semigradient.envs.games.logistic import LogisticGame
from semigradient.envs.games.matrix_games import MatrixGame
from semigradient.errors import UserError

AT = torch.tensor([[1, 2, -1, 0.5, -2], [-0.5, 1, 0, 1.5, -1]], dtype=torch.float64)


class Quadratic:
    """f₁ = a x y + b x² / 2, f₂ = c x y + d y² / 2: two numbers, everything by hand."""

    parameters, symmetric = 1, False
    a, b, c, d = 0.7, -0.4, -1.3, 0.9

    def value(self, x: Tensor) -> Tensor:
        first, second = x.squeeze(-1).unbind(-1)
        return torch.stack(
            (
                self.a * first * second + self.b * first**2 / 2,
                self.c * first * second + self.d * second**2 / 2,
            ),
            -1,
        )

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.randn(count, 2, 1, generator=generator, dtype=torch.float64)

    def features(self, x: Tensor) -> Tensor:
        return x

    def divergence(self, old: Tensor, new: Tensor) -> Tensor:
        return (new - old).square().sum(-1) / 2


def test_rules_are_what_is_derived_by_hand() -> None:
    game, alpha = Quadratic(), 0.3
    x = game.draw(5, torch.Generator().manual_seed(0))
    first, second = x.squeeze(-1).unbind(-1)
    a, b, c, d = game.a, game.b, game.c, game.d
    step = c * first + d * second  # ∂f₂/∂y
    naive = a * second + b * first
    by_hand = {
        "naive": naive,
        "lookahead": naive + a * alpha * step,
        # f₁(x, y + α(c x + d y)) = a x (y + α(c x + d y)) + b x²/2
        "lola": naive + a * alpha * step + a * first * alpha * c,
        # ∂f₁/∂y = a x: stopped, its product with the step depends on x through the step alone.
        "lola-taylor": naive + alpha * a * first * c,
        "lola-taylor-full": naive + alpha * (a * first * c + a * step),
    }
    # HOLA2: the other's LOLA step is s(x, y) = c x + d y + α c (a y + b x) + α c a y.
    other = step + alpha * c * naive + alpha * c * a * second
    by_hand["hola2"] = naive + alpha * a * (other + first * (c + alpha * c * b))
    for name, expected in by_hand.items():
        torch.testing.assert_close(rule(name, alpha)(game, x, 0).squeeze(-1), expected)
    lola_of_second = c * (first + alpha * naive) + d * second + c * second * alpha * a
    torch.testing.assert_close(rule("lola", alpha)(game, x, 1).squeeze(-1), lola_of_second)


@pytest.mark.parametrize(
    ("payoff", "alpha", "expected"),
    [
        (
            "prisoners-dilemma",
            25,
            {
                "lola": (-0.00208386, 0.1095419, -0.09559427, -0.01142842, -0.10262293),
                "lola-taylor": (-0.00155864, 0.15587134, -0.10582034, 0.01971797, -0.13533364),
                "lola-taylor-full": (-0.00184696, 0.141594, -0.10196127, 0.0107998, -0.13581614),
            },
        ),
        (
            "matching-pennies",
            25,
            {
                "lola": (-0.00568386, -0.03796959, 0.10292335, -0.11045968, 0.0598115),
                "lola-taylor": (-0.0121704, -0.15386666, 0.08272322, -0.12163067, 0.01185375),
                "lola-taylor-full": (-0.0178737, -0.342709, 0.11146445, -0.2332435, 0.0550107),
            },
        ),
        (
            "chicken",
            1,
            {
                "lola": (0.25744965, 0.03194861, -0.05475646, -0.09963121, -0.09239224),
                "lola-taylor": (-1.51539082, 1.3198295, -13.616594, -14.20618259, -29.81485344),
            },
        ),
    ],
)
def test_published_points(payoff: str, alpha: float, expected: dict[str, tuple]) -> None:
    for name, direction in expected.items():
        update = rule(name, alpha)(MatrixGame(payoff), AT, 0)
        torch.testing.assert_close(
            update, torch.tensor(direction, dtype=torch.float64), rtol=1e-6, atol=1e-7
        )


@pytest.mark.parametrize("game", [MatrixGame(), MatrixGame("matching-pennies"), LogisticGame()])
def test_rules_agree_where_they_must(game: MatrixGame | LogisticGame) -> None:
    x = game.draw(20, torch.Generator().manual_seed(3))
    gradient = simultaneous_gradient(game, x)
    for player in (0, 1):
        for name in set(NAMES) - {"pola"}:  # whose proximal problems need a weight
            torch.testing.assert_close(rule(name, 0.0)(game, x, player), gradient[:, player])
        hola = [rule(f"hola{order}", 2.0)(game, x, player) for order in (0, 1)]
        torch.testing.assert_close(hola[0], gradient[:, player])
        torch.testing.assert_close(hola[1], rule("lola", 2.0)(game, x, player))
        # Taylor's form is LOLA to first order in α: what is left falls with its square.
        errors = [
            rule("lola", alpha)(game, x, player) - rule("lola-taylor-full", alpha)(game, x, player)
            for alpha in (1e-2, 1e-3)
        ]
        assert errors[1].norm() < 0.02 * errors[0].norm()


def test_the_direction_is_the_derivative_of_the_surrogate() -> None:
    game, alpha, h = MatrixGame(), 5.0, 1e-5
    lola = rule("lola", alpha)

    def surrogate(x: Tensor) -> Tensor:
        shifted = x.clone()
        shifted[1] += alpha * simultaneous_gradient(game, x)[1]
        return game.value(shifted)[0]

    for index in range(5):
        step = torch.zeros_like(AT)
        step[0, index] = h
        slope = (surrogate(AT + step) - surrogate(AT - step)) / (2 * h)
        torch.testing.assert_close(lola(game, AT, 0)[index], slope, rtol=1e-6, atol=1e-9)


def test_logistic_game_at_points() -> None:
    game = LogisticGame()
    at = torch.tensor([[[1.0], [2.0]], [[-3.0], [4.0]], [[0.0], [0.0]]], dtype=torch.float64)
    values = torch.tensor([[2.22578, 1.626826], [0.163579, -3.574772], [0, 0]])
    torch.testing.assert_close(game.value(at).float(), values)
    slopes = torch.tensor([[0.599354, 0.191277], [0.175406, -0.082349]])
    torch.testing.assert_close(simultaneous_gradient(game, at)[:2].squeeze(-1).float(), slopes)
    for name, expected in (
        ("lola", [[0.716012, 0.440063], [0.175235, -0.081296]]),
        ("hola2", [[0.632482, 0.285641], [0.175183, -0.080983]]),
    ):
        chosen = rule(name, 1.0)
        update = torch.stack([chosen(game, at[:2], i).squeeze(-1) for i in (0, 1)], -1)
        torch.testing.assert_close(update.float(), torch.tensor(expected), rtol=0, atol=1e-5)


def test_logistic_game_has_its_two_stable_points() -> None:
    game, place = LogisticGame(), 5.03070988
    for sign, value in ((1, 3.85838642), (-1, -0.08967956)):
        x = torch.full((2, 1), sign * place, dtype=torch.float64)
        assert simultaneous_gradient(game, x).abs().max() < 1e-8
        torch.testing.assert_close(game.value(x), torch.full((2,), value, dtype=torch.float64))

        def field(y: Tensor) -> Tensor:
            y = y.view(2, 1)
            return torch.stack(
                [torch.autograd.grad(game.value(y)[i], y, create_graph=True)[0][i] for i in (0, 1)]
            ).view(2)

        jacobian = torch.autograd.functional.jacobian(field, x.view(2))
        eigenvalues = torch.linalg.eigvals(jacobian).real.sort().values
        torch.testing.assert_close(
            eigenvalues.float(), torch.tensor([-0.06090, -0.03998]), rtol=0, atol=1e-5
        )


def test_a_common_interest_never_falls() -> None:
    game = MatrixGame([[4, 1, 3, 2], [4, 1, 3, 2]])
    x = game.draw(50, torch.Generator().manual_seed(0))
    naive, before = rule("naive", 0.0), game.value(x)
    for _ in range(20):
        x = learn(game, x, (naive, naive), lr=0.1, updates=1)
        after = game.value(x)
        assert bool((after >= before - 1e-12).all())
        before = after


def test_both_players_move_from_the_same_place() -> None:
    game, naive, lola = MatrixGame(), rule("naive", 0.0), rule("lola", 25.0)
    x = game.draw(3, torch.Generator().manual_seed(0))
    moved = learn(game, x, (lola, naive), lr=25.0, updates=1)
    torch.testing.assert_close(moved[:, 0], x[:, 0] + 25 * lola(game, x, 0))
    torch.testing.assert_close(moved[:, 1], x[:, 1] + 25 * naive(game, x, 1))


def test_pola_solves_both_proximal_problems() -> None:
    game, alpha = Quadratic(), 0.3
    x = game.draw(5, torch.Generator().manual_seed(0))
    first, second = x.squeeze(-1).unbind(-1)
    a, b, c, d = game.a, game.b, game.c, game.d
    # The reply to y is z(y) = (y₀ + α c y) / (1 − α d); then y makes
    # a (z + y z') + b y − (y − x₀) / α vanish.
    share = 1 / (1 - alpha * d)
    best = (first / alpha + a * second * share) / (1 / alpha - b - 2 * a * alpha * c * share)
    update = pola(alpha, inner=16, outer=25)(game, x, 0).squeeze(-1)
    torch.testing.assert_close(first + alpha * update, best)


@pytest.mark.parametrize("game", [Quadratic(), MatrixGame(), LogisticGame()])
@pytest.mark.parametrize("player", [0, 1])
def test_pola_with_one_step_each_is_lola(game: Game, player: int) -> None:
    x = game.draw(4, torch.Generator().manual_seed(1))
    update = pola(2.0, inner=1, outer=1)(game, x, player)
    torch.testing.assert_close(update, rule("lola", 2.0)(game, x, player))


def test_a_proximal_step_in_one_round_against_a_fixed_opponent() -> None:
    game, alpha = MatrixGame(discount=0.0), 1.5
    x = game.draw(6, torch.Generator().manual_seed(0))
    now, other = torch.sigmoid(x[:, 0, 0]), torch.sigmoid(x[:, 1, 0])
    gain = other * (-1 - 0) + (1 - other) * (-3 - -2)  # of A over B, here always −1
    # α g p (1 − p) + p₀ − p = 0
    root = torch.sqrt((1 - alpha * gain) ** 2 + 4 * alpha * gain * now)
    best = (alpha * gain - 1 + root) / (2 * alpha * gain)
    moved = x[:, 0] + alpha * pola(alpha, inner=0, outer=400)(game, x, 0)
    torch.testing.assert_close(torch.sigmoid(moved[:, 0]), best, rtol=0, atol=1e-6)
    torch.testing.assert_close(moved[:, 1:], x[:, 0, 1:])


class Stretched(MatrixGame):
    """The same game with policies written in logits of another unit."""

    def __init__(self, unit: float) -> None:
        super().__init__()
        self.unit = unit

    def value(self, x: Tensor) -> Tensor:
        return super().value(self.unit * x)

    def divergence(self, old: Tensor, new: Tensor) -> Tensor:
        return super().divergence(self.unit * old, self.unit * new)


def test_pola_does_not_depend_on_how_policies_are_written() -> None:
    x = 0.5 * MatrixGame().draw(2, torch.Generator().manual_seed(0))

    def moved(chosen: Rule, unit: float) -> Tensor:
        return unit * chosen(Stretched(unit), x / unit, 0)

    one, other = (moved(pola(1.0, 16, 20), unit) for unit in (1.4, 1.8))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
    one, other = (moved(rule("lola", 1.0), unit) for unit in (1.4, 1.8))
    assert (one - other).abs().max() > 0.02


def test_bad_names_and_numbers() -> None:
    with pytest.raises(UserError, match="alpha=0"):
        rule("pola", 0.0)
    with pytest.raises(UserError, match="unknown learning rule 'lolla': did you mean lola"):
        rule("lolla", 1.0)
    with pytest.raises(UserError, match="alpha=-1"):
        rule("lola", -1.0)
