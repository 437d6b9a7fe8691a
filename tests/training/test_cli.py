"""The command line: every mistake is one line and exit code 2, before any training."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from semigradient import agents, optim
from semigradient.commands import train
from semigradient.errors import UserError
from semigradient.training.cli import parse
from semigradient.training.command import Command, RunConfig, make_command
from semigradient.training.config_files import load_preset
from semigradient.training.loop import Loop
from support.commands import QUIET, ROOT

_TINY = (
    "--steps 64 --eval-episodes 1 --checkpoint-every 32 --hidden 4 --learning-starts 8 "
    "--train-every 8 --gradient-steps 1 --batch-size 4 --buffer-size 64"
)
TINY = _TINY.split()
DQN = ("--agent", "dqn", "--env", "CartPole-v1")

# Arguments, and what the one line must say: the value and what would have been accepted.
MISTAKES: dict[str, tuple[str, list[str]]] = {
    "agent": ("--agent dqnn --env CartPole-v1", ["agent 'dqnn'", "did you mean dqn", "ppo"]),
    "no agent": ("--env CartPole-v1", ["--agent is missing", "known: a2c, brs, "]),
    "no env": ("--agent dqn", ["--env is missing", "CartPole-v1"]),
    "env": ("--agent dqn --env CartPool-v1", ["'CartPool-v1'", "did you mean CartPole-v1"]),
    "game": ("--agent dqn --env ALE/Breakot-v5", ["'ALE/Breakot-v5'", "ALE/Breakout-v5"]),
    "optimizer": (
        "--agent dqn --env CartPole-v1 --optim adamm",
        ["optimizer 'adamm'", "did you mean adam", "rmsprop"],
    ),
    "preset": ("--agent dqn --env CartPole-v1 --preset best", ["preset='best'", "auto, none"]),
    "integer": ("--agent dqn --env CartPole-v1 --steps many", ["--steps", "'many'", "int"]),
    "range": ("--agent dqn --env CartPole-v1 --gamma 2", ["gamma=2.0", "[0, 1]"]),
    "nan": ("--agent dqn --env CartPole-v1 --gamma nan", ["gamma=nan", "[0, 1]"]),
    "num_envs": ("--agent dqn --env CartPole-v1 --num-envs 0", ["num_envs=0", "≥ 1"]),
    "steps": ("--agent dqn --env CartPole-v1 --steps 0", ["steps=0", "≥ 1"]),
    "swallowed flag": ("--agent --wandb disabled", ["--agent: needs a value"]),
    "last flag": ("--agent dqn --env", ["--env: needs a value"]),
    "width of dqn": ("--agent dqn --env CartPole-v1 --hidden 8 0", ["hidden=(8, 0)", "≥ 1"]),
    "width of ppo": ("--agent ppo --env CartPole-v1 --hidden 0", ["hidden=(0,)", "≥ 1"]),
    "width of a2c": ("--agent a2c --env CartPole-v1 --hidden -2", ["hidden=(-2,)", "≥ 1"]),
    "choice": (
        "--agent dqn --env CartPole-v1 --target soft",
        ["'soft'", "--target", "'hard', 'ema', 'none'"],
    ),
    "diagnostic": (
        "--agent dqn --env CartPole-v1 --diagnose drift,gian",
        ["diagnostic 'gian'", "did you mean gain", "interference", "staleness", "all"],
    ),
    "diagnostic of an agent": (
        "--agent a2c --env CartPole-v1 --preset none --rollout-steps 4 --diagnose sign-variance",
        ["diagnose='sign-variance'", "a2c", "accepted are interference, ", "sensitivity"],
    ),
    "diagnostics without experience": (
        "--agent sb3-dqn --env CartPole-v1 --diagnose gain",
        ["diagnose='gain'", "sb3-dqn", "accepted are none"],
    ),
    "diagnostics of nothing": (
        "--agent sb3-dqn --env CartPole-v1 --diagnose all",
        ["diagnose='all'", "sb3-dqn", "accepted are none"],
    ),
    "diagnose samples": (
        "--agent dqn --env CartPole-v1 --diagnose-samples 1",
        ["diagnose_samples=1", "≥ 2"],
    ),
    "evaluation of the other seat": (
        "--agent m-maml --seat second --env semigradient/MatchingPennies-v0 --evaluation-updates 1",
        ["seat='second'", "alike from both"],
    ),
    "evaluation elsewhere": (
        "--agent cola --env semigradient/IPD-v0 --width 8",
        ["cola", "LogisticGame"],
    ),
    "activation": (
        "--agent ppo --env CartPole-v1 --activation rellu",
        ["activation='rellu'", "relu, ", "tanh"],
    ),
    "flag": ("--agent dqn --env CartPole-v1 --nonsense 3", ["--nonsense"]),
    "optimizer flag": ("--agent dqn --env CartPole-v1 --optim.lr -1", ["lr=-1.0", "> 0"]),
    "batch": (
        "--agent ppo --env CartPole-v1 --num-envs 2 --rollout-steps 32 --batch-size 100",
        ["batch_size=100", "must divide", "32 × 2 = 64"],
    ),
    "phase": (
        "--agent dqn --env CartPole-v1 --train-every 3 --num-envs 2",
        ["train_every=3", "multiple or a divisor of num_envs=2"],
    ),
    "width beyond memory": (
        "--agent dqn --env CartPole-v1 --hidden 1000000000000",
        ["agent 'dqn'", "do not fit into memory"],
    ),
    "width beyond all memory": (
        "--agent ppo --env CartPole-v1 --hidden 1000000000000000000",
        ["agent 'ppo'", "do not fit into memory"],
    ),
    "small buffer": (
        "--agent dqn --env CartPole-v1 --buffer-size 1 --batch-size 8",
        ["buffer_size=1", "≥ batch_size=8"],
    ),
    "buffer of vectors": (
        "--agent dqn --env CartPole-v1 --buffer-size 1000000000000",
        ["buffer_size=1000000000000", "GiB", "accepted up to"],
    ),
    "buffer of images": (
        "--agent dqn --env ALE/Breakout-v5 --buffer-size 1000000000000",
        ["buffer_size=1000000000000", "GiB", "accepted up to"],
    ),
    "action space": ("--agent dqn --env Pendulum-v1", ["Box(-2.0, 2.0, (1,)", "Discrete"]),
    "action space of boxes": ("--agent sac --env CartPole-v1", ["Discrete(2)", "Box"]),
    "option": ("--agent dqn --env CartPole-v1 --env-options frameskip", ["'frameskip'", "KEY=V"]),
    "unknown option": (
        "--agent dqn --env ALE/Breakout-v5 --env-options speed=3",
        ["ALE/Breakout-v5", "'speed'", "known: ", "frameskip", "reseed_after"],
    ),
    "no config": ("--config none.toml", ["config 'none.toml'", "no such file"]),
    "no run": ("--resume runs/none", ["runs/none", "no such file"]),
}

# What a config file holds, and what the one line must say.
CONFIG_MISTAKES: dict[str, tuple[str, list[str]]] = {
    "agent key": ("[agent_config]\ngama = 0.9", ["'gama'", "did you mean gamma", "batch_size"]),
    "run key": ("[run]\nstep = 3", ["'step'", "did you mean steps", "num_envs"]),
    "optimizer key": ("[optimizer]\nrate = 1", ["'rate'", "[optimizer]", "lr"]),
    "table": ("speed = 1", ["'speed'", "agent_config", "optimizer"]),
    "text": ('[agent_config]\ngamma = "x"', ["gamma='x'", "float"]),
    "fraction": ("[run]\nsteps = 1.5", ["steps=1.5", "int"]),
    "truth": ("[run]\nseed = true", ["seed=True", "int"]),
    "list": ("[agent_config]\nhidden = 3", ["hidden=3", "list"]),
    "list of text": ('[agent_config]\nhidden = ["a"]', ["hidden=", "'a'", "int"]),
    "list of numbers": ("[run]\nenv_options = [1]", ["env_options=", "1", "str"]),
    "choice": ('[agent_config]\ntarget = "soft"', ["target='soft'", "hard, ema, none"]),
    "name": ("optim = 3", ["optim=3", "str"]),
    "no table": ("run = 3", ["run=3", "table"]),
    "syntax": ("steps =", ["config.toml", "Invalid value"]),
}


@pytest.fixture
def refuse(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """`refuse(*arguments)`: train.py must refuse before a step; returns its one line."""

    def run(*arguments: object) -> str:
        def started(*_: object) -> None:
            raise AssertionError("training started")

        with monkeypatch.context() as patch:
            patch.setattr(Loop, "run", started)
            with pytest.raises(SystemExit) as leaving:
                train([*map(str, arguments), *QUIET])
        assert leaving.value.code == 2
        printed = capsys.readouterr()
        lines = printed.err.splitlines()
        assert len(lines) == 1, lines
        assert printed.out == ""
        assert lines[0].startswith("train.py: error: ")
        return lines[0]

    return run


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that all tests share and none changes."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert train([*DQN, *TINY, *QUIET, "--run-dir", str(folder)]) == 0
    return folder


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, refuse: Callable[..., str], tmp_path: Path) -> None:
    arguments, words = MISTAKES[name]
    folder = tmp_path / "run"
    line = refuse(*arguments.split(), "--run-dir", folder)
    assert [word for word in words if word not in line] == [], line
    assert not re.search(r"[╭│─]|--{2,} ", line), line
    assert not folder.exists()


@pytest.mark.parametrize("name", CONFIG_MISTAKES)
def test_a_mistake_in_a_config_file_is_one_line(
    name: str, refuse: Callable[..., str], tmp_path: Path
) -> None:
    content, words = CONFIG_MISTAKES[name]
    config = tmp_path / "config.toml"
    config.write_text(content)
    names = ("--agent", "dqn", "--env", "CartPole-v1")
    names += () if name == "name" else ("--optim", "adam")
    line = refuse(*names, "--config", config, "--run-dir", tmp_path / "run")
    assert [word for word in words if word not in line] == [], line


def test_a_terminal_without_frames_gets_the_same_line(tmp_path: Path) -> None:
    code = "import sys; from semigradient.commands import train; train(sys.argv[1:])"
    command = [sys.executable, "-c", code, *DQN, "--gamma", "2", "--run-dir", str(tmp_path / "r")]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONIOENCODING": "ascii:backslashreplace"}
    run = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 2
    assert run.stderr == "train.py: error: gamma=2.0: must be in [0, 1]\n"


@pytest.mark.skipif(
    importlib.util.find_spec("mujoco") is not None, reason="the package is installed"
)
def test_a_missing_extra_is_named(refuse: Callable[..., str], tmp_path: Path) -> None:
    line = refuse("--agent", "ppo", "--env", "Ant-v5", "--run-dir", tmp_path / "run")
    assert (
        "'Ant-v5': MuJoCo is not installed; pip install -c constraints.txt -e '.[mujoco]'" in line
    )


def test_a_folder_that_holds_a_run_is_refused(
    refuse: Callable[..., str], finished_run: Path
) -> None:
    before = (finished_run / "config.toml").read_bytes()
    line = refuse(*DQN, *TINY, "--run-dir", finished_run)
    assert f"run_dir={str(finished_run)!r}: already holds a run" in line
    assert f"--resume {finished_run}" in line
    assert (finished_run / "config.toml").read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "difference"),
    [
        ("--seed 3", "checkpoint has seed=0, asked for seed=3"),
        ("--gamma 0.5", "checkpoint has agent.gamma=0.99, asked for agent.gamma=0.5"),
        ("--optim.lr 0.5", "asked for optimizer.lr=0.5"),
        ("--env Acrobot-v1", "checkpoint has env='CartPole-v1', asked for env='Acrobot-v1'"),
        ("--config x.toml", "--config: a resumed run has its own config.toml"),
    ],
)
def test_resuming_as_something_else_is_refused(
    flags: str, difference: str, refuse: Callable[..., str], finished_run: Path
) -> None:
    assert difference in refuse("--resume", finished_run, *flags.split())


def test_broken_checkpoints_are_named(
    refuse: Callable[..., str], finished_run: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    broken = sorted((run / "checkpoints").glob("step-*"))
    assert broken
    for folder in broken:
        path = folder / "tensors.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    line = refuse("--resume", run)
    assert "no usable checkpoint" in line
    assert all(f"{folder.name}: tensors.safetensors: hash differs" in line for folder in broken)


def test_general_help_names_agents_optimizers_and_options(
    run_train: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    shown = run_train("--help")
    assert shown.returncode == 0
    assert shown.stderr == ""
    options = [f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(RunConfig)]
    for word in [*agents.names(), *optim.names(), *options, "--config", "--preset", "--resume"]:
        assert word in shown.stdout


@pytest.mark.parametrize("agent", ["dqn", "ddqn", "ppo", "a2c"])
def test_help_of_an_agent_shows_every_field(
    agent: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as leaving:
        train(["--agent", agent, "--help"])
    assert leaving.value.code == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    config = agents.config_class(agent)
    fields = [field.name for field in dataclasses.fields(config)]
    assert [name for name in fields if f"--{name.replace('_', '-')}" not in shown] == []
    documented = docstrings(config)
    assert list(documented) == fields
    assert [text for text in documented.values() if text[:40] not in shown] == []


def test_flags_win_over_the_file_and_the_file_over_the_preset(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        'agent = "ppo"\nenv = "CartPole-v1"\n[run]\nseed = 7\nsteps = 123\n'
        "[agent_config]\nepochs = 3\nhidden = [8, 8]\n[optimizer]\nlr = 0.5\neps = 1\n"
    )
    preset = load_preset("ppo", "CartPole-v1")
    arguments = ["--config", str(config), "--steps", "456", "--hidden", "4", "--optim.lr", "0.25"]
    command = parse(arguments).command
    assert (command.run.agent, command.run.env) == ("ppo", "CartPole-v1")
    assert (command.run.seed, command.run.steps) == (7, 456)
    assert (command.agent.epochs, command.agent.hidden) == (3, (4,))
    assert (command.optimizer.lr, command.optimizer.eps) == (0.25, 1.0)
    assert command.agent.gae_lambda == preset["gae_lambda"]
    assert command.run.num_envs == preset["num_envs"]


def test_the_preset_is_that_of_the_environment() -> None:
    def resolved(env: str, *flags: str) -> tuple[int, int, float]:
        command = parse(["--agent", "ppo", "--env", env, *flags]).command
        return command.run.num_envs, command.agent.rollout_steps, command.optimizer.lr

    commands = {env: resolved(env) for env in ("CartPole-v1", "Acrobot-v1", "ALE/Pong-v5")}
    for env, (num_envs, rollout_steps, lr) in commands.items():
        preset = load_preset("ppo", env)
        assert (num_envs, rollout_steps) == (preset["num_envs"], preset["rollout_steps"])
        assert lr == preset["optimizers"]["adam"]["lr"]
    assert len(set(commands.values())) == len(commands)
    defaults = agents.config_class("ppo")()
    plain = resolved("CartPole-v1", "--preset", "none")
    assert plain[:2] == (RunConfig().num_envs, defaults.rollout_steps)


def test_the_paper_s_own_numbers_are_to_be_had_by_name() -> None:
    def atari(agent: str, *flags: str) -> Command:
        return parse(
            ["--agent", agent, "--env", "ALE/Pong-v5", "--preset", "paper", *flags]
        ).command

    ppo, dqn, ddqn = atari("ppo"), atari("dqn"), atari("ddqn")
    # Schulman et al. 2017, table 5.
    assert (ppo.agent.epochs, ppo.agent.value_coefficient, ppo.agent.clip) == (3, 1.0, 0.1)
    assert (ppo.run.num_envs, ppo.agent.rollout_steps, ppo.agent.batch_size) == (8, 128, 256)
    # Mnih et al. 2015, extended data table 1.
    assert (dqn.run.optim, dqn.optimizer.lr, dqn.optimizer.centered) == ("rmsprop", 2.5e-4, True)
    assert (dqn.agent.buffer_size, dqn.agent.target_update_every) == (1_000_000, 40_000)
    assert dqn.agent.epsilon_fraction * dqn.run.steps == 1_000_000
    assert dqn.run.environment()["repeat_action_probability"] == 0
    assert ddqn.agent == dataclasses.replace(dqn.agent, double=True)
    assert atari("ppo", "--epochs", "5").agent.epochs == 5
    for agent, env in (("dqn", "CartPole-v1"), ("reinforce", "ALE/Pong-v5")):
        with pytest.raises(UserError, match=f"preset='paper': {agent} has none for {env}"):
            parse(["--agent", agent, "--env", env, "--preset", "paper"])


@pytest.mark.parametrize("env", ["CartPole-v1", "ALE/Pong-v5"])
def test_the_name_of_an_agent_fixes_a_default_and_may_share_a_preset(env: str) -> None:
    dqn, ddqn = (parse(["--agent", name, "--env", env]).command for name in ("dqn", "ddqn"))
    assert not dqn.agent.double
    assert ddqn.agent == dataclasses.replace(dqn.agent, double=True)
    assert ddqn.run == dataclasses.replace(dqn.run, agent="ddqn")
    assert ddqn.optimizer == dqn.optimizer
    assert load_preset("ddqn", env) == load_preset("dqn", env) != {}


def docstrings(config: type) -> dict[str, str]:
    """Field names of a config class and the text under each."""
    file = sys.modules[config.__module__].__file__
    assert file is not None
    tree = ast.parse(Path(file).read_text())
    classes = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == config.__name__]
    body = classes[0].body
    return {
        ast.unparse(field.target): text.value.value
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }


def test_small_pictures_are_the_usual_preset_with_fewer_pixels() -> None:
    words = ["--agent", "ppo", "--env", "ALE/Pong-v5"]
    usual, small = parse(words).command, parse([*words, "--preset", "small"]).command
    assert small.run.environment() == {"img_height": 42, "img_width": 42}
    assert dataclasses.replace(small.run, env_options=()) == usual.run
    assert (small.agent, small.optimizer) == (usual.agent, usual.optimizer)
    options = ["--env-options", "frameskip=2"]
    with pytest.raises(UserError, match="img_height=42 img_width=42; give these too"):
        parse([*words, "--preset", "small", *options])
    with pytest.raises(UserError, match="img_width=42; give these too"):
        make_command("ppo", "ALE/Pong-v5", preset="small", env_options={"img_height": 36})
    both = parse([*words, "--preset", "small", *options, "img_height=36", "img_width=36"]).command
    assert both.run.environment() == {"frameskip": 2, "img_height": 36, "img_width": 36}
    with pytest.raises(UserError, match="preset='small': ppo has none for CartPole-v1"):
        parse(["--agent", "ppo", "--env", "CartPole-v1", "--preset", "small"])
