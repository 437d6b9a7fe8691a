"""Searches for molecules shared by several reproductions: agents, and their discoveries.

Methods are compared at equal numbers of *scored* molecules: distinct ones whose reward was
queried, in order. This is the cost of the reward, comparable between generative policies, MCMC
(which also queries rejected proposals) and genetic algorithms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from semigradient.domains.flows.constructions import blocks_of
from semigradient.domains.flows.top_molecules import TopMolecules
from semigradient.envs.molecules.fingerprints import similarity
from semigradient.envs.molecules.rewards import Scorer
from semigradient.reproductions.report import Job
from semigradient.training.build import build
from semigradient.training.cli import parse

Array = NDArray[np.float64]
POINTS = 20
KEPT = (100, 1000)
"""Numbers of best molecules whose similarity is measured."""


@dataclass(frozen=True)
class Search:
    """One method on one kind of molecules.

    Attributes:
        flags: of `train.py`.
        options: of the environment, KEY=VALUE.
        calls: molecules to be scored.
        thresholds: scores above which modes and scaffolds are counted.
    """

    flags: str
    options: tuple[str, ...]
    calls: int
    thresholds: tuple[float, ...]

    def scored(self, seed: int) -> list[tuple[str, float]]:
        """The molecules that were scored, in order; fewer if the method repeats itself."""
        words = [*self.flags.split(), "--env", "semigradient/Molecule-v0", "--seed", str(seed)]
        words += ["--threads", "1", "--steps", str(20 * self.calls)]
        agent = build(parse([*words, "--env-options", *self.options]).command)
        rules = blocks_of(agent.setup)
        assert rules is not None, "molecules are built of blocks"
        score = rules.score_of
        assert isinstance(score, Scorer)
        # Twenty steps per molecule are enough for a method that still discovers any.
        while score.calls < self.calls and agent.progress.steps < 20 * self.calls:
            agent.iterate()
            agent.progress.pop_episodes()
        return list(score.scored.items())[: self.calls]

    def results(self, seed: int) -> dict[str, Array]:
        """The `summary` of a run."""
        return summary(self.scored(seed), self.calls, self.thresholds)


def summary(
    scored: Sequence[tuple[str, float]], calls: int, thresholds: Sequence[float]
) -> dict[str, Array]:
    """Means of the best by calls, and final similarity, modes and scaffolds.

    Returns:
        `calls` and `top_10`, `top_100`, `top_1000` (POINTS,), NaN if there are fewer; `similar`,
        of the best `KEPT`; `modes`, `scaffolds` and `above` (thresholds,); `scored`, their number;
        `modes_by_calls` and `scaffolds_by_calls` (thresholds, POINTS), figures 5.10 and 5.11.
    """
    at = np.linspace(calls / POINTS, calls, POINTS).astype(int)
    values = np.array([score for _, score in scored])
    curves: dict[str, Array] = {"calls": at.astype(float), "scored": np.array([len(scored) * 1.0])}
    for k in (10, 100, 1000):
        best = [np.sort(values[:count])[-k:].mean() if count >= k else np.nan for count in at]
        curves[f"top_{k}"] = np.array(best)
    record, grown = TopMolecules(thresholds), []
    for part in np.split(np.arange(len(scored)), np.minimum(at, len(scored))[:-1]):
        record.add([scored[i][0] for i in part], values[part].tolist())
        grown.append(record.counters())
    for name in ("modes", "scaffolds", "above"):
        columns = [[each[f"{name}_{limit:g}"] for each in grown] for limit in thresholds]
        curves[name] = np.array(columns)[:, -1]
        curves[f"{name}_by_calls"] = np.array(columns)
    names = [name for name, _ in record.top(max(KEPT))]
    likeness = [similarity(names[:k]) if len(names) > 1 else np.nan for k in KEPT]
    curves["similar"] = np.array(likeness)
    return curves


def runs(job: Job, name: str, search: Search) -> dict[str, Array]:
    """The results of all seeds, (seeds, …) each."""
    parts = [
        job.cell(f"{name}-s{seed}", (search, seed), partial(search.results, seed))
        for seed in range(job.seeds)
    ]
    return {key: np.stack([part[key] for part in parts]) for key in parts[0]}
