"""The choice of a setting from a grid, by runs on seeds that no reported score comes from.

Each setting is trained and evaluated on the tuning seeds; the one with the best mean return is
chosen, for each agent and environment by itself, the first one of equals. A setting whose training
diverged on a seed comes after all that did not; one whose runs are missing for another reason (an
interruption, a killed process) leaves the choice open.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from semigradient.experiments.cells import Run
from semigradient.experiments.settings import read_grid

FIRST_SEED = 500_000
"""First tuning seed: far from evaluation seeds, which count from 0."""
DEFAULT_SEEDS = 2


def seeds(count: int) -> range:
    """The tuning seeds."""
    return range(FIRST_SEED, FIRST_SEED + count)


@dataclass(frozen=True)
class Trial:
    """One setting: its runs, one per tuning seed."""

    setting: str
    runs: Sequence[Run]

    @cached_property
    def scores(self) -> list[float]:
        """Mean return of each run that is done."""
        return [float(run.evaluation["mean"]) for run in self.runs if run.done]

    @cached_property
    def diverged(self) -> int:
        """Runs that diverged."""
        return sum(run.diverged for run in self.runs)

    @property
    def missing(self) -> list[Run]:
        """Runs without a result."""
        return [run for run in self.runs if not run.done and not run.diverged]

    @property
    def score(self) -> float:
        """Mean over runs; minus infinity if one diverged."""
        return float(np.mean(self.scores)) if self.scores and not self.diverged else -math.inf


@dataclass(frozen=True)
class Choice:
    """The choice among the settings of one optimizer for one agent and environment."""

    agent: str
    optim: str
    env: str
    trials: Sequence[Trial]

    @property
    def runs(self) -> list[Run]:
        """The runs of all settings."""
        return [run for trial in self.trials for run in trial.runs]

    @property
    def missing(self) -> list[Run]:
        """Runs that the choice waits for."""
        return [run for trial in self.trials for run in trial.missing]

    @cached_property
    def setting(self) -> str | None:
        """The best setting; None while runs are missing, or if all settings diverged."""
        best = max(self.trials, key=lambda trial: trial.score)
        return None if self.missing or best.score == -math.inf else best.setting

    @property
    def edges(self) -> list[str]:
        """What to know of a choice at the end of its grid."""
        return read_grid(self.optim).edges(self.setting) if self.setting is not None else []

    @property
    def reason(self) -> str:
        """Why there is no choice."""
        if not self.missing:
            return "every setting diverged"
        total = len(self.runs)
        status, words = self.missing[0].standing()
        first = f"{self.missing[0].cell.name} {words or status}"
        return f"{len(self.missing)} of {total} tuning runs are not done ({first})"

    def lines(self) -> list[str]:
        """The choice in words, and a warning for each edge."""
        where = f"{self.agent} with {self.optim} on {self.env}"
        if self.setting is None:
            return [f"{where}: no setting chosen: {self.reason}"]
        (best,) = (trial for trial in self.trials if trial.setting == self.setting)
        chosen = f"chosen is {self.setting} (mean return {best.score:.4g} on the tuning seeds)"
        return [f"{where}: {chosen}", *(f"{where}: {sentence}" for sentence in self.edges)]
