"""Meta-values: losses and targets against plain loops, what followers do, seeds and resuming."""

from __future__ import annotations

import copy
import itertools
import json
from typing import Any

import pytest
import torch
from torch import Tensor

from semigradient.agents.games.cola import COLA, consistency
from semigradient.agents.games.meva import (
    MeVa,
    _QuantileHuber,
    meta_gradient,
    quantile_huber,
    targets,
)
from semigradient.commands import train
from semigradient.domains.games import rules
from semigradient.envs.games.differentiable import simultaneous_gradient
from semigradient.envs.games.logistic import LogisticGame
from semigradient.envs.games.matrix_games import MatrixGame
from semigradient.errors import UserError
from semigradient.nets.meta_value import MetaValueNetwork
from semigradient.training import parts
from semigradient.training.build import build
from semigradient.training.cli import parse
from support.commands import QUIET

SMALL = ("--width", "8", "--quantiles", "3", "--batch-size", "4", "--threads", "1")
IPD = "semigradient/IPD-v0"


def agent(*flags: object, env: str = IPD, name: str = "meva", small: bool = True) -> Any:
    words = ["--agent", name, "--env", env, *map(str, flags), *(SMALL if small else ())]
    return build(parse(words).command)


def network(models: int = 2, inputs: int = 5, **options: Any) -> MetaValueNetwork:
    torch.manual_seed(0)
    return MetaValueNetwork(models, inputs, 3, 8, **options).double()


def draw(*shape: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=random, dtype=torch.float64)


