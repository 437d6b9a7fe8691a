"""Options that count only beside another setting are refused without it."""

from __future__ import annotations

import dataclasses

import pytest

from semigradient import agents
from semigradient.errors import UserError
from semigradient.training.cli import parse
from semigradient.training.command import RunConfig, make_command

CARTPOLE = "--agent dqn --env CartPole-v1"
GRID = "--agent gflownet --env semigradient/HyperGrid-v0"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (f"{CARTPOLE} --atoms 21", "atoms=21: counts only with distribution=c51 or quantile, not "),
        (f"{CARTPOLE} --distribution quantile --v-max 9", "v_max=9.0: .* distribution=c51, not "),
        (f"{CARTPOLE} --kappa 3", "kappa=3.0: .* exploration=ou or white, not "),
        (f"{CARTPOLE} --target-update-every 9", "target_update_every=9: .* not target='ema'"),
        (f"{CARTPOLE} --diagnose-every 9", "diagnose_every=9: .* diagnose set, not diagnose=''"),
        (f"{GRID} --replay-power 2", "replay_power=2.0: .* replay_priority=reward or loss, not "),
        (f"{GRID} --local-search-back 0.2", "local_search_back=0.2: .* local_search set, not "),
        (f"{GRID} --loss db --epsilon 0.1", "epsilon=0.1: counts only with loss=fm, not "),
    ],
)
def test_what_nothing_reads_is_refused(words: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(words.split())


def test_beside_its_setting_it_counts() -> None:
    words = f"{CARTPOLE} --distribution c51 --atoms 21 --v-max 200 --target hard"
    command = parse([*words.split(), "--target-update-every", "9"]).command
    assert (command.agent.atoms, command.agent.target_update_every) == (21, 9)
    assert parse(f"{GRID} --local-search 2 --local-search-back 0.2".split())


def test_keywords_are_refused_alike() -> None:
    with pytest.raises(UserError, match="atoms=21: counts only with distribution"):
        make_command("dqn", "CartPole-v1", atoms=21)


def test_a_preset_may_hold_what_a_flag_makes_idle() -> None:
    acrobot = parse(["--agent", "dqn", "--env", "Acrobot-v1", "--target", "ema"]).command.agent
    assert acrobot.target_update_every == 250


@pytest.mark.parametrize("name", ["dqn", "gflownet", "dau", "run"])
def test_conditions_name_fields_that_there_are(name: str) -> None:
    cls = RunConfig if name == "run" else agents.config_class(name)
    fields = dataclasses.fields(cls)
    named = {other for field in fields for other in field.metadata.get("only_with", {})}
    assert named
    assert named <= {field.name for field in fields}
