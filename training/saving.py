"""What a run keeps of itself: checkpoints, its newest policy, and its best.

`checkpoints/` holds everything that resuming needs, `policy/` and `best/` the small part that
evaluation needs.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Protocol

import torch

from semigradient.errors import UserError, one_line, require
from semigradient.training import checkpoint, parts
from semigradient.training.agent import Agent
from semigradient.training.checkpoint import Loaded
from semigradient.training.command import Command
from semigradient.training.manifest import step_of

CHECKPOINTS, POLICY, BEST = "checkpoints", "policy", "best"


class Stateful(Protocol):
    """What has a state of its own beside the agent: the observers of a run."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that makes the next measurement identical."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state."""
        ...


class Saver:
    """Saves and loads one run.

    Attributes:
        evaluation: the latest one, as in `summary.json`.
        is_evaluation_due: whether the one of this step is still to come.
        best: `{"step": …, "mean": …}` of the best evaluation; None: none yet.
        newest: folder of the checkpoint saved or loaded last.
        saved_step: its step; -1: none.
    """

    def __init__(
        self, command: Command, agent: Agent, folder: Path, observers: Stateful | None
    ) -> None:
        self.command, self.agent, self.folder, self.observers = command, agent, folder, observers
        self.evaluation: dict[str, float] = {}
        self.is_evaluation_due = False
        self.best: dict[str, Any] | None = None
        self.newest: Path | None = None
        self.saved_step = -1
        self._saved_at = time.monotonic()
        self._hashed: set[Path] = set()

    def is_time(self) -> bool:
        """Whether `checkpoint_minutes` have passed since the last checkpoint of this process."""
        minutes = self.command.run.checkpoint_minutes
        return minutes > 0 and time.monotonic() - self._saved_at >= 60 * minutes

    def save(self) -> None:
        """Save everything for resuming, and the policy."""
        self._save_policy(POLICY)
        state = {
            "agent": parts.state(self.agent),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
            "evaluation": self.evaluation,
            "evaluation_due": self.is_evaluation_due,
            "best": self.best,
        }
        if self.observers is not None:
            state["observers"] = self.observers.state_dict()
        step, keep = self.agent.progress.steps, self.command.run.keep
        place = self.folder / CHECKPOINTS
        self.newest = checkpoint.save(place, step, state, self.command.identity(), keep)
        self.saved_step, self._saved_at = step, time.monotonic()

    def note(self, evaluation: dict[str, float]) -> None:
        """Take the evaluation of this step; keep the policy if there was no better one."""
        self.evaluation, self.is_evaluation_due = evaluation, False
        if self.best is None or evaluation["mean"] > self.best["mean"]:
            self.best = {"step": self.agent.progress.steps, "mean": evaluation["mean"]}
            self._save_policy(BEST)

    def is_empty(self) -> bool:
        """Whether the run was killed before its first checkpoint."""
        return not checkpoint.holds_any(self.folder / CHECKPOINTS)

    def saved_steps(self, step: int | None = None) -> list[int]:
        """Steps of the checkpoints that can be read, the newest first; `step`: of this one alone.

        What is found so need not be hashed once more by `load`.
        """
        found = checkpoint.intact(self.folder / CHECKPOINTS, step)
        self._hashed.update(found)
        return [step_of(path) for path in found]

    def discard_after(self, step: int) -> None:
        """Delete the checkpoints of later steps."""
        checkpoint.discard_after(self.folder / CHECKPOINTS, step)

    def load(self) -> Loaded:
        """Load the newest valid checkpoint into the agent.

        Raises:
            UserError: there is none, it is of another command, or it does not fit the agent.
        """
        place = self.folder / CHECKPOINTS
        identity, absent = self.command.identity(), self.command.absent()
        loaded = checkpoint.load(place, identity, absent, self._hashed)
        self._hashed.clear()
        fit(lambda: self._take(loaded.state), loaded)
        self.newest, self.saved_step = loaded.path, loaded.step
        checkpoint.discard_after(self.folder / BEST, loaded.step)
        if self.best is not None and not _is_there(self.folder / BEST, self.best["step"]):
            self.best = None
        if not _is_sound(self.folder / POLICY, loaded.step):
            self._save_policy(POLICY)
        return loaded

    def _take(self, state: dict[str, Any]) -> None:
        parts.load(self.agent, state["agent"])
        torch.set_rng_state(state["torch_rng"])
        if torch.cuda.is_available() and state.get("cuda_rng") is not None:
            torch.cuda.set_rng_state(state["cuda_rng"])
        evaluation, best = state["evaluation"], state.get("best")
        require(isinstance(evaluation, dict), "evaluation is no table")
        self.evaluation = {str(key): float(value) for key, value in evaluation.items()}
        self.is_evaluation_due = state.get("evaluation_due") is True
        if best is not None:
            self.best = {"step": int(best["step"]), "mean": float(best["mean"])}
        if self.observers is not None:
            self.observers.load_state_dict(state.get("observers", {}))

    def _save_policy(self, name: str) -> None:
        step = self.agent.progress.steps
        save_policy(self.folder / name, step, self.agent, self.command)


def save_policy(folder: Path, step: int, agent: Agent, command: Command) -> None:
    """Save the small part of a checkpoint that evaluation needs; older ones go."""
    state = {"policy": parts.policy_state(agent)}
    checkpoint.save(folder, step, state, command.identity(), keep=1)


def fit(take: Any, loaded: Loaded) -> None:
    """Call `take`; whatever a state of another form makes it raise is one line.

    Raises:
        UserError: names the checkpoint.
    """
    try:
        take()
    except Exception as problem:  # state of a stranger, or of another version: of any form
        raise UserError(
            f"{loaded.path}: does not fit the agent that the run's config.toml describes "
            f"({one_line(problem)[:300]})"
        ) from problem


def _is_there(folder: Path, step: int) -> bool:
    return (folder / checkpoint.folder_name(step)).is_dir()


def _is_sound(folder: Path, step: int) -> bool:
    try:
        return checkpoint.load(folder, None).step >= step
    except UserError:
        return False
