"""A single Gymnasium environment: its keyword arguments and its construction."""

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
    """Make one Gymnasium environment; every failure is a one-line error.

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

    `inspect.Parameter.empty` stands for no default. Values that the id itself sets take precedence.
    """
    try:
        parameters = inspect.signature(creator(spec)).parameters.values()
    except (TypeError, ValueError):  # written in C, say
        return dict(spec.kwargs), True
    defaults = {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    others = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    merged = {**defaults, **spec.kwargs}
    return {key: value for key, value in merged.items() if key not in _NOT_OPTIONS}, others


def creator(spec: EnvSpec) -> Callable[..., Any]:
    """The class or function that makes an environment."""
    point = spec.entry_point
    if isinstance(point, str):
        return gymnasium.envs.registration.load_env_creator(point)
    if point is None:
        raise TypeError(f"{spec.id} has no entry point")
    return point


def _refuse(env_id: str, problem: Exception) -> NoReturn:
    """Name the package that an environment needs, and the extra that installs it if one does."""
    for package, extra in (("Box2D", "box2d"), ("MuJoCo", "mujoco")):
        if package.lower() in str(problem).lower():
            missing(f"environment {env_id!r}", package, extra)
    words = " ".join(str(problem).split())
    raise UserError(f"environment {env_id!r} needs a package: {words}") from problem


def _check_names(spec: EnvSpec, options: Mapping[str, Any]) -> None:
    accepted, others = keywords(spec)
    for name in options:
        if name not in (*accepted, *_GYMNASIUM, "render_mode") and not others:
            unknown(f"option of {spec.id}", name, [*accepted, *_GYMNASIUM])
