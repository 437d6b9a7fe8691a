"""What every registered agent keeps: nothing that decides its future is outside its state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from semigradient import agents
from semigradient.agents.dqn import DQN
from semigradient.training import checkpoint, parts
from semigradient.training.agent import generator
from semigradient.training.build import build
from semigradient.training.cli import Command, parse
from support.forgotten import forgotten
from support.smallest import AGENT_FLAGS, agent_cases, agent_words, iterations
from support.states import differences


def iterate(agent: Any, count: int) -> list[dict[str, float]]:
    return [{k: float(v) for k, v in agent.iterate().items()} for _ in range(count)]


def moved_on(agent: Any, command: Command, folder: Path) -> list[str]:
    """Save through a file, load into a fresh agent, go on with both: where they then differ.

    Torch's and numpy's global generators differ on purpose: no agent draws from them.
    """
    checkpoint.save(folder, agent.progress.steps, {"agent": parts.state(agent)}, {})
    fresh = build(command)
    torch.manual_seed(12345)
    np.random.seed(12345)
    parts.load(fresh, checkpoint.load(folder, {}).state["agent"])
    assert fresh.progress.exact
    found = differences(parts.state(agent), parts.state(fresh), "loaded")
    count = iterations(command.run.agent)
    for number, pair in enumerate(zip(iterate(agent, count), iterate(fresh, count), strict=True)):
        found += [] if same(*pair) else [f"iteration {number}"]
    found += differences(agent.progress.pop_episodes(), fresh.progress.pop_episodes(), "episodes")
    return found + differences(parts.state(agent), parts.state(fresh), "state")


def same(one: dict[str, float], other: dict[str, float]) -> bool:
    return one.keys() == other.keys() and np.array_equal(
        list(one.values()), list(other.values()), equal_nan=True
    )


@pytest.fixture(scope="module")
def command(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Command:
    folder = tmp_path_factory.mktemp("read")
    words = [*agent_words(request.param, folder), "--steps", "4000", "--threads", "1"]
    return parse(words).command


each_agent = pytest.mark.parametrize(
    "command", agent_cases(), indirect=True, ids=lambda case: case[0]
)


@each_agent
def test_a_saved_agent_continues_bit_for_bit(command: Command, tmp_path: Path) -> None:
    agent = build(command)
    iterate(agent, iterations(command.run.agent))
    assert agent.progress.steps > 0
    assert all(torch.isfinite(tensor).all() for tensor in parts.learned(agent).values())
    if agent.progress.exact:
        assert moved_on(agent, command, tmp_path / "run") == []
    else:
        assert command.run.agent.startswith("sb3-")


@each_agent
def test_every_part_with_a_state_is_named(command: Command) -> None:
    agent = build(command)
    iterate(agent, iterations(command.run.agent) // 4)
    # What never continues exactly begins fresh episodes and does not save its environments.
    fresh = [f"{type(agent).__name__}.bridge.envs"]
    assert forgotten(agent) == ([] if agent.progress.exact else fresh)


@each_agent
def test_a_loaded_policy_acts_like_the_saved_one(command: Command, tmp_path: Path) -> None:
    agent = build(command)
    iterate(agent, iterations(command.run.agent) // 4)
    checkpoint.save(tmp_path / "policy", 0, {"policy": parts.policy_state(agent)}, {})
    other = build(command, learning=False)
    parts.load_policy_state(other, checkpoint.load(tmp_path / "policy", {}).state["policy"])
    envs = agent.setup.envs
    obs, infos = envs.reset()
    acts = [a.policy(True)(obs, infos.get("action_mask")) for a in (agent, other)]
    np.testing.assert_array_equal(*acts)
    assert all(envs.single_action_space.contains(action) for action in acts[0])
    assert differences(parts.policy_state(agent), parts.policy_state(other)) == []


class Forgetful(DQN):
    """Draws minibatches from a generator that its state does not hold."""

    STATE = tuple(name for name in DQN.STATE if name != "sampling")


class Careless(DQN):
    """Has a generator and a list of generators that nobody told of."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.coins = generator(0, 9)
        self.dice = {"two": [np.random.default_rng(0)]}


@pytest.mark.parametrize("command", [("dqn", AGENT_FLAGS["dqn"][0])], indirect=True, ids=["dqn"])
def test_a_forgetful_agent_fails(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "agent_class", lambda name: Forgetful)
    agent = build(command)
    iterate(agent, 12)
    assert forgotten(agent) == ["Forgetful.sampling"]
    assert any(path.startswith("state.network") for path in moved_on(agent, command, tmp_path))
    monkeypatch.setattr(agents, "agent_class", lambda name: Careless)
    assert forgotten(build(command)) == ["Careless.coins", "Careless.dice.two.0"]


def test_the_table_of_smallest_runs_names_registered_agents() -> None:
    assert set(AGENT_FLAGS) <= set(agents.names())
