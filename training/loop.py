"""The loop around an agent: time, logging, evaluation, checkpoints, signals."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from semigradient.errors import one_line, require
from semigradient.training import compiling, console, parts
from semigradient.training.agent import Agent
from semigradient.training.checkpoint import Loaded
from semigradient.training.command import Command
from semigradient.training.evaluation import cut_note, score
from semigradient.training.lock import RunFolderGoneError, RunLock
from semigradient.training.logging import Logger
from semigradient.training.progress import Progress
from semigradient.training.run_files import write_json, write_text
from semigradient.training.saving import Saver, Stateful
from semigradient.training.signals import AbandonedError, Signals
from semigradient.training.summary import summarise

TRACEBACK = "traceback.txt"


class NonFiniteError(RuntimeError):
    """A loss or a parameter is no longer finite."""


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        status: finished, interrupted or failed.
        exit_code: 0, 128 + signal, or 1.
        message: one line for the user.
        problem: what made it fail.
    """

    status: str
    exit_code: int
    message: str
    problem: BaseException | None = None


class Observers(Stateful, Protocol):
    """Observers of a run, such as `diagnostics.attach.Attachment`."""

    def open(self, logger: Logger) -> None:
        """Set the destination of the results."""
        ...

    def measure(self, step: int) -> None:
        """Measure and log, changing nothing."""
        ...

    def draw(self, step: int, last: bool) -> None:
        """Draw everything measured so far; may skip this if it is too slow and not the last."""
        ...

    def truncate_after(self, step: int) -> None:
        """Drop everything later than `step`."""
        ...

    def close(self) -> None:
        """Close files."""
        ...


