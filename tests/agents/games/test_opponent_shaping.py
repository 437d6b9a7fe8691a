"""M-MAML's derivatives against finite differences, M-FOS against a game solved by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from semigradient.agents.games import lola_dice, tree_search
from semigradient.agents.games.m_fos import MFOS, log_density
from semigradient.agents.games.m_maml import MMAML, lifetime_return
from semigradient.agents.ppo import policy_loss
from semigradient.domains.games.head_to_head import contest, follower
from semigradient.domains.games.rules import learn, rule
from semigradient.envs.games.matrix_games import MatrixGame
from semigradient.errors import UserError
from semigradient.reproductions.games import meva_baselines
from semigradient.reproductions.report import Job, prepare, write
from semigradient.training.agent import generator
from semigradient.training.build import build
from semigradient.training.cli import parse

RULE = rule("naive", 0.0)


def make(agent: str, *flags: str, env: str = "semigradient/IPD-v0", preset: bool = True) -> Any:
    words = ["--agent", agent, "--env", env, *flags]
    return build(parse(words if preset else [*words, "--preset", "none"]).command)


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("seat", [0, 1])
def test_a_lifetime_is_that_of_two_naive_learners(seat: int) -> None:
    game, start, others = MatrixGame("matching-pennies"), numbers(2, 5), numbers(2, 3, 5) / 2
    returns = lifetime_return(game, start, torch.full((2,), 2.5).double(), others, 2.5, 3, seat)
    own = start[:, None].expand_as(others)
    x = torch.stack((own, others) if seat == 0 else (others, own), -2)
    values = [game.value(x := learn(game, x, (RULE, RULE), 2.5, 1)) for _ in range(3)]
    torch.testing.assert_close(returns, torch.stack(values).mean(0))


@pytest.mark.parametrize("seat", [0, 1])
def test_the_derivative_through_a_lifetime(seat: int) -> None:
    game, others = MatrixGame(), numbers(1, 2, 5)[:, :, [1, 0, 2, 3, 4]]

    def value(start: Tensor, rate: Tensor) -> Tensor:
        return lifetime_return(game, start, rate, others, 25.0, 4, seat)[..., seat].mean()

    inputs = (numbers(1, 5).requires_grad_(), torch.tensor([7.0]).double().requires_grad_())
    assert torch.autograd.gradcheck(value, inputs)
    # What the other learns depends on the start: held fixed, the derivative is another one.
    (gradient,) = torch.autograd.grad(value(*inputs), inputs[0])
    (alone,) = torch.autograd.grad(
        game.value(torch.stack((inputs[0], others[:, 0]), -2))[0, 0], inputs[0]
    )
    assert (gradient - alone).abs().max() > 0.01


def test_maml_learns_to_start_where_naive_learning_ends_well() -> None:
    small = ("--batch-size", "8", "--updates", "15", "--models", "2", "--alpha", "1")
    agent = make("m-maml", *small, env="semigradient/Chicken-v0")
    assert isinstance(agent, MMAML)
    met = numbers(2, 32, 5)

    def worth() -> Tensor:
        rates = agent.rate.detach()
        returns = lifetime_return(agent.game, agent.start.detach(), rates, met, 1.0, 15, 0)
        return returns[..., 0].mean(1)

    before = worth()
    for _ in range(12):
        agent.iterate()
    assert agent.progress.steps == 12 * 8 * 15
    assert (worth() > before + 0.05).all()
    # The contestant starts where the agent says, and moves at its own step size.
    x = agent.game.draw(4, torch.Generator().manual_seed(0))
    mine, other = agent.contestant(1), follower(RULE, 2.0)
    start, rate = agent.start[1].detach(), agent.rate[1].detach()
    moved = contest(agent.game, (mine, other), x, 1)
    first = torch.stack((start.expand(4, -1), x[:, 1]), 1)
    torch.testing.assert_close(moved[:, 0], start + rate * RULE(agent.game, first, 0))
    torch.testing.assert_close(moved[:, 1], x[:, 1] + 2 * RULE(agent.game, first, 1))


@pytest.mark.parametrize("env", ["IPD-v0", "MatchingPennies-v0"])
@pytest.mark.parametrize(
    ("agent", "flags"),
    [
        ("m-fos", ("--opponent", "naive")),
        ("m-fos", ("--opponent", "self")),
        ("m-fos", ("--opponent", "lola-taylor-full")),
        ("m-maml", ()),
        ("m-maml", ("--seat", "second")),
    ],
)
def test_matches_of_trained_learners(agent: str, flags: tuple[str, ...], env: str) -> None:
    words = ("--batch-size", "8", "--updates", "2", "--evaluation-updates", "3", "--models", "2")
    learner = make(agent, *words, *flags, env=f"semigradient/{env}")
    learner.iterate()
    scores = learner.further_scores()
    alike = env == "IPD-v0" and "naive" not in flags and "lola-taylor-full" not in flags
    assert ("against_itself" in scores) == alike
    for name in ("naive", "lola"):
        ours, theirs = scores[f"against_{name}"], scores[f"{name}_against_it"]
        if env != "IPD-v0":
            assert ours == pytest.approx(-theirs)
    game, seat = learner.game, getattr(learner, "seat", 0)
    alpha = learner.config.alpha
    pair = (learner.contestant(), follower(rule("naive", 0.0), alpha))
    start = game.draw(128, torch.Generator().manual_seed(0))
    ends = game.value(contest(game, pair if seat == 0 else pair[::-1], start, 3)).mean(0)
    assert scores["against_naive"] == pytest.approx(ends[seat].item(), abs=1e-6)


def test_a_learner_of_the_second_seat_plays_what_it_learned_there() -> None:
    words = ("--batch-size", "4", "--updates", "2", "--evaluation-updates", "3", "--seat", "second")
    learner = make("m-maml", *words, env="semigradient/IPD-v0")
    learner.iterate()
    naive = follower(rule("naive", 0.0), learner.config.alpha)
    start = learner.game.draw(1, generator(learner.setup.seed, 3))
    x = contest(learner.game, (naive, learner.contestant()), start, 3)
    likely = learner.game.features(x[0, 1]) > 0.5
    answers = learner.policy(deterministic=True)(np.eye(5, dtype=np.float32))
    assert answers.tolist() == (~likely).long().tolist()


def test_densities_are_those_of_a_normal_distribution() -> None:
    mean, variance, action = numbers(7, 3), numbers(7, 3).exp(), numbers(7, 3) * 2
    normal = torch.distributions.Normal(mean, variance.sqrt())
    torch.testing.assert_close(log_density(mean, variance, action), normal.log_prob(action).sum(-1))


def test_the_first_step_follows_the_gradient_of_the_expectation() -> None:
    # E[-(a - 2)²/2] under N(m, s) has the slopes 2 - m and -1/2.
    mean, variance = torch.tensor([0.5]).requires_grad_(), torch.tensor([0.8]).requires_grad_()
    noise = torch.randn(400_000, 1, generator=torch.Generator().manual_seed(0))
    action = (mean + variance.sqrt() * noise).detach()
    log_prob = log_density(mean, variance, action)
    gain = -(action.squeeze(1) - 2).square() / 2
    loss = policy_loss(log_prob, log_prob.detach(), gain - gain.mean(), torch.tensor(0.2))
    loss.backward()
    assert mean.grad is not None
    assert variance.grad is not None
    assert -mean.grad.item() == pytest.approx(1.5, abs=0.02)
    assert -variance.grad.item() == pytest.approx(-0.5, abs=0.02)


class Following:
    """f₁ = −(x₁ − x₂ / 2)², and the second player has nothing to gain: it stays where it is."""

    parameters, symmetric = 1, False

    def value(self, x: Tensor) -> Tensor:
        first, second = x.squeeze(-1).unbind(-1)
        return torch.stack((-((first - second / 2) ** 2), 0 * second), -1)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.randn(count, 2, 1, generator=generator, dtype=torch.float64)

    def features(self, x: Tensor) -> Tensor:
        return x

    def divergence(self, old: Tensor, new: Tensor) -> Tensor:
        return (new - old).square().sum(-1) / 2


SMALL = ("--batch-size", "64", "--updates", "4", "--width", "16", "--minibatches", "4")


def test_a_meta_policy_learns_the_best_reply() -> None:
    agent = make(
        "m-fos", *SMALL, "--models", "2", "--optim.lr", "3e-3", "--entropy-coefficient", "0.05"
    )
    assert isinstance(agent, MFOS)
    agent.game = Following()
    agent.network = type(agent.network)(2, 1, 16)
    agent.optimizer = agent.setup.make_optimizer(agent.network.parameters())
    for _ in range(30):
        scalars = agent.iterate()
    x = agent.game.draw(400, torch.Generator().manual_seed(1)).expand(2, -1, -1, -1)
    mean, variance = agent.network.distribution(x.flatten(-2).float())
    error = (mean.double() - x[..., 1, :] / 2).square().mean((1, 2)).sqrt()
    assert (error < 0.2).all()  # 0.5 of one who always answers 0
    assert variance.mean() < 0.1
    assert float(scalars["return"]) > -0.2


def test_samples_are_whole_returns_in_units_of_their_spread() -> None:
    agent = make("m-fos", *SMALL, "--models", "2", "--opponent", "self")
    assert isinstance(agent, MFOS)
    reward = numbers(4, 4, 64).float()
    seen, action = numbers(4, 4, 64, 10).float(), numbers(4, 4, 64, 5).float()
    samples = agent._samples({"reward": reward, "seen": seen, "action": action})
    to_go = reward.clone()
    for t in (2, 1, 0):
        to_go[t] += 0.99 * to_go[t + 1]
    for learner in range(4):
        mine = to_go[:, learner].flatten()
        expected = (mine - mine.mean()) / mine.std()
        torch.testing.assert_close(samples["return_"][learner], expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(samples["seen"][1, 64 + 3], seen[1, 1, 3])
    assert torch.equal(samples["action"][2, 5], action[0, 2, 5])


def test_learners_side_by_side_do_not_touch_each_other() -> None:
    agent = make("m-fos", *SMALL, "--models", "2")
    assert isinstance(agent, MFOS)
    data, _ = agent._play()
    data["return_"][1] = 0
    agent._loss(data).backward()
    assert agent.network.actor_in.weight.grad is not None
    before = agent.network.actor_in.weight.grad[0].clone()
    agent.optimizer.zero_grad()
    data["return_"][1] = 5.0
    agent._loss(data).backward()
    assert torch.equal(agent.network.actor_in.weight.grad[0], before)


def test_the_second_seat_sees_its_own_policy_first() -> None:
    agent = make("m-fos", *SMALL, "--opponent", "self")
    assert isinstance(agent, MFOS)
    x = numbers(1, 3, 2, 5)
    mean, variance = agent.network.distribution(
        torch.sigmoid(x.flip(2)).flatten(2).float().repeat(2, 1, 1)
    )
    random = torch.Generator().manual_seed(5)
    policies = agent.act(x, 1, random)
    noise = torch.randn(1, 3, 5, generator=random.manual_seed(5))
    torch.testing.assert_close(policies.float(), mean[1:] + variance[1:].sqrt() * noise)


@pytest.mark.parametrize(
    ("agent", "flags", "message"),
    [
        ("m-maml", ("--updates", "0"), "updates=0"),
        ("m-maml", ("--alpha", "-1"), "alpha=-1"),
        ("m-fos", ("--minibatches", "7"), "minibatches=7"),
        ("m-fos", ("--gamma", "1.5"), "gamma=1.5"),
        ("m-fos", ("--compile",), "compile"),
        ("lola-dice", ("--device", "cuda"), "cuda"),
        ("lola-dice", ("--optim", "corrected-momentum"), "temporal differences"),
        ("brs-ipd", ("--env-options", "horizon=9"), "horizon=9"),
        ("brs-ipd", ("--rounds", "0"), "rounds=0"),
    ],
)
def test_bad_settings_are_refused(agent: str, flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(agent, *flags)
    with pytest.raises(UserError, match="no exact returns"):
        make(agent, env="CartPole-v1", preset=False)


@pytest.mark.parametrize(
    ("agent", "env", "message"),
    [
        ("lola-dice", "LogisticGame-v0", "LogisticGame-v0: is no 2×2 game"),
        ("brs-ipd", "LogisticGame-v0", "LogisticGame-v0: is no 2×2 game"),
        ("brs-sp-ipd", "MatchingPennies-v0", "self_play=1.0: needs a game that is alike"),
        ("lola-dice", "CoinGame-v0", "no exact returns"),
    ],
)
def test_environments_that_do_not_fit_are_named(agent: str, env: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(agent, env=f"semigradient/{env}", preset=False)


def test_the_agents_are_the_learners_of_their_modules() -> None:
    agent = make("lola-dice", "--batch-size", "8", "--env-options", "horizon=5", "--seed", "4")
    learner = lola_dice.LolaDiceLearner(lola_dice.Config(rounds=5, batch_size=8), 1, seed=4)
    rewards = agent.iterate()
    assert [float(value) for value in rewards.values()] == learner.iterate()[0].tolist()
    assert torch.equal(agent.learner.policies, learner.policies)
    assert agent.progress.steps == 5 * 8 * 5
    brs = make("brs-sp-ipd", "--trees", "8", "--seed", "4")
    plain = tree_search.TreeSearchLearner(tree_search.Config(self_play=1.0, trees=8), 1, seed=4)
    assert float(brs.iterate()["return"]) == plain.iterate().item()
    for one, two in zip(brs.learner.parameters, plain.parameters, strict=True):
        assert torch.equal(one, two)
    assert brs.progress.steps == 8 * (63 + 6)


def test_the_baselines_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"m-fos": [*SMALL], "m-maml": ["--batch-size", "2", "--updates", "2"]}
    monkeypatch.setattr(meva_baselines, "_QUICK", small)
    once = {"quick": 1}
    monkeypatch.setattr(meva_baselines, "_ITERATIONS", {"m-fos": once, "m-maml": once})
    monkeypatch.setattr(meva_baselines, "PAIRS", {"quick": 4})
    monkeypatch.setattr(meva_baselines, "UPDATES", 2)
    sizes = []  # by which opponents move, whatever M-MAML was trained at
    plain = meva_baselines.follower
    monkeypatch.setattr(
        meva_baselines, "follower", lambda rule, alpha: sizes.append(alpha) or plain(rule, alpha)
    )
    prepare(tmp_path)
    work = Job("quick", 2, tmp_path, say=lambda text: None)
    answer = meva_baselines.reproduce(work)
    maml = (25.0, 25.0, 1.0)
    fos = (25.0, 2.5, 25.0)
    assert sizes == [x for a, b in zip(fos, maml, strict=True) for x in (a, a, a, a, b, b)]
    assert len(answer.rows) == 3 * 2 * 5
    assert not any(row.required for row in answer.rows)
    by_name = {row.quantity: row.measured for row in answer.rows}
    for learner in ("M-FOS", "M-MAML"):
        one, two = f"{learner} against naive", f"naive against {learner}"
        pair = by_name[f"matching pennies: {one}"], by_name[f"matching pennies: {two}"]
        assert sum(pair) == pytest.approx(0, abs=1e-9)
    write(answer, work, "meva-baselines", meva_baselines.TITLE)
    # What was trained is found again, and plays as before.
    again, _ = meva_baselines.m_fos(work, "IPD", "naive")
    assert again[:, 0].mean() == by_name["IPD: M-FOS against naive"]
