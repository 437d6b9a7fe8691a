"""The loop around K runs that learn as one; each is logged, evaluated and saved as if alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from semigradient.errors import UserError
from semigradient.stacks import rounds
from semigradient.stacks.stack import Stack
from semigradient.training import start
from semigradient.training.command import Command
from semigradient.training.lock import RunLock
from semigradient.training.logging import Logger
from semigradient.training.loop import Loop, Outcome
from semigradient.training.progress import Progress
from semigradient.training.signals import AbandonedError, Signals


class StackLoop:
    """Trains K agents together until their steps are done or a signal arrives.

    A run that fails, because of a loss that is not finite for instance, fails alone: its place in
    the stack goes on, unheeded, and so do the others.

    Attributes:
        loops: one of each run.

    Args:
        commands: of each run; they differ in seeds and folders.
        agents: the learners.
        locks: on the run folders.
        stack: of the agents, where it has been made; else it is made once they are loaded.
    """

    def __init__(
        self,
        commands: Sequence[Command],
        agents: Sequence[Any],
        locks: Sequence[RunLock],
        stack: Stack | None = None,
    ) -> None:
        self.signals = Signals()
        self.agents = list(agents)
        self.loops = [
            Loop(*parts, signals=self.signals, settle=partial(self._settle, index))
            for index, parts in enumerate(zip(commands, agents, locks, strict=True))
        ]
        self.folder = self.loops[0].folder.parent
        self._stack = stack
        self._concluded: set[int] = set()

    def resume(self, saved: Sequence[Command | None]) -> list[list[str]]:
        """Load the newest checkpoints that all runs have; returns what to say of each.

        A process that was killed while it saved has left some runs one checkpoint behind.

        Args:
            saved: the commands before.

        Raises:
            UserError: there is no step of which all have a checkpoint.
        """
        triples = zip(self.loops, saved, self._last_steps(), strict=True)
        return [start.resume(loop, before, until) for loop, before, until in triples]

    def _last_steps(self) -> list[int]:
        """For each run the step of the last checkpoint of all; -1: all begin again."""
        savers = [loop.saver for loop in self.loops]
        for together in rounds.read(self.folder, len(savers)):
            if all(saver.saved_steps(step) for saver, step in zip(savers, together, strict=True)):
                return together
        steps = [saver.saved_steps() for saver in savers]
        common = set.intersection(*map(set, steps))
        if common:
            return [max(common)] * len(steps)
        # Killed while the first checkpoints were written, some runs have none.
        if all(len(own) <= 1 for own in steps) and [] in steps:
            return [-1] * len(steps)
        pairs = zip(self.loops, steps, strict=True)
        places = [f"{loop.folder.name} at {own[0] if own else 'none'}" for loop, own in pairs]
        raise UserError(
            f"{self.folder}: the seeds have no checkpoint of the same step "
            f"({', '.join(places)}); continue each by itself"
        )

    def run(self, loggers: Sequence[Logger]) -> list[Outcome]:
        """Train; each run ends with a `summary.json` of its own."""
        outcomes: dict[int, Outcome] = {}
        run = self.loops[0].command.run
        try:
            for loop, logger in zip(self.loops, loggers, strict=True):
                loop.open(logger)
            stack = self._stack = self._stack or Stack(self.agents)
            with self.signals, Progress(run.steps, run.progress, self._steps) as bar:
                self._train(stack, outcomes, bar)
        except AbandonedError:
            outcomes = {**{i: loop.interrupted() for i, loop in self._others(outcomes)}, **outcomes}
        except Exception as problem:
            failures = {i: loop.failed(problem) for i, loop in self._others(outcomes)}
            outcomes = {**failures, **outcomes}
        for index, loop in enumerate(self.loops):
            if index not in self._concluded:
                loop.conclude(outcomes[index])
        return [outcomes[index] for index in range(len(self.loops))]

    @property
    def _steps(self) -> int:
        return min(agent.progress.steps for agent in self.agents)

    def _train(self, stack: Stack, outcomes: dict[int, Outcome], bar: Progress) -> None:
        for index, loop in self._others(outcomes):
            loop.make_up()
            self._end(index, outcomes)
        while self._others(outcomes) and not self.signals.received:
            before = [agent.progress.steps for agent in self.agents]
            scalars = stack.iterate()
            running = self._others(outcomes)
            save = any(loop.is_saved_at(before[index]) for index, loop in running)
            for index, loop in running:
                try:
                    loop.attend(before[index], scalars[index], save)
                except Exception as problem:
                    outcomes[index] = loop.failed(problem)
                self._end(index, outcomes)
            if save or self.signals.received:
                self._note_round()
            bar.update(self._steps, *self._means())
        for index, loop in self._others(outcomes):
            outcomes[index] = loop.ended()
        self._note_round()

    def _end(self, index: int, outcomes: dict[int, Outcome]) -> None:
        """Note that a run has made its steps; its place goes on, unheeded."""
        loop = self.loops[index]
        if index not in outcomes and loop.agent.progress.steps >= loop.command.run.steps:
            outcomes[index] = loop.ended()
            loop.conclude(outcomes[index])
            self._concluded.add(index)

    def _note_round(self) -> None:
        """Write down which checkpoints are of one instant; seeds may make steps of their own."""
        steps = [loop.saver.saved_step for loop in self.loops]
        rounds.note(self.folder, steps, self.loops[0].command.run.keep)

    def _others(self, outcomes: dict[int, Outcome]) -> list[tuple[int, Loop]]:
        """Numbers and loops of the runs that have not ended."""
        return [(index, loop) for index, loop in enumerate(self.loops) if index not in outcomes]

    def _means(self) -> tuple[float | None, float | None]:
        """Latest evaluation and return of training episodes, over the runs that have them."""
        pairs = [
            [loop.evaluation.get("mean") for loop in self.loops],
            [loop.latest.get("episode/return") for loop in self.loops],
        ]
        known = [[value for value in values if value is not None] for values in pairs]
        first, second = (sum(values) / len(values) if values else None for values in known)
        return first, second

    def _settle(self, index: int) -> None:
        if self._stack is not None:
            self._stack.settle(index)
