"""The Python interface of the toolkit: the commands as functions.

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
from semigradient.training import console, exactness, extension, run
from semigradient.training.agent import Agent
from semigradient.training.build import build, build_for_process
from semigradient.training.cli import Invocation, parse
from semigradient.training.command import Command, make_command
from semigradient.training.doubts import doubts
from semigradient.training.generators import undisturbed
from semigradient.training.loaded_run import LoadedRun, load_run
from semigradient.training.lock import RunLock
from semigradient.training.logging import Logger
from semigradient.training.loop import Loop, Outcome
from semigradient.training.sinks import TensorBoardSink, WandbSink, resolve_wandb_mode

load = load_run


def make_agent(agent: str, env: str, **options: Any) -> Agent:
    """The untrained agent that `train.py` creates, with its environments.

        agent = semigradient.make_agent("dqn", "CartPole-v1", optim="adam", batch_size=64)
        while agent.progress.steps < 10_000:
            scalars = agent.iterate()

    It is bit-identical to that of `train.py`, and the global random generators are unchanged. Sets
    the number of torch threads to `threads`.

    Args:
        agent: a name, or "module:Class".
        env: any Gymnasium id, or "module:id".
        options: `optim` (a name, or "module:Config"), `optim_options` (such as {"lr": 1e-3}),
            `env_options` (such as {"dt": 0.1}), `preset` (auto, none, paper), any field of the run
            (`seed`, `num_envs`, `steps`, …) and of the agent's `Config`.

    Raises:
        UserError: an unknown name or option, or an invalid value.
    """
    with undisturbed():  # packages that are imported for the first time may draw
        return build(make_command(agent, env, **options))


def train(agent: str, env: str, **options: Any) -> LoadedRun:
    """Train as `train.py` does, into a run folder, and load the result.

    Args:
        agent: a name, or "module:Class".
        env: any Gymnasium id, or "module:id".
        options: as of `make_agent`, with `eval_env_options` (such as {"split": "test"}); the
            folder is `run_dir`, by default a new one in runs/.

    Raises:
        UserError: before training starts; see `make_agent`.
        KeyboardInterrupt: a signal was received; `resume` continues the run.
        RuntimeError: training failed, for instance because of a non-finite loss.
    """
    return _finish(Invocation(make_command(agent, env, **options)))


def resume(folder: str | Path, trust: bool = False, steps: int | None = None) -> LoadedRun:
    """Continue a run folder to its end, identically to an uninterrupted run.

    Args:
        folder: the run folder.
        trust: allow code that its files name as "module:Name"; see `training.trust`.
        steps: a new, larger number of steps; its schedules stay as they are (docs/runs.md).

    Raises:
        UserError, KeyboardInterrupt, RuntimeError: as of `train`.
    """
    words = ["--resume", str(folder), *(["--trust"] if trust else [])]
    return _finish(parse([*words, *([] if steps is None else ["--steps", str(steps)])]))


def execute(
    invocation: Invocation, say: Callable[[str], object] = console.say
) -> tuple[Outcome, Loop]:
    """Build, train (or continue training) and report, in a dedicated process.

    Args:
        invocation: the command, and the folder to resume, if any.
        say: receives the progress messages.
    """
    command, folder = invocation.command, invocation.resume
    warnings = doubts(command)
    agent = build_for_process(command)
    with undisturbed():
        agent.policy(True)  # what cannot be evaluated is refused before it is trained
    # Raises `UserError` here if the agent does not support the diagnostics of `--diagnose`.
    observers = Attachment(command.run, agent) if command.run.diagnose else None
    protocol = agent.setup.envs.protocol
    with run.create(command, protocol) if folder is None else RunLock(folder) as lock:
        loop = Loop(command, agent, lock, observers)
        notes = [] if folder is None else _resume(invocation, loop)
        for line in [*_introduction(command, lock.folder, protocol), *notes, *warnings]:
            say(line)
            console.record(lock.folder, line)
        with Logger(lock.folder, _sinks(command, lock.folder)) as logger:
            return loop.run(logger), loop


def _resume(invocation: Invocation, loop: Loop) -> list[str]:
    """Load the newest checkpoint and write down how the run goes on; returns what to say."""
    command, folder, saved = invocation.command, loop.folder, invocation.saved
    loaded, now = loop.resume(), run.provenance()
    remarks = [] if saved is None else extension.remarks(command, saved)
    if loaded is None:
        run.extend(command, folder, now, 0)
        return ["no checkpoint was saved yet: starts at step 0", *remarks]
    before = run.last_provenance(folder)
    reasons = exactness.reasons(loop.agent, command, saved, before, now)
    run.extend(command, folder, now, loaded.step)
    kind = f"statistical: {', '.join(reasons)}" if reasons else "exact"
    skipped = [f"skipped damaged checkpoint: {reason}" for reason in loaded.skipped]
    text = f"resumed at step {loaded.step} from {loaded.path.name} ({kind})"
    return [*skipped, text, *remarks]


def _finish(invocation: Invocation) -> LoadedRun:
    """Execute without output, preserve the global generators, and load the result."""
    with undisturbed():
        outcome, loop = execute(invocation, lambda _: None)
    if outcome.status == "interrupted":
        raise KeyboardInterrupt(outcome.message)
    if outcome.exit_code:
        raise RuntimeError(outcome.message) from outcome.problem
    return load_run(loop.folder, trust=True)  # this process has just run the code that it names


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