def discounts(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


# Loss and targets


def test_quantile_loss_is_its_double_loop() -> None:
    predicted, target = 2 * draw(3, 4), 2 * draw(3, 5, seed=1)
    loss = quantile_huber(predicted, target)
    for row in range(3):
        total = 0.0
        for i, j in itertools.product(range(4), range(5)):
            u = float(target[row, j] - predicted[row, i])
            huber = u * u / 2 if abs(u) <= 1 else abs(u) - 0.5
            total += abs((i + 0.5) / 4 - (u < 0)) * huber / 5
        assert abs(float(loss[row]) - total) < 1e-12
    inputs = predicted.requires_grad_(), target.requires_grad_()
    assert torch.autograd.gradcheck(_QuantileHuber.apply, inputs)


def test_quantiles_are_learned() -> None:
    sample = draw(1000)
    quantiles = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([quantiles], lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        (10 * quantile_huber(100 * quantiles, 100 * sample)).backward()
        optimizer.step()
    # Far beyond Huber's threshold the loss is that of plain quantile regression.
    exact = torch.quantile(sample, torch.tensor([0.125, 0.375, 0.625, 0.875]).double())
    torch.testing.assert_close(quantiles.detach(), exact, rtol=0, atol=0.06)


@pytest.mark.parametrize("formulation", ["u", "v"])
@pytest.mark.parametrize("lambda_", [0.0, 0.6, 1.0])
def test_targets_are_their_recursion(formulation: str, lambda_: float) -> None:
    returns, bootstrap = draw(6, 2, 3, 2), draw(5, 2, 3, 2, 4, seed=1)
    gamma = discounts(2, 3, 2)
    result = targets(formulation, returns, bootstrap, gamma, lambda_)
    following, g = bootstrap[-1], gamma[..., None]
    for t in reversed(range(5)):
        f = returns[t + 1 if formulation == "u" else t][..., None]
        mixed = bootstrap[t] if t == 4 else (1 - lambda_) * bootstrap[t] + lambda_ * following
        following = (1 - g) * f + g * mixed
        torch.testing.assert_close(result[t], following)


# What followers do


@pytest.mark.parametrize("formulation", ["u", "v"])
def test_each_player_follows_its_own_value(formulation: str) -> None:
    net, game = network(), MatrixGame()
    x, gamma = draw(2, 3, 2, 5), discounts(2, 3, 2)
    flips = 1 - 2 * (discounts(2, 3, 2, 8) < 0.3).double()
    result = meta_gradient(net, game, x, gamma, formulation, flips)
    for player in (0, 1):
        own = x.clone().requires_grad_()
        value = net(game.features(own), gamma, flips).mean(-1)
        if formulation == "u":
            value = (1 - gamma) * game.value(own) + gamma * value
        (slope,) = torch.autograd.grad(value[..., player].sum(), own)
        torch.testing.assert_close(result[..., player, :], slope[..., player, :])


def test_without_a_future_followers_are_naive() -> None:
    game, x = MatrixGame("chicken"), draw(2, 3, 2, 5)
    result = meta_gradient(network(), game, x, torch.zeros(2, 3, 2, dtype=torch.float64))
    torch.testing.assert_close(result, simultaneous_gradient(game, x))


def test_the_network_knows_no_seats_until_it_learns_to() -> None:
    x, gamma = draw(2, 3, 2, 5), discounts(2, 3, 2)
    for shared in (True, False):
        net = network(shared_seats=shared)
        torch.testing.assert_close(net(x.flip(2), gamma.flip(2)), net(x, gamma).flip(2))
    assert net.seat_scale.requires_grad
    net.seat_scale.data[:, :, 1] = 2.0
    assert not torch.allclose(net(x.flip(2), gamma.flip(2)), net(x, gamma).flip(2))


def test_models_are_strangers() -> None:
    net, x, gamma = network(), draw(2, 3, 2, 5), discounts(2, 3, 2)
    out = net(x, gamma)
    out[0].sum().backward()
    for parameter in net.parameters():
        assert parameter.grad is None or bool((parameter.grad[1] == 0).all())
    alone = network(models=1)
    state = {name: value[:1] for name, value in net.state_dict().items()}
    alone.load_state_dict(state)
    torch.testing.assert_close(alone(x[:1], gamma[:1]), out[:1])
    assert not torch.equal(net.policy.weight[0], net.policy.weight[1])


@pytest.mark.parametrize(
    ("opponent", "flags", "imagined"),
    [
        ("naive", (), 25.0),
        ("lola", (), 25.0),
        ("lola", ("--opponent-alpha", 3), 3.0),
        ("lola-taylor", ("--blocks", 0, "--trajectory", 300), 25.0),
        ("lola-taylor-full", ("--opponent-alpha", 0), 0.0),
        ("hola2", (), 25.0),
    ],
)
def test_the_opponent_learns_by_its_own_rule(
    opponent: str, flags: tuple[object, ...], imagined: float
) -> None:
    learner = agent("--opponent", opponent, *flags)
    x = learner.game.draw(6, torch.Generator().manual_seed(0)).unsqueeze(0)
    theirs = rules.rule(opponent, imagined)(learner.game, x, 1)
    torch.testing.assert_close(learner.direction(x)[..., 1, :], theirs)
    moved = learner.learn_policies(x, 1)
    torch.testing.assert_close(moved[..., 1, :], x[..., 1, :] + 25 * theirs)


# Training


def test_target_network_follows_slowly_and_gets_no_gradient() -> None:
    learner = agent("--trajectory", 10, "--target-rate", 0.25)
    before = learner.target.out.weight.clone()
    learner.iterate()
    expected = 0.75 * before + 0.25 * learner.network.out.weight
    torch.testing.assert_close(learner.target.out.weight, expected.detach())
    assert all(p.grad is None for p in learner.target.parameters())


@pytest.mark.parametrize(
    "flags",
    [
        ("--opponent", "naive"),
        ("--opponent", "lola"),
        ("--formulation", "v"),
        ("--flip-probability", "0"),
        ("--target-rate", "1"),
        ("--td-lambda", "0"),
        ("--quantiles", "1"),
        ("--no-variable-gamma",),
        ("--trajectory", "0"),
        ("--models", "3"),
        ("--full-gradient", "--td-lambda", "0", "--target-rate", "1"),
    ],
)
def test_every_switch_learns_reproducibly_and_resumes(flags: tuple[str, ...]) -> None:
    small = [word for word in SMALL if "--quantiles" not in flags or word not in SMALL[2:4]]
    words = ("--trajectory", 10, "--stride", 5, *flags, *small)
    first, second = (agent(*words, small=False) for _ in range(2))
    for learner in (first, second):
        start = learner.network.out.weight.clone()
        one = learner.iterate()
        assert not torch.equal(start, learner.network.out.weight)
    assert first.progress.steps > 0
    third = agent(*words, small=False)
    parts.load(third, copy.deepcopy(parts.state(first)))
    scalars = [
        {key: float(v) for key, v in learner.iterate().items()} for learner in (first, second)
    ]
    assert scalars[0] == scalars[1] == {k: float(v) for k, v in third.iterate().items()}
    for name, parameter in parts.learned(first).items():
        assert torch.equal(parameter, parts.learned(third)[name])
        assert torch.isfinite(parameter).all()
    assert all(torch.isfinite(value) for value in one.values())


class Hill:
    """f = −x²/2 for each player alone: the meta-value is −c x²/2, c = (1−γ) + γ c (1 − α c)²."""

    parameters, symmetric = 1, True

    def value(self, x: Tensor) -> Tensor:
        return -(x.squeeze(-1) ** 2) / 2

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        return 4 * torch.rand(count, 2, 1, generator=generator, dtype=torch.float64) - 2

    def features(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.slow
def test_curvature_of_a_learned_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semigradient.agents.games.meva.game_behind", lambda envs: Hill())
    logistic = "semigradient/LogisticGame-v0"
    flags = ("--width", 32, "--blocks", 0, "--quantiles", 1, "--batch-size", 64, "--stride", 10)
    flags += ("--optim.lr", "3e-3", "--threads", 1)
    learner = agent(*flags, env=logistic, small=False)
    for _ in range(600):
        learner.iterate()
    x = torch.linspace(-1.5, 1.5, 31, dtype=torch.float64).view(1, 31, 1, 1).expand(1, 31, 2, 1)
    for gamma, curvature in ((0.5, 0.554958), (0.9, 0.220608)):
        slope = learner.direction(x, gamma)[0, :, 0, 0]
        at = x[0, :, 0, 0]
        fitted = float(-(slope @ at) / (at @ at))
        assert abs(fitted - curvature) < 0.1 * curvature, (gamma, fitted)


# COLA


def test_both_sides_of_the_consistent_equation() -> None:
    game, net = LogisticGame(), MetaValueNetwork(1, 1, 1, 8, shared_seats=True).double()
    x, alpha, h = 3 * draw(1, 4, 2, 1), 10 * discounts(1, 4), 1e-6

    def g(at: Tensor) -> Tensor:
        return net(game.features(at), (alpha / 10).unsqueeze(-1).expand(1, 4, 2))

    def surrogate(at: Tensor, player: int) -> Tensor:
        moved = at.clone()
        moved[..., 1 - player, :] += alpha[..., None] * g(at)[..., 1 - player, :]
        return game.value(moved)[..., player]

    # The network takes single precision in training; here it is exact.
    net.forward = lambda f, s, _forward=net.forward: _forward(f.double(), s.double())  # type: ignore[method-assign, assignment]
    left, right = consistency(net, game, x, alpha, 10.0)
    torch.testing.assert_close(left, g(x), rtol=1e-5, atol=1e-6)
    for player in (0, 1):
        step = torch.zeros_like(x)
        step[..., player, :] = h
        slope = (surrogate(x + step, player) - surrogate(x - step, player)) / (2 * h)
        torch.testing.assert_close(right[..., player, 0], slope, rtol=1e-4, atol=1e-5)
    _, naive = consistency(net, game, x, 0 * alpha, 10.0)
    torch.testing.assert_close(naive, simultaneous_gradient(game, x))


def test_cola_learns_and_resumes() -> None:
    flags = ("--width", 16, "--blocks", 0, "--batch-size", 32, "--threads", 1)
    logistic = "semigradient/LogisticGame-v0"
    first = agent(*flags, env=logistic, name="cola", small=False)
    losses = [float(first.iterate()["loss"]) for _ in range(80)]
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])
    second = agent(*flags, env=logistic, name="cola", small=False)
    assert isinstance(second, COLA)
    parts.load(second, copy.deepcopy(parts.state(first)))
    assert float(first.iterate()["loss"]) == float(second.iterate()["loss"])


# Learning rules as agents, and the command line


@pytest.mark.parametrize("name", ["naive", "lookahead", "lola", "lola-taylor", "hola2"])
def test_rules_as_agents(name: str) -> None:
    learner = agent("--pairs", 16, name=name, small=False)
    start = learner.x.clone()
    rule = rules.rule(name, 25.0)
    expected = rules.learn(learner.game, start, (rule, rule), 25.0, 2)
    learner.iterate()
    second = agent("--pairs", 16, name=name, small=False)
    parts.load(second, parts.state(learner))
    for trained in (learner, second):
        trained.iterate()
        torch.testing.assert_close(trained.x, expected)
    assert second.progress.steps == 32


def test_a_still_opponent_is_answered() -> None:
    learner = agent("--opponent", "still", "--pairs", 32, name="naive", small=False)
    theirs = learner.x[:, 1].clone()
    before = learner.game.value(learner.x)[:, 0]
    for _ in range(50):
        learner.iterate()
    torch.testing.assert_close(learner.x[:, 1], theirs)
    assert bool((learner.game.value(learner.x)[:, 0] > before).all())


def test_one_command(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--steps", 80, "--trajectory", 10, "--evaluation-updates", 3, "--eval-episodes", 4)
    words = ("--agent", "meva", "--env", IPD, *SMALL, *flags, "--run-dir", tmp_path / "run")
    assert train([*map(str, words), *QUIET]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["steps"] == 80
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    printed = capsys.readouterr().out
    for name in ("against_naive", "naive_against_it", "against_lola", "against_itself"):
        assert last[f"eval/{name}"] == summary["eval"][name]
        assert f"{name.replace('_', ' ')} {summary['eval'][name]:.2f}" in printed


@pytest.mark.parametrize("env", [IPD, "semigradient/MatchingPennies-v0"])
def test_matches_are_those_of_the_learner_and_its_opponents(env: str) -> None:
    words = ("--models", 2, "--evaluation-updates", 4, "--opponent", "lola", "--opponent-alpha", 3)
    learner = agent(*words, env=env)
    scores, game = learner.further_scores(), learner.game
    assert ("against_itself" in scores) == game.symmetric
    start = game.draw(128, torch.Generator().manual_seed(0))
    for name in ("naive", "lola"):
        x, rule = start, rules.rule(name, 3.0)
        for _ in range(4):
            ours = learner.direction(x.expand(2, -1, -1, -1))[0, :, 0]
            x = x + 25 * torch.stack((ours, rule(game, x, 1)), 1)
        means = game.value(x).mean(0).tolist()
        got = [scores[f"against_{name}"], scores[f"{name}_against_it"]]
        assert got == pytest.approx(means, abs=1e-6)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--agent", "meva", "--env", "CartPole-v1"), "has no exact returns"),
        (("--agent", "lola", "--env", "semigradient/Glimpse-v0"), "has no exact returns"),
        (("--agent", "meva", "--env", IPD, "--gamma", "1"), "gamma=1.0"),
        (("--agent", "meva", "--env", IPD, "--stride", "7"), "multiple of stride=7"),
        (("--agent", "meva", "--env", IPD, "--full-gradient"), "full_gradient=True"),
        (("--agent", "naive", "--env", IPD, "--opponent", "lolla"), "did you mean lola"),
        (("--agent", "naive", "--env", IPD, "--alpha", "3"), "alpha=3.0: neither player imagines"),
        (("--agent", "meva", "--env", IPD, "--opponent", "lolla"), "did you mean lola"),
        (("--agent", "m-fos", "--env", IPD, "--opponent", "still"), "unknown opponent 'still'"),
        (("--agent", "meva", "--env", IPD, "--opponent-alpha", "3"), "opponent_alpha=3.0"),
        (("--agent", "cola", "--env", "semigradient/MatchingPennies-v0"), "seats"),
        (("--agent", "meva", "--env", IPD, "--env-options", "discount=1.0"), "discount=1.0"),
        (("--agent", "meva", "--env", IPD, "--env-options", "opponent=x"), "unknown opponent"),
    ],
)
def test_bad_input_is_one_line(flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build(parse(flags).command)
    assert "\n" not in str(caught.value)


def test_the_agent_is_what_the_registry_says() -> None:
    assert isinstance(agent(), MeVa)
