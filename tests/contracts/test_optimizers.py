"""What every agent does with `--optim`: it builds the optimizer, or refuses it in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from semigradient import agents, compare
from semigradient.errors import UserError
from semigradient.training.agent import AgentContext
from semigradient.training.build import build
from semigradient.training.cli import parse
from support.smallest import smallest_words

WITHOUT = {
    *("naive", "lookahead", "lola", "lola-taylor", "hola2", "pola"),
    *("random", "metropolis", "genetic", "composer"),
}
SERVING = {
    *(
        "dqn",
        "ddqn",
        "soft-q",
        "sac-discrete",
        "ppo",
        "a2c",
        "dau",
        "ddpg",
        "classifier",
        "regressor",
    ),
}


@pytest.mark.parametrize("agent", sorted(set(agents.names()) - WITHOUT))
def test_an_optimizer_is_built(agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    make = AgentContext.make_optimizer

    def noted(setup: AgentContext, *args: object, **named: object) -> torch.optim.Optimizer:
        made.append(make(setup, *args, **named))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(AgentContext, "make_optimizer", noted)
    words = smallest_words(agent, tmp_path)
    assert agents.has_optimizer(agent)
    with pytest.raises(UserError, match=f"--optim none: {agent} needs an optimizer"):
        parse([*words, "--optim", "none"])
    build(parse([*words, "--optim", "nesterov", "--optim.momentum", "0.25"]).command)
    assert [optimizer.defaults["momentum"] for optimizer in made] == [0.25] * len(made) != []


@pytest.mark.parametrize("agent", sorted(set(agents.names()) - WITHOUT))
def test_temporal_differences_are_shown_or_the_optimizer_is_refused(
    agent: str, tmp_path: Path
) -> None:
    command = parse([*smallest_words(agent, tmp_path), "--optim", "corrected-momentum"]).command
    if agent in SERVING:
        build(command)
        return
    with pytest.raises(UserError, match=r"^--optim: CorrectedMomentum learns from temporal"):
        build(command)


@pytest.mark.parametrize("agent", sorted(WITHOUT))
def test_an_agent_without_optimizer_refuses_one(agent: str, tmp_path: Path) -> None:
    words = smallest_words(agent, tmp_path)
    line = f"^--optim sgd: {agent} has no optimizer, leave --optim out$"
    with pytest.raises(UserError, match=line):
        parse([*words, "--optim", "sgd"])
    with pytest.raises(UserError, match=rf"^--optim\.lr: {agent} has no optimizer"):
        parse([*words, "--optim.lr", "0.1"])
    (tmp_path / "wishes.toml").write_text('optim = "sgd"\n')
    with pytest.raises(UserError, match=line):
        parse([*words, "--config", str(tmp_path / "wishes.toml")])
    command = parse(words).command
    assert command.run.optim == "none"
    assert parse([*words, "--optim", "none"]).command == command
    build(command)


def test_a_comparison_is_refused_before_anything_runs(tmp_path: Path) -> None:
    words = "--agent random --optim adam sgd --env semigradient/HyperGrid-v0"
    options = compare.parse([*words.split(), "--out", str(tmp_path / "out")])
    with pytest.raises(UserError, match="--optim adam: random has no optimizer"):
        compare.run(options, "", compare.COMMANDS)
    assert not (tmp_path / "out").exists()
    words = "--agent random dqn --env semigradient/HyperGrid-v0"
    compare.validate(compare.parse(words.split()))
