"""One network for a range of exponents: exact distributions at each, log Z as a function of β."""

from __future__ import annotations

import pytest
import torch

from semigradient.domains.flows.estimates import policy_table
from semigradient.envs.constructions.hypergrid_rewards import REWARDS
from semigradient.errors import UserError
from semigradient.nets.flow_network import ConditionalFlowNetwork, FlowNetwork
from support.flow_agents import make

RANGE = ("--exponent-range", 1, 3)
SMALL = ("--hidden", "64", "64", "--batch-size", "32", "--optim.lr", "5e-3", "--exact-every", "0")
GRID = ("height=5", "reward=uniform", "r2=3", "rule=exit_only")


@pytest.mark.parametrize("loss", ["tb", "fm"])
def test_every_condition_has_its_own_exact_distribution(loss: str) -> None:
    agent = make(
        *SMALL, *RANGE, "--loss", loss, "--steps", 80_000, "--schedule", "linear", env=GRID
    )
    while agent.progress.steps < 80_000:
        agent.iterate()
    table = agent.table
    assert table is not None
    for beta in (1.0, 1.4, 2.3, 3.0):
        with agent.at(beta):
            law = table.reach(policy_table(table, agent.network))[1]
            log_z = float(agent.log_z_estimate())
        wrong = 4 - beta
        assert float((law - table.distribution(beta)).abs().sum() / 2) < 0.06
        assert float((law - table.distribution(wrong)).abs().sum() / 2) > 0.04
        assert log_z == pytest.approx(table.log_partition(beta), abs=0.1)
    figures = agent.evaluate()
    assert figures["tv"] == pytest.approx(sum(figures[f"tv_{b}"] for b in (1, 2, 3)) / 3)
    found = agent.sample(50, condition=3.0)
    assert torch.allclose(found.log_reward, 3 * table.log_reward(found.states))
    assert found.figures["tv"] == pytest.approx(figures["tv_3"])


def test_every_preference_has_its_own_exact_distribution() -> None:
    grid = ("height=4", "reward=uniform", "second=coprime", "rule=exit_only", "preference=0.25")
    flags = ("--preferences", "--loss", "tb", "--steps", 60_000, "--schedule", "linear")
    agent = make(*SMALL, *flags, env=grid)
    while agent.progress.steps < 60_000:
        agent.iterate()
    table, cells = agent.table, agent.source.cells(torch.arange(16))
    assert table is not None
    one, other = (REWARDS[name](cells, agent.source.land).log() for name in ("uniform", "coprime"))
    for weight in (0.0, 0.3, 0.8, 1.0):
        wanted = ((1 - weight) * one + weight * other).softmax(0)
        with agent.at(weight):
            assert torch.allclose(table.distribution(), wanted)
            law = table.reach(policy_table(table, agent.network))[1]
            log_z = float(agent.log_z_estimate())
        assert float((law - wanted).abs().sum() / 2) < 0.05
        total = float(((1 - weight) * one + weight * other).logsumexp(0))
        assert log_z == pytest.approx(total, abs=0.1)
    found = agent.sample(40)  # at the environment's own preference
    own = 0.75 * one + 0.25 * other
    assert torch.allclose(found.log_reward, own[found.states])
    assert {"tv_0", "tv_0.5", "tv_1"} <= agent.evaluate().keys()


def test_a_thermometer_fills_cell_by_cell() -> None:
    network = ConditionalFlowNetwork(
        1.0, 5.0, lambda width: FlowNetwork(width, 3, 0, False, (4,), "tanh"), 6
    )
    network.condition = 1.0
    assert network.thermometer(torch.device("cpu")).tolist() == [0] * 8
    network.condition = 2.25
    assert network.thermometer(torch.device("cpu")).tolist() == [1, 1, 0.5, 0, 0, 0, 0, 0]
    with torch.no_grad():
        network.log_z_values.copy_(torch.arange(9.0))
    assert network.log_z(torch.tensor(0.5)).item() == 0.5 + (2 + 3) / 2
    assert network(torch.zeros(2, 6)).forward.shape == (2, 3)


def test_every_batch_has_a_condition_of_its_own() -> None:
    agent = make(*SMALL, *RANGE, "--loss", "tb", "--reward-exponent", 2, env=GRID)
    met = []
    for _ in range(30):
        agent.iterate()
        met.append(agent.reward_exponent)
    assert 1 <= min(met) < 1.5
    assert 2.5 < max(met) <= 3
    act = agent.policy(True)
    obs = agent.rules.features(torch.tensor([0])).numpy()
    act(obs)
    assert agent.reward_exponent == met[-1]  # what evaluation looks at changes nothing


def test_bad_input_is_one_line() -> None:
    with pytest.raises(
        UserError, match=r"exponent_range=\(3.0, 1.0\): must be two numbers, 0 < low"
    ):
        make("--exponent-range", 3, 1)
    with pytest.raises(UserError, match=r"exponent_range=\(1.0,\): must be two numbers"):
        make("--exponent-range", 1)
    with pytest.raises(
        UserError, match=r"reward_exponent=1.0: must be in exponent_range=\(2.0, 4.0"
    ):
        make("--exponent-range", 2, 4)
    with pytest.raises(UserError, match="preferences=True: needs two objectives"):
        make("--preferences")
    with pytest.raises(UserError, match="preferences=True: one condition at a time"):
        make("--preferences", *RANGE, env=("second=sparse",))
    with pytest.raises(UserError, match=r"preference=0.3: acts only with second='corners' or"):
        make(env=("preference=0.3",))
    with pytest.raises(UserError, match=r"unknown second 'corner': did you mean corners"):
        make(env=("second=corner",))
    with pytest.raises(UserError, match="condition=4: is not learned; accepted: 1 to 3"):
        make(*SMALL, *RANGE).sample(3, condition=4)
    with pytest.raises(UserError, match="condition=2: is not learned; accepted: 1"):
        make(*SMALL).sample(3, condition=2)
