"""The loop around an agent: time, logging, evaluation, checkpoints, signals."""

from __future__ import annotations

import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np
import torch

from semigradient.training import checkpoint, parts
from semigradient.training.agent import Agent
from semigradient.training.command import Command
from semigradient.training.evaluation import score
from semigradient.training.logging import Logger
from semigradient.training.progress import Progress
from semigradient.training.run import write_json
from semigradient.training.summary import summarise


class NonFiniteError(RuntimeError):
    """A loss or a parameter is no longer finite."""


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        status: finished, interrupted or failed.
        exit_code: 0, 128 + signal, or 1.
        message: one line for the user.
    """

    status: str
    exit_code: int
    message: str


class Observers(Protocol):
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

    def state_dict(self) -> dict[str, Any]:
        """Everything that makes the next measurement identical."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state."""
        ...


class Loop:
    """Trains an agent in a run folder until the steps are done or a signal arrives.

    Everything periodic happens where `steps` crosses a multiple of its period, between two
    iterations, in the order log, evaluate, checkpoint. So every checkpoint lies between
    two iterations, and a resumed run logs what the uninterrupted one would have logged.
    Observers, if any, measure after the log.
    """

    def __init__(
        self,
        command: Command,
        agent: Agent,
        folder: Path,
        observers: Observers | None = None,
    ) -> None:
        self.command, self.agent, self.folder = command, agent, folder
        self.observers = observers
        self.latest: dict[str, Any] = {}
        self.evaluation: dict[str, float] = {}
        self.further_scores: dict[str, float] = {}
        self.last_checkpoint: Path | None = None
        self.signal = 0
        self.logger: Logger
        self._scalars: dict[str, Any] = {}

    def run(self, logger: Logger) -> Outcome:
        """Train; writes `summary.json` in every case."""
        self.logger = logger
        run = self.command.run
        try:
            if self.observers is not None:
                self.observers.open(logger)
            if self.last_checkpoint is not None:
                logger.truncate_after(self.agent.progress.steps)
                if self.observers is not None:
                    self.observers.truncate_after(self.agent.progress.steps)
            bar = Progress(run.steps, run.progress, self.agent.progress.steps)
            with _Signals(self), bar:
                outcome = self._train(bar)
        except Exception as problem:
            outcome = Outcome("failed", 1, self._explain(problem))
            self._summarise(outcome)
            if not isinstance(problem, (OSError, RuntimeError)) or isinstance(
                problem, NotImplementedError
            ):
                raise
            return outcome
        finally:
            if self.observers is not None:
                self.observers.close()
        self._summarise(outcome)
        return outcome

    def resume(self) -> list[str]:
        """Load the newest valid checkpoint; returns notes for the user."""
        loaded = checkpoint.load(self.folder / "checkpoints", self.command.identity())
        parts.load(self.agent, loaded.state["agent"])
        torch.set_rng_state(loaded.state["torch_rng"])
        if torch.cuda.is_available() and loaded.state.get("cuda_rng") is not None:
            torch.cuda.set_rng_state(loaded.state["cuda_rng"])
        self.evaluation = loaded.state["evaluation"]
        self.last_checkpoint = loaded.path
        if self.observers is not None:
            self.observers.load_state_dict(loaded.state.get("observers", {}))
        notes = [f"skipped damaged checkpoint: {reason}" for reason in loaded.skipped]
        exact = self.agent.progress.exact
        kind = "exact" if exact else "statistical: the environment started a fresh episode"
        return [*notes, f"resumed at step {loaded.step} from {loaded.path.name} ({kind})"]

    def _train(self, bar: Progress) -> Outcome:
        run, agent = self.command.run, self.agent
        while agent.progress.steps < run.steps:
            before = agent.progress.steps
            self._scalars = dict(agent.iterate())
            now = agent.progress.steps
            last = now >= run.steps
            if last or _crossed(before, now, run.log_every):
                self._log()
            if last or _crossed(before, now, run.diagnose_every):
                self._observe()
            if last or _crossed(before, now, run.eval_every):
                self._evaluate(final=last)
            if last or self.signal or _crossed(before, now, run.checkpoint_every):
                self._checkpoint(last)
            bar.update(now, self.evaluation.get("mean"), self.latest.get("episode/return"))
            if self.signal and not last:
                name = signal.Signals(self.signal).name
                text = f"{name} at step {now}; continue with --resume {self.folder}"
                return Outcome("interrupted", 128 + self.signal, text)
        return Outcome("finished", 0, f"{agent.progress.steps} steps")

    def _log(self) -> None:
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

    def _evaluate(self, final: bool) -> None:
        scores = score(self.command, self.agent.policy(True), self.command.run.eval_episodes)
        summary = summarise(scores.returns, np.random.default_rng(0))
        self.evaluation = {"episodes": len(scores.returns), **summary}
        logged = ("mean", "median", "iqm", "std")
        scalars = {f"eval/{key}": summary[key] for key in logged}
        scalars["eval/length"] = float(scores.lengths.mean())
        clock = self.agent.setup.envs.clock
        if clock is not None:
            scalars["eval/scaled_return"] = summary["mean"] * clock.return_scale
        further_scores: Any = getattr(self.agent, "further_scores", dict)
        self.further_scores = further_scores()
        scalars |= {f"eval/{name}": value for name, value in self.further_scores.items()}
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
        """Save everything for resuming, and the small part that evaluation needs."""
        self._require_finite({})
        identity = self.command.identity()
        policy = {"policy": parts.policy_state(self.agent)}
        checkpoint.save(self.folder / "policy", self.agent.progress.steps, policy, identity, keep=1)
        state = {
            "agent": parts.state(self.agent),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
            "evaluation": self.evaluation,
        }
        if self.observers is not None:
            state["observers"] = self.observers.state_dict()
            with self.agent.timers("diagnose"):
                self.observers.draw(self.agent.progress.steps, last)
        self.last_checkpoint = checkpoint.save(
            self.folder / "checkpoints", self.agent.progress.steps, state, identity
        )

    def _require_finite(self, scalars: dict[str, float]) -> None:
        bad = [f"{key} = {value}" for key, value in scalars.items() if not np.isfinite(value)]
        tensors = parts.learned(self.agent)
        bad += [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
        if bad:
            latest = self.last_checkpoint
            raise NonFiniteError(
                f"not a finite number at step {self.agent.progress.steps}: {bad[0]}; "
                f"last good checkpoint: {latest if latest is not None else 'none yet'}"
            )

    def _explain(self, problem: Exception) -> str:
        text = f"{type(problem).__name__}: {problem}"
        if self.last_checkpoint is not None and str(self.last_checkpoint) not in text:
            text += f"; continue from {self.last_checkpoint.name} with --resume {self.folder}"
        return text

    def _summarise(self, outcome: Outcome) -> None:
        """Write `summary.json`: `seconds` of all attempts, `phases` of this one."""
        summary = {
            "status": outcome.status,
            "message": outcome.message,
            "steps": self.agent.progress.steps,
            "seconds": round(self.logger.metrics.seconds, 3),
            "eval": {**self.evaluation, **self.further_scores},
            "phases": {key: round(s, 3) for key, s in self.agent.timers.seconds.items()},
        }
        try:
            write_json(self.folder / "summary.json", summary)
        except OSError as problem:
            outcome.message += f" (summary.json could not be written: {problem.strerror})"
            outcome.exit_code = outcome.exit_code or 1
        self.logger.summary({f"final/{key}": value for key, value in self.evaluation.items()})


class _Signals:
    """SIGINT and SIGTERM make the loop save and exit; a second one exits at once."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._handle)

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.loop.signal:
            raise SystemExit(128 + number)
        self.loop.signal = number


def _crossed(before: int, now: int, period: int) -> bool:
    return period > 0 and now // period > before // period
