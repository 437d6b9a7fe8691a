"""The toolkit from Python: what the commands do, as functions.

import semigradient

run = semigradient.train("ddqn", "CartPole-v1", steps=20_000)
print(run.evaluate(episodes=100).returns.mean())
run = semigradient.load(run.folder)
observation, _ = run.env().reset()
print(run.policy(observation))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from semigradient.diagnostics.attach import Attachment
from semigradient.training import run
from semigradient.training.agent import Agent
from semigradient.training.build import build, build_for_process
from semigradient.training.cli import Invocation, parse
from semigradient.training.command import Command, make_command
from semigradient.training.generators import undisturbed
from semigradient.training.loaded_run import LoadedRun, load_run
from semigradient.training.logging import Logger
from semigradient.training.loop import Loop, Outcome
from semigradient.training.sinks import TensorBoardSink, WandbSink, resolve_wandb_mode


def make_agent(agent: str, env: str, **options: Any) -> Agent:
    """The agent that `train.py` makes, in its environments, before it has learned.

        agent = semigradient.make_agent("dqn", "CartPole-v1", optim="adam", batch_size=64)
        while agent.progress.steps < 10_000:
            scalars = agent.iterate()

    It is the same to the bit, and the global random generators stay as they are. The number of
    torch's threads is set, as `threads` says.

    Args:
        agent: a name, or "module:Class".
        env: any Gymnasium id, or "module:id".
        options: `optim` (a name, or "module:Config"), `optim_options` (such as {"lr": 1e-3}),
            `env_options` (such as {"dt": 0.1}), `preset` (auto or none), and any field of the run
            (`seed`, `num_envs`, `steps`, …) and of the agent's `Config`.

    Raises:
        UserError: an unknown name or option, or a value that is not accepted.
    """
    return build(make_command(agent, env, **options))


def train(agent: str, env: str, **options: Any) -> LoadedRun:
    """Train as `train.py` does, into a run folder, and load what came of it.

    Args:
        agent: a name, or "module:Class".
        env: any Gymnasium id, or "module:id".
        options: as of `make_agent`, with `eval_env_options` (such as {"split": "test"}); the
            folder is `run_dir`, by default a new one under runs/.

    Raises:
        UserError: before training starts; see `make_agent`.
        KeyboardInterrupt: a signal came; `resume` goes on from there.
        RuntimeError: training failed, such as by a loss that is not finite.
    """
    return _finish(Invocation(make_command(agent, env, **options), None))


def resume(folder: str | Path, trust: bool = False) -> LoadedRun:
    """Go on with a run folder to its end; equal to a run that was never interrupted.

    Args:
        folder: the run folder.
        trust: take code that its files name as "module:Name"; see `training.trust`.

    Raises:
        UserError, KeyboardInterrupt, RuntimeError: as of `train`.
    """
    return _finish(parse(["--resume", str(folder), *(["--trust"] if trust else [])]))


def load(folder: str | Path, device: str = "", trust: bool = False) -> LoadedRun:
    """A run folder with its latest policy, which can be asked and evaluated.

    Args:
        folder: the run folder.
        device: auto, cpu or cuda; default: the run's own.
        trust: take code that its files name as "module:Name"; see `training.trust`.

    Raises:
        UserError: no such folder, no sound policy in it, or it asks for code of its own.
    """
    return load_run(folder, device, trust)


def execute(invocation: Invocation, say: Callable[[str], object] = print) -> tuple[Outcome, Loop]:
    """Build, train (or go on training) and report, in a process that is the run's own.

    Args:
        invocation: the command, and the folder to resume, if any.
        say: what to do with the lines that tell how it goes.
    """
    command, folder = invocation.command, invocation.resume
    agent = build_for_process(command)
    # What `--diagnose` asks for is refused here if the agent cannot support it.
    observers = Attachment(command.run, agent) if command.run.diagnose else None
    protocol = agent.setup.envs.protocol
    target = folder if folder is not None else run.create(command, protocol)
    loop = Loop(command, agent, target, observers)
    notes = loop.resume() if folder is not None else []
    for line in [*_introduction(command, target, protocol), *notes]:
        say(line)
    with Logger(target, _sinks(command, target)) as logger:
        return loop.run(logger), loop


def _finish(invocation: Invocation) -> LoadedRun:
    """Execute quietly, leave the global generators alone, and load what came of it."""
    with undisturbed():
        outcome, loop = execute(invocation, lambda _: None)
    if outcome.status == "interrupted":
        raise KeyboardInterrupt(outcome.message)
    if outcome.exit_code:
        raise RuntimeError(outcome.message)
    return load_run(loop.folder, trust=True)  # what it names, this process has just run


def _introduction(command: Command, folder: Path, protocol: Mapping[str, object]) -> list[str]:
    run = command.run
    card = ", ".join(f"{key}={value}" for key, value in protocol.items() if key != "env")
    names = f"{run.agent} on {run.env} with {run.optim}"
    return [f"{names}, seed {run.seed}, {run.steps} steps → {folder}", f"protocol: {card}"]


def _sinks(command: Command, folder: Path) -> list[Any]:
    run = command.run
    sinks: list[Any] = [TensorBoardSink(folder / "tensorboard")] if run.tensorboard else []
    mode = resolve_wandb_mode(run.wandb)
    if mode != "disabled":
        tables = command.tables()
        sinks.append(WandbSink(folder, mode, run.wandb_project, None, folder.name, tables))
    return sinks