class Loop:
    """Trains an agent in a run folder until the steps are done or a signal arrives.

    Everything periodic happens where `steps` crosses a multiple of its period, between two
    iterations, in the order log, observe, checkpoint, evaluate. So every checkpoint lies between
    two iterations, an evaluation that hangs or fails costs nothing, and a resumed run logs what
    the uninterrupted one would have logged: it makes up for an evaluation that was cut short.

    Args:
        command: what to do.
        agent: the learner.
        lock: on the run folder.
        observers: measure after each log, if there are any.
        signals: noted here; default: its own.
        settle: brings the agent's state up to date, called before it is saved.
    """

    def __init__(
        self,
        command: Command,
        agent: Agent,
        lock: RunLock,
        observers: Observers | None = None,
        signals: Signals | None = None,
        settle: Callable[[], object] = lambda: None,
    ) -> None:
        self.command, self.agent, self.lock, self.folder = command, agent, lock, lock.folder
        self.observers = observers
        self.saver = Saver(command, agent, lock.folder, observers)
        self.signals = signals or Signals()
        self.settle = settle
        self.latest: dict[str, Any] = {}
        self.further_scores: dict[str, float] = {}
        self.references: dict[str, float] = {}
        self.logger: Logger
        self._scalars: Mapping[str, Any] = {}
        self._continues = False
        self._compiled_before = compiling.STOPWATCH.seconds

    @property
    def evaluation(self) -> dict[str, float]:
        """The latest evaluation."""
        return self.saver.evaluation

    def resume(self, until: int | None = None) -> Loaded | None:
        """Load the newest valid checkpoint; None: there is none yet, and the run starts afresh.

        Args:
            until: steps of the last one that counts; later ones are dropped.

        Raises:
            UserError: all are damaged, it does not fit, or it is beyond the steps asked for.
        """
        self._continues, run = True, self.command.run
        if until is not None:
            self.saver.discard_after(until)
        if self.saver.is_empty():
            return None
        loaded = self.saver.load()
        require(
            run.steps >= loaded.step or loaded.step - run.steps < run.num_envs,
            f"steps={run.steps}: the run has already made {loaded.step} steps; "
            "accepted are as many or more",
        )
        return loaded

    def run(self, logger: Logger) -> Outcome:
        """Train; writes `summary.json` in every case, and `traceback.txt` after a failure."""
        try:
            self.open(logger)
            steps = self.agent.progress.steps
            with (
                self.signals,
                Progress(self.command.run.steps, self.command.run.progress, steps) as bar,
            ):
                outcome = self._train(bar)
        except AbandonedError:
            outcome = self.interrupted()
        except Exception as problem:
            outcome = self.failed(problem)
        finally:
            if self.observers is not None:
                self.observers.close()
        self.conclude(outcome)
        return outcome

    def open(self, logger: Logger) -> None:
        """Log here from now on; of a resumed run, what is later than its checkpoint goes."""
        self.logger = logger
        if self.observers is not None:
            self.observers.open(self.logger)
        if self._continues:
            step, due = self.saver.saved_step, self.saver.is_evaluation_due
            self.logger.truncate_after(step, due)
            if self.observers is not None:
                self.observers.truncate_after(step)

    def _train(self, bar: Progress) -> Outcome:
        self.make_up()
        while self.agent.progress.steps < self.command.run.steps and not self.signals.received:
            before = self.agent.progress.steps
            self.attend(before, self.agent.iterate())
            bar.update(
                self.agent.progress.steps,
                self.evaluation.get("mean"),
                self.latest.get("episode/return"),
            )
        return self.ended()

    def make_up(self) -> None:
        """The evaluation that was cut short before the run was resumed, if there is one."""
        if self.saver.is_evaluation_due:
            self._evaluate()

    def ended(self) -> Outcome:
        """How the run ended; saves it if it was interrupted."""
        if self.agent.progress.steps >= self.command.run.steps:
            return Outcome("finished", 0, f"{self.agent.progress.steps} steps")
        if self.saver.saved_step != self.agent.progress.steps:
            self._checkpoint(last=False)
        return self.interrupted()

    def is_saved_at(self, before: int) -> bool:
        """Whether something that came since the step `before` asks for a checkpoint."""
        run, now = self.command.run, self.agent.progress.steps
        periods = [_crossed(before, now, every) for every in (run.eval_every, run.checkpoint_every)]
        return any(periods) or now >= run.steps or self.saver.is_time()

    def attend(self, before: int, scalars: Mapping[str, Any], save: bool = False) -> None:
        """Do everything periodic that became due since the step `before`; `save` in any case."""
        self._scalars = scalars
        run, now = self.command.run, self.agent.progress.steps
        last = now >= run.steps
        if last or _crossed(before, now, run.log_every):
            self._log()
        if last or _crossed(before, now, run.diagnose_every):
            self._observe()
        is_due = last or _crossed(before, now, run.eval_every)
        self.saver.is_evaluation_due = is_due
        is_asked = _crossed(before, now, run.checkpoint_every) or self.saver.is_time()
        if is_due or is_asked or save or self.signals.received:
            self._checkpoint(last)
        if is_due:
            self._evaluate()

    def interrupted(self) -> Outcome:
        """The outcome of a run that a signal ended."""
        newest, step = self.saver.newest, self.agent.progress.steps
        saved = f"the last checkpoint is {newest.name}" if newest else "nothing was saved yet"
        place = "" if self.saver.saved_step == step else f" ({saved})"
        text = f"{self.signals.name} at step {step}{place}; continue with --resume {self.folder}"
        return Outcome("interrupted", 128 + self.signals.received, text)

    def _log(self) -> None:
        self.lock.require_folder()
        scalars = {f"train/{key}": float(value) for key, value in self._scalars.items()}
        episodes = self.agent.progress.pop_episodes()
        if episodes:
            returns, lengths = zip(*episodes, strict=True)
            scalars["episode/return"] = float(np.mean(returns))
            scalars["episode/length"] = float(np.mean(lengths))
            scalars["episode/count"] = len(episodes)
        self._require_finite(scalars)
        self.latest = scalars
        self.logger.scalars(self.agent.progress.steps, scalars)

    def _observe(self) -> None:
        if self.observers is not None:
            with self.agent.timers("diagnose"):
                self.observers.measure(self.agent.progress.steps)

    def _evaluate(self) -> None:
        """Score the policy; a signal ends this at once, and a resumed run does it again."""
        with self.signals.abandonable():
            policy = self.agent.policy(True)
            scores = score(self.command, policy, self.command.run.eval_episodes)
            further_scores: Any = getattr(self.agent, "further_scores", dict)
            self.further_scores = further_scores()
        self.references = dict(scores.references)
        if scores.cut:
            note = cut_note(scores)
            console.say(note, error=True)
            console.record(self.folder, note)
        summary = summarise(scores.returns, np.random.default_rng(0))
        self.lock.require_folder()
        self.saver.note({"episodes": len(scores.returns), **summary, **scores.cut_count()})
        logged = ("mean", "median", "iqm", "std")
        scalars = {f"eval/{key}": summary[key] for key in logged}
        scalars["eval/length"] = float(scores.lengths.mean())
        clock = self.agent.setup.envs.clock
        if clock is not None:
            scalars["eval/scaled_return"] = summary["mean"] * clock.return_scale
        beside = {**self.references, **self.further_scores}
        scalars |= {f"eval/{name}": value for name, value in beside.items()}
        self.logger.scalars(self.agent.progress.steps, scalars)
        self._draw()

    def _draw(self) -> None:
        """Log the agent's pictures of what it learned, if it has any."""
        pictures: Any = getattr(self.agent, "pictures", dict)
        for name, picture in pictures().items():
            import imageio.v3 as iio

            path = self.folder / "pictures" / f"{name}-{self.agent.progress.steps:012d}.png"
            path.parent.mkdir(exist_ok=True)
            iio.imwrite(path, picture)
            self.logger.image(self.agent.progress.steps, path, f"pictures/{name}")

    def _checkpoint(self, last: bool) -> None:
        self.settle()
        self._require_finite({})
        self.lock.require_folder()
        if self.observers is not None:
            with self.agent.timers("diagnose"):
                self.observers.draw(self.agent.progress.steps, last)
        self.saver.save()

    def _require_finite(self, scalars: dict[str, float]) -> None:
        """Stop at losses and parameters that are not; what else is logged stops nothing."""
        losses = {key: value for key, value in scalars.items() if "loss" in key}
        bad = [f"{key} = {value}" for key, value in losses.items() if not np.isfinite(value)]
        tensors = parts.learned(self.agent)
        bad += [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
        if bad:
            newest = self.saver.newest
            raise NonFiniteError(
                f"not a finite number at step {self.agent.progress.steps}: {bad[0]}; "
                f"last good checkpoint: {newest if newest is not None else 'none yet'}"
            )

    def failed(self, problem: Exception) -> Outcome:
        """The outcome of a run that could not go on."""
        return Outcome("failed", 1, self._explain(problem), problem)

    def _explain(self, problem: Exception) -> str:
        """An error on one line, with the way on."""
        text, newest = one_line(problem), self.saver.newest
        if isinstance(problem, RunFolderGoneError):
            return str(problem)
        if newest is not None and str(newest) not in text:
            text += f"; continue from {newest.name} with --resume {self.folder}"
        return text

    def conclude(self, outcome: Outcome) -> None:
        """Write `summary.json`: `seconds` of all attempts, `phases` of this one."""
        self.logger.summary({f"final/{key}": value for key, value in self.evaluation.items()})
        if isinstance(outcome.problem, RunFolderGoneError):
            return
        summary = {
            "status": outcome.status,
            "message": outcome.message,
            "steps": self.agent.progress.steps,
            "seconds": round(self.logger.metrics.seconds, 3),
            "eval": {**self.evaluation, **self.references, **self.further_scores},
            "best": self.saver.best,
            "phases": {key: round(s, 3) for key, s in self.agent.timers.seconds.items()},
            "compiling_seconds": round(compiling.STOPWATCH.seconds - self._compiled_before, 3),
        }
        try:
            self.lock.require_folder()
            if outcome.problem is not None:
                lines = traceback.format_exception(outcome.problem)
                write_text(self.folder / TRACEBACK, "".join(lines))
            write_json(self.folder / "summary.json", summary)
        except OSError as problem:
            reason = problem.strerror or one_line(problem)
            outcome.message += f" (summary.json could not be written: {reason})"
            outcome.exit_code = outcome.exit_code or 1
        if cost := compiling.report(self._compiled_before):
            console.say(cost)
        console.record(self.folder, f"{outcome.status}: {outcome.message}")


def _crossed(before: int, now: int, period: int) -> bool:
    return period > 0 and now // period > before // period
