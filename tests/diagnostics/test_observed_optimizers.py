"""Every observer beside every optimizer, and observers that fail in any way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from semigradient import diagnostics, optim
from semigradient.diagnostics import derivatives
from semigradient.diagnostics.attach import Attachment, experience_of
from semigradient.diagnostics.fork import Fork, observed
from semigradient.diagnostics.observer import Findings, Profile
from semigradient.optim.batched import semi_gradient
from semigradient.training.build import build
from semigradient.training.cli import parse
from semigradient.training.logging import Logger

VALUES = "--num-envs 2 --learning-starts 32 --buffer-size 100 --batch-size 4 --train-every 4"
CARTPOLE = "--env CartPole-v1 --preset none --hidden 4"
AGENTS = {
    "dqn": f"--agent dqn {VALUES} --target none",
    "frozen": f"--agent ddqn {VALUES} --target hard --n-step 2",
    "a2c": "--agent a2c --num-envs 2 --rollout-steps 8",
}


def trained(name: str, *flags: str) -> tuple[Any, Any]:
    words = f"{AGENTS[name]} {CARTPOLE} --steps 1000".split()
    command = parse([*words, *flags]).command
    agent = build(command)
    while agent.progress.steps < 64:
        agent.iterate()
    return agent, command


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("optimizer", optim.names())
def test_every_observer_measures_beside_every_optimizer(name, optimizer, capsys) -> None:
    agent, command = trained(
        name, "--optim", optimizer, "--diagnose", "all", "--diagnose-samples", "3"
    )
    attachment = Attachment(command.run, agent)
    findings = attachment._findings(64)
    assert "failed" not in capsys.readouterr().err
    assert list(findings) == list(attachment.observers) == diagnostics.names()
    ratio = findings["staleness"].scalars.get("optimizer_ratio")
    assert (ratio is not None) == optimizer.startswith("corrected")


@pytest.mark.parametrize("name", AGENTS)
def test_a_fork_with_oracle_momentum_goes_the_learners_way(name: str) -> None:
    agent, _ = trained(name, "--optim", "oracle-momentum", "--optim.lr", "0.1")
    experience = experience_of(agent)
    examples = experience.at(torch.arange(4))
    fork = Fork(experience)
    before = fork.values()
    fork.update(examples)
    # The learner's own kept minibatches, and the new one, at the present parameters.
    after = fork.values()
    kept = agent.optimizer.state[next(agent.network.parameters())]["minibatches"]["sizes"]
    mine = fork.optimizer.state[fork.parameters[0]]["minibatches"]["sizes"]
    assert mine == [*kept, 4][-21:]
    assert any(not torch.equal(after[n], value) for n, value in before.items())


@pytest.mark.parametrize("name", AGENTS)
def test_examples_are_shown_with_their_own_gradient(name: str) -> None:
    agent, _ = trained(name)
    examples = experience_of(agent).at(torch.arange(4))
    expected = derivatives.semi_gradient(examples)
    weight = torch.ones(4)
    batches = [observed(examples, weight)]
    batches += [examples.shown(agent.network, examples.samples, weight)] if examples.shown else []
    assert len(batches) == 2
    for batch in batches:
        for key, gradient in semi_gradient(batch).items():
            torch.testing.assert_close(gradient, expected[key], rtol=1e-4, atol=1e-7)


class Broken:
    """An observer that fails at one of the things it is asked for."""

    def __init__(self, where: str) -> None:
        self.where = where

    def measure(self, view: Any) -> Findings:
        if self.where == "measure":
            raise KeyError("nothing")
        if self.where == "number":
            return Findings({"two": torch.zeros(2)})
        if self.where == "profile":
            return Findings({}, {"p": Profile("x", torch.zeros(2), {"c": None})})  # type: ignore[dict-item]
        if self.where == "kind":
            return None  # type: ignore[return-value]
        return Findings({"one": torch.ones(())})

    def state_dict(self) -> dict[str, Any]:
        if self.where == "state":
            raise ZeroDivisionError
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""


@pytest.mark.parametrize("where", ["measure", "number", "profile", "kind", "state"])
def test_an_observer_that_fails_in_any_way_is_switched_off(where, tmp_path: Path, capsys) -> None:
    agent, command = trained("dqn", "--diagnose", "gain,spectrum")
    attachment = Attachment(command.run, agent)
    attachment.observers["gain"] = Broken(where)
    with Logger(tmp_path, []) as logger:
        attachment.open(logger)
        attachment.measure(1)
        assert list(attachment.state_dict()) == ["spectrum"]
        attachment.measure(2)
    attachment.close()
    assert list(attachment.observers) == ["spectrum"]
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "gain" in line]
    assert line.startswith("warning: diagnostic gain failed and is off from here on (")


def test_an_agent_without_experience_for_a_moment_goes_on(capsys, monkeypatch) -> None:
    agent, command = trained("dqn", "--diagnose", "gain")
    attachment = Attachment(command.run, agent)
    monkeypatch.setattr(agent, "experience", lambda *_: 1 / 0)
    assert attachment._findings(3) == {}
    assert "no diagnostics at step 3: no experience (ZeroDivisionError" in capsys.readouterr().err
