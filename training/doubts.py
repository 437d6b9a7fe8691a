"""Settings of which each is accepted, but which together train nothing, or not what they say."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from semigradient.errors import UserError
from semigradient.training.command import Command, RunConfig


def doubts(command: Command) -> list[str]:
    """Lines that warn of them; settings that an agent does not have raise none.

    Raises:
        UserError: settings that exclude each other.
    """
    settings = _integers(command.agent)
    _require_window(settings, command.run.num_envs)
    warnings = [*_never_starts(settings, command.run), *_forgets(settings)]
    return [f"warning: {text}" for text in warnings]


def _integers(config: Any) -> dict[str, int]:
    """The integer settings of an agent."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {name: value for name, value in values.items() if type(value) is int}


def _require_window(settings: dict[str, int], num_envs: int) -> None:
    """Steps that are drawn together must fit into what the memory holds of one environment."""
    n, size = settings.get("n_step", 1), settings.get("buffer_size")
    if size is not None and n > max(1, size // num_envs):
        raise UserError(
            f"n_step={n}: must be ≤ buffer_size / num_envs = {size} / {num_envs} = "
            f"{size // num_envs}, the steps that the memory holds of an environment"
        )


def _never_starts(settings: dict[str, int], run: RunConfig) -> Iterator[str]:
    """Learning that begins when the run is over."""
    starts = {
        f"learning_starts={settings.get('learning_starts')}": settings.get("learning_starts", 0),
        f"warm_up={settings.get('warm_up')}": settings.get("warm_up", 0) * run.num_envs,
    }
    for text, steps in starts.items():
        if steps >= run.steps:
            yield f"{text}: {steps} steps, and the run has {run.steps}: nothing is learned"


def _forgets(settings: dict[str, int]) -> Iterator[str]:
    """A memory that cannot hold what is collected before learning."""
    start, size = settings.get("learning_starts", 0), settings.get("buffer_size", 0)
    if 0 < size < start:
        yield f"learning_starts={start}: more than buffer_size={size}, which forgets the first"
