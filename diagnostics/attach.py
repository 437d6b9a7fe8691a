"""Attaching observers to a run: when they measure, with what, and where the results go.

Observers change nothing. Their random numbers come from generators of their own, seeded for each
measurement by the run's seed and the step; held-out experience is played in environments of
their own; the state of the global generators is restored.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from semigradient import diagnostics
from semigradient.diagnostics.examples import Experience
from semigradient.diagnostics.observer import Findings, Observer, Profile, Stateless, View
from semigradient.envs import make_vector
from semigradient.errors import one_line, require, warn
from semigradient.training.agent import Agent, generator
from semigradient.training.command import RunConfig
from semigradient.training.generators import undisturbed
from semigradient.training.logging import Logger, MetricsFile

SEED_OFFSET = 2_000_003
"""Distance between the root seeds of training and of held-out experience."""
HELD_OUT_ENVS = 8
HELD_OUT_STEPS = 64
_STREAM = 1 << 40  # generators of observers, apart from those of agents


class Attachment:
    """The observers of one run.

    Raises:
        UserError: a name is unknown, or the agent cannot support an observer.
    """

    def __init__(self, run: RunConfig, agent: Agent) -> None:
        self.run, self.agent = run, agent
        names = diagnostics.parse(run.diagnose)
        supported = supported_by(agent, names)
        if run.diagnose.strip() == "all":
            names = supported or ["all"]
        for name in names:
            require(
                name in supported,
                f"diagnose={name!r}: {run.agent} on {run.env} cannot support it; "
                f"accepted are {', '.join(supported_by(agent)) or 'none'}",
            )
        self.observers: dict[str, Observer] = {}
        for name in names:
            observer = diagnostics.load(name)
            self.observers[name] = observer() if isinstance(observer, type) else Stateless(observer)
        self._logger: Logger | None = None
        self._profiles: MetricsFile | None = None
        self._next_drawing = 0.0

    def open(self, logger: Logger) -> None:
        """Set the destination of the results: the run folder of the logger."""
        self._logger = logger
        self._profiles = MetricsFile(logger.folder / "diagnostics.jsonl")

    def measure(self, step: int) -> None:
        """Let every observer measure, and write the results."""
        assert self._logger is not None
        assert self._profiles is not None
        scalars: dict[str, Any] = {}
        for name, written in self._written(step).items():
            scalars |= {f"diagnose/{name}/{key}": number for key, number in written[0].items()}
            for row in written[1]:
                self._profiles.write(step, row)
        if scalars:
            self._logger.scalars(step, scalars)

    def draw(self, step: int, last: bool) -> None:
        """Draw everything measured so far into `diagnostics/`, and hand it to the sinks.

        Before the last step, only if drawing would take less than a twentieth of the time.
        """
        assert self._logger is not None
        from semigradient.diagnostics.plots import draw

        started = time.monotonic()
        if not last and started < self._next_drawing:
            return
        try:
            for path in draw(self._logger.folder, list(self.observers)):
                self._logger.image(step, path, f"diagnose/{path.stem}")
        except Exception as problem:  # a picture is no reason to stop training
            warn(f"diagnostics cannot be drawn ({one_line(problem, 200)})")
        now = time.monotonic()
        self._next_drawing = now + 20 * (now - started)

    def truncate_after(self, step: int) -> None:
        """Drop profiles later than `step`, before resuming from there."""
        assert self._profiles is not None
        self._profiles.truncate_after(step)

    def close(self) -> None:
        """Close the file."""
        if self._profiles is not None:
            self._profiles.close()

    def state_dict(self) -> dict[str, Any]:
        """State of the observers."""
        states = {}
        for name, observer in list(self.observers.items()):
            try:
                states[name] = observer.state_dict()
            except Exception as problem:
                self._drop(name, problem)
        return states

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state; an observer without one starts afresh."""
        for name, observer in self.observers.items():
            if name in state:
                observer.load_state_dict(state[name])

    def _written(self, step: int) -> dict[str, tuple[dict[str, float], list[dict[str, Any]]]]:
        """The findings of each observer as numbers, and as rows for the file of profiles."""
        written = {}
        for name, findings in self._findings(step).items():
            try:
                numbers = {key: value.item() for key, value in findings.scalars.items()}
                rows = [_row(name, key, p) for key, p in findings.profiles.items()]
            except Exception as problem:  # no such numbers, no such curves
                self._drop(name, problem)
                continue
            written[name] = (numbers, rows)
        return written

    def _drop(self, name: str, problem: Exception) -> None:
        """Switch an observer off: a measurement is no reason to stop training."""
        del self.observers[name]
        warn(f"diagnostic {name} failed and is off from here on ({one_line(problem, 200)})")

    def _findings(self, step: int) -> dict[str, Findings]:
        findings: dict[str, Findings] = {}
        with undisturbed():
            try:
                experience = experience_of(self.agent)
            except Exception as problem:
                warn(f"no diagnostics at step {step}: no experience ({one_line(problem, 200)})")
                return findings
            if experience.times < 2:
                return findings
            held_out = lru_cache(1)(lambda: self._held_out(step))
            for name, observer in list(self.observers.items()):
                own = generator(self.run.seed, _stream(name, step))
                view = View(experience, held_out, own, self.run.diagnose_samples)
                try:
                    findings[name] = observer.measure(view)
                except Exception as problem:  # out of memory, a singular matrix, …
                    self._drop(name, problem)
        return findings

    def _held_out(self, step: int) -> Experience:
        """The agent's policy in environments whose seeds it never learns from."""
        run = self.run
        seed = run.seed + SEED_OFFSET + step
        envs = make_vector(run.env, HELD_OUT_ENVS, seed, **run.environment())
        try:
            return experience_of(self.agent, envs, HELD_OUT_STEPS, seed)
        finally:
            envs.close()


def experience_of(agent: Agent, *held_out: Any) -> Experience:
    """The experience of an agent that offers it."""
    return agent.experience(*held_out)  # type: ignore[attr-defined]


def supported_by(agent: Agent, names: Iterable[str] | None = None) -> list[str]:
    """Those of the diagnostics, all if none are named, that `agent` can support."""
    if not hasattr(agent, "experience"):
        return []
    experience = experience_of(agent)
    supported = []
    for name in diagnostics.names() if names is None else names:
        entry = diagnostics.entry(name)
        if experience.capacity >= entry.length and (experience.continuous or not entry.continuous):
            supported.append(name)
    return supported


def _stream(name: str, step: int) -> int:
    """Which generator an observer draws from at a step; each has its own."""
    own_names = list(diagnostics.OURS)
    if name in own_names:
        return _STREAM + step * len(own_names) + own_names.index(name)
    return (1 + zlib.crc32(name.encode()) << 64) + step


def _row(name: str, key: str, profile: Profile) -> dict[str, Any]:
    """A profile as the file keeps it."""
    curves = {label: _listed(curve) for label, curve in profile.curves.items()}
    row = {"diagnostic": name, "profile": key, "axis": profile.axis}
    return {**row, "x": _listed(profile.x), "curves": curves}


def _listed(curve: torch.Tensor) -> list[float | None]:
    """Numbers for JSON, which has no NaN."""
    numbers = curve.detach().double().cpu()
    return [value if np.isfinite(value) else None for value in numbers.tolist()]
