"""Soft Q-learning and soft actor-critic against closed forms and exact soft optima."""

from __future__ import annotations

import pytest
import torch

from semigradient.agents.soft_q import SoftQ, actor_loss, log_softmax, soft_value, temperature_loss
from semigradient.domains.flows.tabular import soft_optimum
from semigradient.envs.adapters import CoreVector
from semigradient.envs.constructions.building import Building
from semigradient.envs.constructions.construction import Table, tabulate
from semigradient.errors import UserError
from semigradient.training.build import build
from semigradient.training.cli import parse

GRID = "--env semigradient/HyperGrid-v0 --gamma 1"
SMALL = ("height=5", "r0=0.1", "reward=uniform")


def make(agent: str, *flags: object, env: tuple[str, ...] = SMALL) -> SoftQ:
    words = ["--agent", agent, *GRID.split(), *map(str, flags), "--env-options", *env]
    built = build(parse(words).command)
    assert isinstance(built, SoftQ)
    return built


def table_of(agent: SoftQ) -> Table:
    assert isinstance(agent.setup.envs, CoreVector)
    core = agent.setup.envs.core
    assert isinstance(core, Building)
    return tabulate(core.rules)


def test_the_soft_value_of_a_softmax_is_a_log_sum() -> None:
    q = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    legal = torch.tensor([[True, True, False, True]]).expand(5, 4)
    for alpha in (0.3, 1.0, 4.0):
        value = soft_value(q, log_softmax(q / alpha, legal), torch.tensor(alpha))
        want = alpha * (q / alpha).masked_fill(~legal, -torch.inf).logsumexp(1)
        assert torch.allclose(value, want)


def test_the_actor_stands_still_at_the_softmax_and_nowhere_else() -> None:
    q, alpha = torch.tensor([[1.0, -0.5, 2.0]]), torch.tensor(0.7)
    at = (q / alpha).clone().requires_grad_()
    actor_loss(q, log_softmax(at, None), alpha).sum().backward()
    assert at.grad is not None
    assert float(at.grad.abs().max()) < 1e-6
    away = torch.zeros_like(q).requires_grad_()
    actor_loss(q, log_softmax(away, None), alpha).sum().backward()
    assert away.grad is not None
    assert float(away.grad.abs().max()) > 0.1


def test_the_temperature_rises_where_entropy_is_wanted() -> None:
    log_alpha = torch.zeros((), requires_grad=True)
    temperature_loss(log_alpha, torch.tensor([0.2]), torch.tensor([0.5])).sum().backward()
    assert log_alpha.grad is not None
    assert float(log_alpha.grad) == pytest.approx(-0.3)  # descent raises it


@pytest.mark.parametrize("agent", ["soft-q", "sac"])
def test_it_learns_the_exact_soft_optimum(agent: str) -> None:
    flags = (
        "--temperature 0.5 --entropy-share 0 --num-envs 32 --train-every 32 --gradient-steps 2 "
        "--learning-starts 200 --target-rate 0.1 --hidden 64 --optim.lr 1e-2 --steps 6000 "
        "--schedule linear --threads 1"
    )
    learner = make(agent, *flags.split())
    while learner.progress.steps < 6000:
        learner.iterate()
    table = table_of(learner)
    states = torch.arange(table.size)
    log_policy = learner.log_policy(table.features(states).numpy(), table.legal(states).numpy())
    reward = table.log_reward(states).exp()
    exact = table.reach(soft_optimum(table, reward, 0.5))[1]
    blind = table.reach(soft_optimum(table, torch.zeros_like(reward), 0.5))[1]
    gap, wrong = (
        (table.reach(log_policy)[1] - reference).abs().sum() / 2 for reference in (exact, blind)
    )
    assert float(gap) < 0.05
    assert float(wrong) > 0.1


def test_the_temperature_finds_the_wanted_entropy() -> None:
    flags = (
        "--temperature 0.3 --entropy-share 0.5 --num-envs 32 --train-every 32 --gradient-steps 2 "
        "--learning-starts 100 --target-rate 0.1 --hidden 32 --optim.lr 1e-2 --steps 6000"
    )
    learner = make("soft-q", *flags.split())
    entropies: list[float] = []
    while learner.progress.steps < 6000:
        scalars = learner.iterate()
        entropies.append(float(scalars["entropy"]) if "entropy" in scalars else 0.0)
    target = 0.5 * torch.tensor(3.0).log()
    assert sum(entropies[-20:]) / 20 == pytest.approx(float(target), abs=0.12)


def test_bad_input_is_named() -> None:
    with pytest.raises(UserError, match=r"temperature=0\.0: must be positive"):
        make("soft-q", "--temperature", 0)
    with pytest.raises(UserError, match=r"entropy_share=1\.0: must be in"):
        make("sac", "--entropy-share", 1)
    with pytest.raises(UserError, match="soft Q-learning accepts Discrete"):
        build(parse(["--agent", "sac", "--env", "Pendulum-v1"]).command)
