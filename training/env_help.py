"""The part of `--help` on an environment: its options, their meaning and defaults."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from semigradient.envs import check_id, options_class
from semigradient.envs.single import keywords
from semigradient.validate import describe as lines_of
from semigradient.validate import paragraph, shown


@contextmanager
def after(env_id: str) -> Iterator[None]:
    """Print an environment's options where the block leaves after its own `--help`."""
    try:
        yield
    except SystemExit:
        print(describe(env_id))
        raise


def describe(env_id: str) -> str:
    """The options of an environment as lines; empty without one.

    Raises:
        UserError: there is no such environment.
    """
    if not env_id:
        return ""
    spec = check_id(env_id)
    cls = options_class(spec)
    lines = _foreign(spec) if cls is None else lines_of(cls, defaults(spec))
    if "core" in spec.kwargs:
        lines += paragraph("device", "Where it computes: cpu, cuda or cuda:N. (default: cpu)")
    base = spec.kwargs.get("base")
    if base is not None:
        lines += _foreign(check_id(base))
    title = f"options of {env_id} (--env-options KEY=VALUE …):"
    return "\n".join(["", "", title, *lines])


def defaults(spec: EnvSpec) -> Mapping[str, Any]:
    """Options that the registered id fixes."""
    from semigradient.envs.atari import AtariOptions, registered

    return registered(spec) if options_class(spec) is AtariOptions else dict(spec.kwargs)


def _foreign(spec: EnvSpec) -> list[str]:
    """Keyword arguments of an environment that is not ours, and where they are explained."""
    try:
        parameters, has_others = keywords(spec)
    except (ImportError, gymnasium.error.Error) as problem:
        return [f"  {spec.id} needs a package: {' '.join(str(problem).split())}"]
    lines = []
    for name, value in parameters.items():
        text = "no default" if value is inspect.Parameter.empty else f"default: {shown(value)}"
        lines += paragraph(name, f"({text})")
    lines += ["  and others"] if has_others else []
    return [*lines, f"  What they mean is documented with {spec.entry_point}."]
