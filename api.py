"""The Python interface of the toolkit: the commands as functions.

import semigradient

run = semigradient.train("ddqn", "CartPole-v1", steps=20_000)
print(run.evaluate(episodes=100).returns.mean())
run = semigradient.load(run.folder)
observation, _ = run.env().reset()
print(run.policy(observation))
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from semigradient.diagnostics.attach import Attachment
from semigradient.stacks import run as stacks
from semigradient.training import console, run, start
from semigradient.training.agent import Agent
from semigradient.training.build import build, build_for_process
from semigradient.training.cli import Invocation, parse
from semigradient.training.command import make_command
from semigradient.training.doubts import doubts
from semigradient.training.generators import undisturbed
from semigradient.training.loaded_run import LoadedRun, load_run
from semigradient.training.lock import RunLock
from semigradient.training.logging import Logger
from semigradient.training.loop import Loop, Outcome

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


def train_seeds(agent: str, env: str, seeds: int, **options: Any) -> list[LoadedRun]:
    """Train `seeds` seeds from `seed` on as one learner, as `train.py --seeds` does.

    Args:
        agent, env, options: as of `train`; `run_dir` is the folder of all run folders.
        seeds: how many.

    Raises:
        UserError, KeyboardInterrupt, RuntimeError: as of `train`; what has no stacked form.
    """
    invocation = Invocation(make_command(agent, env, **options), seeds=seeds)
    with undisturbed():
        ended = execute_seeds(invocation, lambda _: None)
    return [_loaded(outcome, loop) for outcome, loop in ended]


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
        notes = [] if folder is None else start.resume(loop, invocation.saved)
        for line in [*start.introduction(command, lock.folder, protocol), *notes, *warnings]:
            say(line)
            console.record(lock.folder, line)
        with Logger(lock.folder, start.sinks(command, lock.folder)) as logger:
            return loop.run(logger), loop


def execute_seeds(
    invocation: Invocation, say: Callable[[str], object] = console.say
) -> list[tuple[Outcome, Loop]]:
    """The same of runs that learn as one (`--seeds`); each with how it ended."""
    if invocation.members:
        return stacks.resume(invocation.members, say)
    return stacks.begin(invocation.command, invocation.seeds, say)


def _finish(invocation: Invocation) -> LoadedRun:
    """Execute without output, preserve the global generators, and load the result."""
    with undisturbed():
        outcome, loop = execute(invocation, lambda _: None)
    return _loaded(outcome, loop)


def _loaded(outcome: Outcome, loop: Loop) -> LoadedRun:
    if outcome.status == "interrupted":
        raise KeyboardInterrupt(outcome.message)
    if outcome.exit_code:
        raise RuntimeError(outcome.message) from outcome.problem
    return load_run(loop.folder, trust=True)  # this process has just run the code that it names
