"""From a command and a number of seeds to run folders: `train.py --seeds K`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from semigradient.errors import require
from semigradient.stacks.loop import StackLoop
from semigradient.stacks.stack import Stack
from semigradient.training import console, run, seed_folders, start
from semigradient.training.agent import Agent
from semigradient.training.build import build_for_process
from semigradient.training.cli import Invocation
from semigradient.training.command import Command
from semigradient.training.doubts import doubts
from semigradient.training.generators import undisturbed
from semigradient.training.lock import RunLock
from semigradient.training.logging import Logger
from semigradient.training.loop import Loop, Outcome

Ended = list[tuple[Outcome, Loop]]
"""How each run ended, and its loop."""


def begin(command: Command, count: int, say: Callable[[str], object] = console.say) -> Ended:
    """Train `count` seeds from the command's on, as one.

    Raises:
        UserError: before anything is trained.
    """
    require(count >= 2, f"seeds={count}: must be ≥ 2 (one seed is a run by itself)")
    first, anywhere = command.run.seed, Path(command.run.run_dir)
    trial = [seed_folders.member(command, anywhere, first + index) for index in range(count)]
    agents = _build(trial)
    stack = Stack(agents)  # what has no stacked form is refused before there is a folder
    commands = seed_folders.create(command, count)
    protocol = agents[0].setup.envs.protocol
    with ExitStack() as files:
        locks = [files.enter_context(run.create(own, protocol)) for own in commands]
        loop = StackLoop(commands, agents, locks, stack)
        return _run(loop, [[] for _ in commands], say)


def resume(members: Sequence[Invocation], say: Callable[[str], object] = console.say) -> Ended:
    """Go on with runs that learn as one.

    Args:
        members: what to do with each.
        say: receives the progress messages.
    """
    commands = [member.command for member in members]
    places = [member.resume for member in members if member.resume is not None]
    agents = _build(commands)
    with ExitStack() as files:
        locks = [files.enter_context(RunLock(place)) for place in places]
        loop = StackLoop(commands, agents, locks)
        return _run(loop, loop.resume([member.saved for member in members]), say)


def _build(commands: Sequence[Command]) -> list[Agent]:
    diagnose = commands[0].run.diagnose
    require(
        not diagnose, f"diagnose={diagnose!r}: observers need a run by itself, not seeds as one"
    )
    require(not commands[0].run.compile, "compile=True: losses of seeds as one are not compiled")
    doubts(commands[0])
    agents = [build_for_process(command) for command in commands]
    with undisturbed():
        for agent in agents:
            agent.policy(True)  # what cannot be evaluated is refused before it is trained
    return agents


def _run(loop: StackLoop, notes: Sequence[list[str]], say: Callable[[str], object]) -> Ended:
    """Say which runs these are, with what is to be noted of each, and train them."""
    _introduce(loop.loops, notes, say)
    with ExitStack() as files:
        loggers = [
            files.enter_context(Logger(own.folder, start.sinks(own.command, own.folder)))
            for own in loop.loops
        ]
        return list(zip(loop.run(loggers), loop.loops, strict=True))


def _introduce(
    loops: Sequence[Loop], notes: Sequence[list[str]], say: Callable[[str], object]
) -> None:
    """Say which runs these are, and write to each what it would have said alone."""
    first, warnings = loops[0], doubts(loops[0].command)
    protocol = first.agent.setup.envs.protocol
    seeds = [loop.command.run.seed for loop in loops]
    say(f"{len(seeds)} seeds as one, {seeds[0]} to {seeds[-1]}, each in a folder of its own")
    for line in [
        *start.introduction(first.command, first.folder.parent, protocol),
        *notes[0],
        *warnings,
    ]:
        say(line)
    for loop, remarks in zip(loops, notes, strict=True):
        lines = start.introduction(loop.command, loop.folder, protocol)
        for line in [*lines, *remarks, *warnings]:
            console.record(loop.folder, line)
