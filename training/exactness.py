"""Whether a resumed run goes on exactly as if it had not stopped, and if not, why.

Exact means: bit for bit what the uninterrupted run would have been, on one machine and version, on
CPU, in an environment that repeats itself. Everything else is the same learner in the same state,
whose future agrees statistically.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from semigradient.training.agent import Agent
from semigradient.training.command import Command

_COMPUTATION = ("device", "threads", "compile")


def reasons(
    agent: Agent,
    command: Command,
    saved: Command | None,
    before: Mapping[str, Any],
    now: Mapping[str, Any],
) -> list[str]:
    """Why the continuation is not exact; empty: it is.

    Args:
        agent: with the checkpoint loaded.
        command: what goes on.
        saved: what the run folder said before; None: the same.
        before, now: provenance of the last attempt and of this one.
    """
    return [
        *_environment(agent),
        *_computation(agent, command, saved),
        *_surroundings(before, now),
    ]


def _environment(agent: Agent) -> Iterator[str]:
    envs = agent.setup.envs
    if not agent.progress.exact:
        yield "the environment started a fresh episode"
    elif not envs.is_repeatable:
        yield "the simulator does not repeat itself exactly"


def _computation(agent: Agent, command: Command, saved: Command | None) -> Iterator[str]:
    if agent.setup.device.type != "cpu":
        yield f"sums on {agent.setup.device.type} may come in another order"
    if saved is None:
        return
    for name in _COMPUTATION:
        old, new = getattr(saved.run, name), getattr(command.run, name)
        if old != new:
            yield f"{name} {old} → {new}"
    if saved.run.span != command.run.span:
        yield f"schedules span {command.run.span} steps instead of {saved.run.span}"


def _surroundings(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    if not before:
        yield "provenance.json does not say what the run was made with"
        return
    old, new = (_table(p, "versions") for p in (before, now))
    for package in sorted({*old, *new}):
        if old.get(package) != new.get(package):
            yield f"{package} {old.get(package)} → {new.get(package)}"
    if before.get("commit") != now.get("commit"):
        yield f"commit {before.get('commit')} → {now.get('commit')}"
    processors = [_table(p, "hardware").get("cpu") for p in (before, now)]
    if processors[0] != processors[1]:
        yield f"processor {processors[0]} → {processors[1]}"


def _table(provenance: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = provenance.get(name)
    return table if isinstance(table, Mapping) else {}
