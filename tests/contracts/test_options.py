"""No option is ignored: another value of any field of an agent's config changes what happens."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semigradient import agents
from semigradient.agents.dqn import DQN
from semigradient.errors import UserError
from semigradient.training import parts
from semigradient.training.build import build
from semigradient.training.cli import parse
from semigradient.training.command import Command
from support import problems  # noqa: F401 -- registers its environments
from support.alternatives import EXCUSED, SITUATIONS, USUAL, Situation, other_value
from support.smallest import agent_words, smallest_words
from support.states import differences

SHOWN = {agents.entry(name).location for name in SITUATIONS}
OTHERS = {agents.entry(name).location: name for name in agents.names()}
NAMES = [*SITUATIONS, *(name for where, name in OTHERS.items() if where not in SHOWN)]
"""Names that have situations of their own, and one of every class that has none."""


def outcome(command: Command, iterations: int) -> dict[str, Any]:
    """What a run logs, what it has learned and how it acts."""
    agent = build(command)
    logged = [{k: float(v) for k, v in agent.iterate().items()} for _ in range(iterations)]
    learned = {name: tensor.detach().clone() for name, tensor in parts.learned(agent).items()}
    return {
        "logged": str(logged),
        "steps": agent.progress.steps,
        "episodes": agent.progress.pop_episodes(),
        "learned": learned,
        "acts": [acts(agent, deterministic) for deterministic in (True, False)],
    }


def acts(agent: Any, deterministic: bool) -> Any:
    """Actions on 32 copies of the first observations, or why there are none."""
    obs, infos = agent.setup.envs.reset()
    mask = infos.get("action_mask")
    many = [None if rows is None else np.repeat(rows, 32, 0) for rows in (obs, mask)]
    try:
        return agent.policy(deterministic)(*many)
    except UserError as problem:
        return str(problem)


def ignored(words: list[str], situation: Situation) -> Iterator[str]:
    """The fields whose other value makes no difference."""
    command = parse([*words, "--threads", "1"]).command
    plain = outcome(command, situation.iterations)
    for name, value in situation.others.items():
        other = other_value(command.agent, name) if value is USUAL else value
        assert other != getattr(command.agent, name), name
        changed = dataclasses.replace(command.agent, **{name: other})
        if not differences(
            plain, outcome(dataclasses.replace(command, agent=changed), situation.iterations)
        ):
            yield name


def smallest(name: str) -> Situation:
    """The smallest run, for the fields that no other situation shows."""
    shown = {*EXCUSED.get(name, {}), *(f for s in SITUATIONS.get(name, []) for f in s.others)}
    fields = [field.name for field in dataclasses.fields(agents.config_class(name))]
    return Situation("", {field: USUAL for field in fields if field not in shown})


@pytest.mark.parametrize("name", NAMES)
def test_no_option_is_ignored(name: str, tmp_path: Path) -> None:
    found = list(ignored(smallest_words(name, tmp_path), smallest(name)))
    for situation in SITUATIONS.get(name, []):
        found += ignored(agent_words((name, situation.flags), tmp_path), situation)
    assert found == []


class Deaf(DQN):
    """Learns with one discount, whatever it is told."""

    def __init__(self, config: Any, setup: Any) -> None:
        super().__init__(dataclasses.replace(config, gamma=0.9), setup)


def test_an_ignored_option_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(agents, "agent_class", lambda name: Deaf)
    situation = next(s for s in SITUATIONS["dqn"] if "gamma" in s.others)
    kept = {name: situation.others[name] for name in ("gamma", "loss")}
    chosen = dataclasses.replace(situation, others=kept)
    assert list(ignored(agent_words(("dqn", situation.flags), tmp_path), chosen)) == ["gamma"]


def test_the_tables_name_agents_and_fields() -> None:
    assert set(SITUATIONS) | set(EXCUSED) <= set(agents.names())
    for name, situations in SITUATIONS.items():
        fields = {field.name for field in dataclasses.fields(agents.config_class(name))}
        shown = [field for situation in situations for field in situation.others]
        shown += EXCUSED.get(name, {})
        assert set(shown) <= fields
        assert len(shown) == len(set(shown)), "a field is shown once"
