"""What learners of learning learn from: whose rewards, which stretch, network and discount."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from semigradient.agents.games.brs import BRS
from semigradient.agents.games.detective import GameRollout
from semigradient.agents.games.m_maml import lifetime_return
from semigradient.agents.games.meva import MeVa
from semigradient.training.build import build
from semigradient.training.cli import parse


def make(name: str, env: str, flags: str = "") -> Any:
    words = f"--agent {name} --env semigradient/{env}-v0 --threads 1 {flags}"
    return build(parse(words.split()).command)


# Meta-values


def meva(flags: str = "") -> MeVa:
    small = "--width 64 --quantiles 3 --batch-size 32 --trajectory 6 --stride 3"
    return make("meva", "IPD", f"{small} {flags}")


def watched(learner: MeVa) -> tuple[list[tuple[Tensor, ...]], list[tuple[Tensor, ...]]]:
    """What an iteration follows, as (start, discounts, flips, visited), and learns from."""
    followed: list[tuple[Any, ...]] = []
    learned: list[tuple[Any, ...]] = []
    follow, learn = learner._follow, learner._learn

    def spy(x: Tensor, gamma: Tensor, flips: Tensor | None = None) -> Tensor:
        visited = follow(x, gamma, flips)
        followed.append((x, gamma, flips, visited))
        return visited

    def spy_on_learning(visited: Tensor, gamma: Tensor) -> Tensor:
        learned.append((visited, gamma))
        return learn(visited, gamma)

    learner._follow, learner._learn = spy, spy_on_learning  # type: ignore[method-assign]
    learner.iterate()
    return followed, learned


def test_exploration_flips_signs_and_learning_is_from_what_follows_without() -> None:
    followed, learned = watched(meva("--flip-probability 0.25"))
    explored, stretches = followed[::2], followed[1::2]
    assert len(explored) == len(stretches) == len(learned) == 2
    for _, _, flips, _ in explored:
        assert set(flips.unique().tolist()) == {-1.0, 1.0}
        assert (flips < 0).float().mean().item() == pytest.approx(0.25, abs=0.05)
        assert torch.equal(flips, explored[0][2])  # one draw for the whole trajectory
    for before, stretch, (visited, gamma) in zip(explored, stretches, learned, strict=True):
        assert stretch[2] is None
        assert torch.equal(stretch[0], before[3][-1])
        assert visited is stretch[3]
        assert gamma is stretch[1]
        assert not torch.equal(gamma, before[1])
    assert torch.equal(explored[1][0], explored[0][3][-1])  # and not from where learning led


def test_flips_change_where_exploration_goes() -> None:
    learner = meva()
    x, gamma = learner._initial(), learner._discounts()
    flips = learner._flips()
    assert not torch.equal(learner._follow(x, gamma, flips), learner._follow(x, gamma))


def test_values_are_bootstrapped_from_the_target_network() -> None:
    learner, used = meva(), []
    values = learner._values

    def spy(network: Any, visited: Tensor, gamma: Tensor) -> Tensor:
        used.append((network, len(visited)))
        return values(network, visited, gamma)

    learner._values = spy  # type: ignore[method-assign]
    learner.iterate()
    assert learner.target is not learner.network
    assert used[:2] == [(learner.target, 3), (learner.network, 3)]
    x = learner._initial()
    gamma = torch.full(x.shape[:-1], learner.config.gamma, dtype=x.dtype)
    torch.testing.assert_close(
        learner.direction(x), learner._direction(learner.target, x, gamma), rtol=0, atol=0
    )


def test_discounts_are_of_the_arcsine_distribution() -> None:
    drawn = meva("--batch-size 4000")._discounts()
    for limit in (0.05, 0.25, 0.5, 0.95):
        share = (drawn < limit).double().mean().item()
        exact = 2 / math.pi * math.asin(math.sqrt(limit))
        assert share == pytest.approx(exact, abs=0.02), limit


# Best response shaping


def brs(flags: str = "") -> BRS:
    small = "--num-envs 4 --env-options horizon=3 --hidden 4 --question-samples 2"
    return make("brs", "CoinGame", f"{small} --optim.lr 0.1 --lr-detective 0.1 {flags}")


def bandit(vector: Tensor, seat: int, rewarded: tuple[float, float]) -> GameRollout:
    """One step of four games in which `seat` tosses a coin weighted by the vector's first entry.

    Heads earn `rewarded`, tails nothing; the other seat does nothing.
    """
    heads = torch.tensor([1.0, 1.0, 0.0, 0.0])
    log_prob = torch.nn.functional.logsigmoid(vector[0, 0] * (2 * heads - 1))
    log_probs = torch.zeros(1, 4, 2)
    log_probs[0, :, seat] = log_prob
    nothing = torch.zeros(1, 4, 2) + 0 * vector.sum()
    rewards = (heads[:, None] * torch.tensor(rewarded))[None]
    return GameRollout(log_probs, nothing, nothing, rewards, torch.zeros(1, 4, 2).long())


@pytest.mark.parametrize("earned", [1.0, -1.0])
def test_the_detective_learns_from_its_own_reward(earned: float) -> None:
    learner = brs("--detective-entropy-coefficient 0")
    before = learner.detective[0, 0].item()
    learner._play = lambda agents, detective: bandit(detective, 1, (-earned, earned))  # type: ignore[method-assign]
    learner._teach_detective()
    assert (learner.detective[0, 0].item() - before) * earned > 0.05


@pytest.mark.parametrize("earned", [1.0, -1.0])
def test_the_agent_makes_the_detective_do_what_pays_the_agent(earned: float) -> None:
    learner = brs("--entropy-coefficient 0")
    before = learner.agent[0, 0].item()
    # The agent's own action does not depend on it here, the detective's does.
    learner._play = lambda agents, detective: bandit(agents, 1, (earned, -earned))  # type: ignore[method-assign]
    learner._teach_agent()
    assert (learner.agent[0, 0].item() - before) * earned > 0.05


def test_past_agents_are_met_with_noise() -> None:
    learner = brs("--noise 0.3")
    met: list[Tensor] = []
    play = learner._play

    def spy(agents: Tensor, detective: Tensor) -> GameRollout:
        met.append(agents)
        return play(agents, detective)

    learner._play = spy  # type: ignore[method-assign]
    learner._teach_detective()
    (agents,) = met
    noise = agents - learner.past[0]
    assert len(agents) == 4
    assert noise.std().item() == pytest.approx(0.3, rel=0.1)
    assert noise.mean().abs().item() < 0.05


# M-MAML


@pytest.mark.parametrize("seat", [0, 1])
def test_maml_maximises_its_own_return(seat: int) -> None:
    # In matching pennies what one wins the other loses.
    name = ("first", "second")[seat]
    learner = make(
        "m-maml",
        "MatchingPennies",
        f"--seat {name} --batch-size 16 --updates 4 --alpha 1 --models 2 --optim.lr 0.1",
    )
    random = torch.Generator().manual_seed(1)
    met = torch.randn(2, 32, 5, generator=random, dtype=torch.float64)

    def worth() -> Tensor:
        start, rate = learner.start.detach(), learner.rate.detach()
        return lifetime_return(learner.game, start, rate, met, 1.0, 4, seat)[..., seat].mean(1)

    before = worth()
    for _ in range(16):
        learner.iterate()
    assert (worth() > before + 0.005).all()
