"""From Python, the toolkit does what its commands do."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import semigradient
from semigradient import agents, evaluate
from semigradient.errors import UserError
from semigradient.training import parts
from semigradient.training.agent import AgentContext
from semigradient.training.build import build, create
from semigradient.training.cli import parse
from semigradient.training.command import make_command, words_of
from semigradient.training.config_files import value_of
from support.commands import QUIET, ROOT
from support.processes import Forked
from support.runs import assert_same_run, finish, kill_after_first_checkpoint
from support.states import differences

TINY = "--steps 256 --eval-episodes 2 --checkpoint-every 64 --hidden 8 --learning-starts 32"
SILENT = {"wandb": "disabled", "tensorboard": False, "progress": False}


def test_the_lines_of_the_readme_equal_the_command_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    start_train: Callable[..., Forked],
) -> None:
    text = (ROOT / "README.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(block, names)
    printed = capsys.readouterr().out.splitlines()

    other = tmp_path / "other"
    words = "--agent ddqn --env CartPole-v1 --optim adam --steps 2000 --seed 1"
    finish(start_train(*words.split(), "--run-dir", other))
    assert_same_run(names["run"].folder, other)
    evaluate.main([str(other), "--episodes", "20"])
    scores = json.loads((other / "evaluation.json").read_text())
    assert scores["returns"] == names["run"].evaluate(episodes=20).returns.tolist()
    assert printed[0] == str(np.mean(scores["returns"]))
    assert printed[1] in ("[0]", "[1]")


def test_keywords_are_flags() -> None:
    flags = "--seed 3 --num-envs 2 --hidden 8 8 --gamma 0.9 --optim sgd --optim.lr 0.5"
    env = ["--env-options", "dt=0.1", "time_limit=2", "--eval-env-options", "dt=0.05"]
    words = ["--agent", "dqn", "--env", "semigradient/CartPole-v0", *flags.split(), *env]
    command = make_command(
        "dqn",
        "semigradient/CartPole-v0",
        "sgd",
        optim_options={"lr": 0.5},
        env_options={"dt": 0.1, "time_limit": 2},
        eval_env_options={"dt": 0.05},
        seed=3,
        num_envs=2,
        hidden=(8, 8),
        gamma=0.9,
    )
    assert command == parse(words).command
    plain = make_command("ppo", "CartPole-v1", preset="none")
    assert plain == parse(["--agent", "ppo", "--env", "CartPole-v1", "--preset", "none"]).command
    assert plain != make_command("ppo", "CartPole-v1")


@pytest.mark.parametrize("value", [0.1, 3, True, "test", "3", "true", "a=b", "[", [1, 2], ["a"]])
def test_options_of_an_environment_keep_their_value_and_type(value: Any) -> None:
    ((key, _, text),) = (word.partition("=") for word in words_of({"key": value}))
    assert key == "key"
    assert type(value_of(text)) is type(value)
    assert value_of(text) == value


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "field": ({"batchsize": 3}, "unknown option 'batchsize' .* did you mean batch_size"),
    "optimizer": ({"optim": "adm"}, "unknown optimizer 'adm': did you mean adam"),
    "option": ({"optim_options": {"lrr": 1.0}}, "unknown key 'lrr' .* did you mean lr"),
    "type": ({"batch_size": "many"}, "batch_size='many': must be of type int"),
    "value": ({"env_options": {"dt": object()}}, "env option dt=.*: accepted are numbers"),
    "preset": ({"preset": "best"}, "preset='best': accepted are auto, none"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_that_names_what_is_accepted(name: str) -> None:
    options, message = MISTAKES[name]
    with pytest.raises(UserError, match=message) as problem:
        semigradient.make_agent("dqn", "CartPole-v1", **options)
    assert "\n" not in str(problem.value)


def test_a_config_with_a_field_of_the_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    config = dataclasses.make_dataclass("Config", [("steps", int, 3)], frozen=True)
    monkeypatch.setattr(agents, "config_class", lambda name: config)
    with pytest.raises(UserError, match=r"agent 'dqn': its Config has fields of the run \(steps\)"):
        make_command("dqn", "CartPole-v1")


def test_an_agent_is_the_same_each_time_and_leaves_the_generators_alone() -> None:
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first, second = (semigradient.make_agent("dqn", "CartPole-v1", seed=4) for _ in range(2))
    third = semigradient.make_agent("sb3-ppo", "CartPole-v1", seed=4)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]
    assert differences(parts.policy_state(first), parts.policy_state(second)) == []
    other = semigradient.make_agent("dqn", "CartPole-v1", seed=5)
    assert differences(parts.policy_state(first), parts.policy_state(other)) != []
    assert third.setup.seed == 4
    command = make_command("dqn", "CartPole-v1", seed=4)
    again = create("dqn", command.agent, _setup_of(build(command)))
    assert differences(parts.policy_state(first), parts.policy_state(again)) == []


def _setup_of(agent: Any) -> AgentContext:
    setup: AgentContext = agent.setup
    return setup


def test_a_killed_run_is_resumed_from_python(tmp_path: Path) -> None:
    words = ["--agent", "dqn", "--env", "CartPole-v1", *TINY.split()]
    killed = tmp_path / "killed"
    kill_after_first_checkpoint(*words, "--run-dir", killed)
    run = semigradient.resume(killed)
    whole = semigradient.train(
        "dqn",
        "CartPole-v1",
        steps=256,
        eval_episodes=2,
        checkpoint_every=64,
        hidden=(8,),
        learning_starts=32,
        run_dir=str(tmp_path / "whole"),
        **SILENT,
    )
    assert run.loaded.step == whole.loaded.step == 256
    assert_same_run(killed, whole.folder)
    with pytest.raises(UserError, match="already holds a run"):
        semigradient.train("dqn", "CartPole-v1", run_dir=str(killed), **SILENT)


def test_a_policy_takes_one_observation_or_many(tmp_path: Path) -> None:
    words = ["--agent", "a2c", "--env", "CartPole-v1", "--steps", "64", "--eval-episodes", "1"]
    assert semigradient_train([*words, *QUIET, "--run-dir", str(tmp_path / "run")]) == 0
    run = semigradient.load(tmp_path / "run")
    env = run.env(3, seed=5)
    batch, _ = env.reset()
    actions = run.policy(batch)
    assert actions.shape == (3,)
    assert [run.policy(one) for one in batch] == actions.tolist()
    assert run.policy(batch[0].tolist(), deterministic=False) in (0, 1)
    assert {int(run.policy(batch[0], deterministic=False)) for _ in range(50)} == {0, 1}
    with pytest.raises(UserError, match=r"shape \(3,\): accepted are \(4,\) and a batch of such"):
        run.policy(batch[0][:3])
    with pytest.raises(UserError, match="episodes=0: must be ≥ 1"):
        run.evaluate(0)


def test_sampled_actions_are_reproducible_even_where_the_agent_draws_globally(
    tmp_path: Path,
) -> None:
    words = ["--agent", "sb3-a2c", "--env", "CartPole-v1", "--steps", "64", "--eval-episodes", "1"]
    assert semigradient_train([*words, *QUIET, "--run-dir", str(tmp_path / "run")]) == 0
    state = torch.get_rng_state()
    runs = [semigradient.load(tmp_path / "run") for _ in range(2)]
    first, second = (run.evaluate(8, deterministic=False).returns.tolist() for run in runs)
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)


def semigradient_train(words: list[str]) -> int:
    from semigradient.commands import train

    return train(words)


def test_the_package_says_what_it_offers() -> None:
    assert set(semigradient.__all__) <= set(dir(semigradient))
    code = (
        "import sys, time; start = time.process_time(); import semigradient\n"
        "assert time.process_time() - start < 5; assert 'torch' not in sys.modules\n"
        "from semigradient.optim import CorrectedMomentum\n"
        "from semigradient import make_agent\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        semigradient.trian  # noqa: B018
