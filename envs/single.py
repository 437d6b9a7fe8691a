"""One environment of Gymnasium or of others: what it may be given, and making it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import gymnasium
from gymnasium.envs.registration import EnvSpec

from semigradient.errors import UserError, missing, unknown
from semigradient.validate import first_line, shown

_GYMNASIUM = {"max_episode_steps": "steps after which an episode is cut off"}
_NOT_OPTIONS = {"self", "render_mode", "args", "kwargs"}


def make_single(env_id: str | EnvSpec, options: Mapping[str, Any]) -> gymnasium.Env:
    """One environment of Gymnasium; whatever goes wrong with its options is one line.

    Raises:
        UserError: an option that there is not, a package that is missing, or whatever the
            environment's constructor raises.
    """
    name = env_id if isinstance(env_id, str) else env_id.id
    try:
        spec = gymnasium.spec(env_id) if isinstance(env_id, str) else env_id
        _check_names(spec, options)
        return gymnasium.make(spec, disable_env_checker=True, **options)
    except UserError:
        raise
    except (gymnasium.error.DependencyNotInstalled, ModuleNotFoundError) as problem:
        _refuse(name, problem)
    except Exception as problem:
        chosen = ", ".join(f"{key}={shown(value)}" for key, value in options.items())
        raise UserError(f"environment {name!r} ({chosen}): {first_line(problem)}") from problem


def keywords(spec: EnvSpec) -> tuple[dict[str, Any], bool]:
    """Keyword arguments of an environment with their defaults, and whether it takes others too.

    A default of `inspect.Parameter.empty` says that there is none. What the id itself sets wins.
    """
    try:
        parameters = inspect.signature(creator(spec)).parameters.values()
    except (TypeError, ValueError):  # written in C, say
        return dict(spec.kwargs), True
    found = {
        each.name: each.default
        for each in parameters
        if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
    }
    others = any(each.kind is each.VAR_KEYWORD for each in parameters)
    known = {**found, **spec.kwargs}
    return {key: value for key, value in known.items() if key not in _NOT_OPTIONS}, others


def creator(spec: EnvSpec) -> Callable[..., Any]:
    """What makes an environment: its class or function."""
    point = spec.entry_point
    if isinstance(point, str):
        return gymnasium.envs.registration.load_env_creator(point)
    if point is None:
        raise TypeError(f"{spec.id} has no entry point")
    return point


def _refuse(env_id: str, problem: Exception) -> NoReturn:
    """Say which package an environment needs, and which extra brings it if one does."""
    for package, extra in (("Box2D", "box2d"), ("MuJoCo", "mujoco")):
        if package.lower() in str(problem).lower():
            missing(f"environment {env_id!r}", package, extra)
    words = " ".join(str(problem).split())
    raise UserError(f"environment {env_id!r} needs a package: {words}") from problem


def _check_names(spec: EnvSpec, options: Mapping[str, Any]) -> None:
    known, others = keywords(spec)
    for name in options:
        if name not in (*known, *_GYMNASIUM, "render_mode") and not others:
            unknown(f"option of {spec.id}", name, [*known, *_GYMNASIUM])
