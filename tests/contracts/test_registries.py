"""What every config, optimizer and preset keeps."""

from __future__ import annotations

import copy
import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from semigradient import agents, optim
from semigradient.optim.temporal_difference import TemporalDifference, wants_temporal_difference
from semigradient.training import checkpoint, parts
from semigradient.training.command import RunConfig
from semigradient.training.config_files import PRESETS
from support.reading import unread
from support.states import differences

MODULES = {agents.entry(name).module: name for name in agents.names()}
PACKAGE = ["semigradient.commands", "semigradient.training.loop"]


@pytest.mark.parametrize("module", MODULES)
def test_every_field_of_an_agent_s_config_is_read(module: str) -> None:
    assert unread(agents.config_class(MODULES[module]), module) == []


@pytest.mark.parametrize("name", optim.names())
def test_every_field_of_an_optimizer_s_config_is_read(name: str) -> None:
    assert unread(optim.config_class(name), "semigradient.optim.configs") == []


def test_every_field_of_a_run_is_read() -> None:
    assert set.intersection(*(set(unread(RunConfig, module)) for module in PACKAGE)) == set()


def test_a_field_that_nothing_reads_is_found() -> None:
    for module, config in (
        ("semigradient.agents.dqn", agents.config_class("dqn")),
        ("semigradient.optim.configs", optim.config_class("adam")),
    ):
        fields = [("idle", float, dataclasses.field(default=0.0))]
        wider = dataclasses.make_dataclass("Config", fields, bases=(config,), frozen=True)
        assert unread(wider, module) == ["idle"]


class Learner:
    """A value that is learned by one optimizer, as an agent's parts."""

    STATE = ("network", "optimizer")

    def __init__(self, name: str, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        config: Any = optim.config_class(name)()
        self.optimizer: Any = optim.make(config, self.network.parameters())

    def learn(self, steps: range) -> None:
        """Fit numbers that a step's own generator draws."""
        for step in steps:
            random = torch.Generator().manual_seed(step)
            inputs, target = torch.randn(5, 3, generator=random), torch.ones(5)
            self.optimizer.zero_grad()
            (0.5 * (self.network(inputs)[:, 0] - target) ** 2).mean().backward()
            if wants_temporal_difference(self.optimizer):
                samples = {"inputs": inputs}
                found = TemporalDifference(self.network, samples, _value, target=target)
                self.optimizer.observe(found)
            self.optimizer.step()


def _value(call: Any, sample: Any) -> Tensor:
    return call(sample["inputs"]).squeeze(-1)


@pytest.mark.parametrize("name", optim.names())
def test_a_saved_optimizer_continues_bit_for_bit(name: str, tmp_path: Path) -> None:
    learner, other = Learner(name), Learner(name, seed=1)
    start = copy.deepcopy(parts.state(learner))
    learner.learn(range(6))
    assert differences(start["network"], parts.state(learner)["network"])
    checkpoint.save(tmp_path, 6, parts.state(learner), {})
    parts.load(other, checkpoint.load(tmp_path, {}).state)
    assert differences(parts.state(learner), parts.state(other)) == []
    for each in (learner, other):
        each.learn(range(6, 12))
    assert differences(parts.state(learner), parts.state(other)) == []


def test_every_preset_is_of_a_registered_agent() -> None:
    files = {agents.entry(name).preset or name for name in agents.names()}
    assert {path.stem for path in PRESETS.glob("*.toml")} == files


@pytest.mark.parametrize("agent", agents.names())
def test_every_preset_names_real_fields(agent: str) -> None:
    path = PRESETS / f"{agents.entry(agent).preset or agent}.toml"
    known = _fields(agents.config_class(agent)) | _fields(RunConfig)
    for pattern, table in tomllib.loads(path.read_text()).items():
        optimizers = table.pop("optimizers", {})
        assert table.keys() <= known, pattern
        for name, values in optimizers.items():
            assert values.keys() <= _fields(optim.config_class(name)), pattern


def _fields(config: type) -> set[str]:
    return {field.name for field in dataclasses.fields(config)}
