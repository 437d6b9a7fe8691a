"""Validation of options, shared by agents, environments and optimizers.

A configuration is a frozen dataclass whose annotations define the accepted values:

    steps: Annotated[int, at_least(1)] = 20
    rate: Share = 0.5
    rule: Literal["edge", "exit_only"] = "edge"

`check_fields` validates a dataclass by its annotations, `build` creates one from user input, and
`describe` is its `--help`. Every error is one line that names the value and the accepted values.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import numbers
import textwrap
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal, NoReturn, Protocol, TypeVar, Union, cast

from semigradient.errors import UserError, require, unknown

Config = TypeVar("Config")
LARGEST = 2**63 - 1
"""Largest integer: integers are stored in int64 tensors."""


class Rule(Protocol):
    """A further condition of an annotation on a value."""

    def check(self, name: str, value: Any) -> None:
        """`UserError` unless `value` is accepted."""

    def __str__(self) -> str:
        """The accepted values, for `--help`."""
        ...


@dataclass(frozen=True)
class Range:
    """Numbers between two bounds, inclusive or exclusive."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def check(self, name: str, value: Any) -> None:
        """`UserError` for a number that is out of range, infinite or NaN."""
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        inside = above and below and not math.isinf(value)
        require(inside, f"{name}={shown(value)}: must be {self}")

    def __str__(self) -> str:
        if self.high == math.inf:
            bound = f"{'>' if self.open_low else '≥'} {self.low}"
            return "finite" if self.low == -math.inf else bound
        left, right = "(" if self.open_low else "[", ")" if self.open_high else "]"
        return f"in {left}{self.low}, {self.high}{right}"


@dataclass(frozen=True)
class Among:
    """One of several names."""

    names: tuple[str, ...]

    def check(self, name: str, value: Any) -> None:
        """`UserError` with the nearest names."""
        if value not in self.names:
            unknown(name, value, self.names)

    def __str__(self) -> str:
        return ", ".join(self.names)


def at_least(low: float) -> Range:
    """Numbers ≥ `low`."""
    return Range(low)


def above(low: float) -> Range:
    """Numbers > `low`."""
    return Range(low, open_low=True)


def within(low: float, high: float) -> Range:
    """Numbers in [low, high]."""
    return Range(low, high)


def among(names: Iterable[str]) -> Among:
    """One of `names`."""
    return Among(tuple(names))


Count = Annotated[int, at_least(1)]
"""A positive integer."""
Natural = Annotated[int, at_least(0)]
"""A non-negative integer."""
Seed = Annotated[int, within(0, LARGEST - 2**32)]
"""Root of random generators of 64 bits; evaluations and diagnostics add to it."""
Share = Annotated[float, within(0, 1)]
"""A probability or fraction."""
Positive = Annotated[float, above(0)]
NonNegative = Annotated[float, at_least(0)]


def check_fields(config: Any) -> None:
    """Validate every field by its annotation; converts integers to floats and lists to tuples.

    Call from `__post_init__` of a frozen dataclass. Numbers must be finite.
    """
    cls: Any = type(config)
    hints = hints_of(cls)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        fitting = conform(field.name, value, hints[field.name])
        finite = not isinstance(fitting, float) or math.isfinite(fitting)
        require(finite, f"{field.name}={value!r}: must be finite")
        object.__setattr__(config, field.name, fitting)


def build(cls: type[Config], values: Mapping[str, Any], noun: str = "option") -> Config:
    """A dataclass instance from user input.

    Raises:
        UserError: an unknown name, with the nearest fields of `cls`; a value of the wrong type;
            a value that `cls` itself rejects.
    """
    hints = hints_of(cast(Any, cls))
    for name in values:
        if name not in hints:
            unknown(noun, name, hints)
    for field in dataclasses.fields(cast(Any, cls)):
        given = {field.default, field.default_factory} != {dataclasses.MISSING}
        require(
            given or field.name in values or not field.init, f"{noun} {field.name!r}: must be given"
        )
    return cls(**{name: conform(name, value, hints[name]) for name, value in values.items()})


def conform(name: str, value: Any, hint: Any) -> Any:
    """`value` converted to the annotation `hint`; `UserError` if impossible."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _ruled(name, value, arguments[0], accepted(hint), arguments[1:])
    if origin in (Union, types.UnionType):
        return _one_of_several(name, value, arguments)
    if origin is Literal:
        choices = ", ".join(map(str, arguments))
        matches = any(type(value) is type(choice) and value == choice for choice in arguments)
        require(matches, f"{name}={shown(value)}: accepted are {choices}")
        return value
    if origin is tuple:
        return _tuple(name, value, arguments[0])
    return _plain(name, value, hint)


def accepted(hint: Any) -> str:
    """The accepted values of an annotation, in words; empty if its type is sufficient."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return ", ".join(str(rule) for rule in arguments[1:] if hasattr(rule, "check"))
    if origin is Literal:
        return ", ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return next(filter(None, map(accepted, arguments)), "")
    return "true, false" if hint is bool else ""


def describe(cls: type, defaults: Mapping[str, Any] | None = None) -> list[str]:
    """A paragraph for `--help` per field of a dataclass: name, meaning, accepted, default.

    Args:
        cls: the dataclass.
        defaults: values that replace the dataclass's own.
    """
    docs, hints = documentation(cls), hints_of(cls)
    lines = []
    for field in dataclasses.fields(cls):
        default = {field.name: field.default, **(defaults or {})}[field.name]
        limits = accepted(hints[field.name])
        notes = [limits] if limits else []
        notes += [] if default is dataclasses.MISSING else [f"default: {_typed_as(default)}"]
        text = f"{docs.get(field.name, '')} ({'; '.join(notes)})"
        lines += paragraph(field.name, text)
    return lines


def paragraph(name: str, text: str) -> list[str]:
    """A name and its description, beside or below it, as lines of `--help`."""
    first = f"  {name:<18} "
    indent = " " * 21
    wrap = textwrap.TextWrapper(100, indent, indent, break_long_words=False, break_on_hyphens=False)
    lines = wrap.wrap(text)
    if len(first) > len(indent):
        return [first.rstrip(), *lines]
    return [first + lines[0][len(indent) :], *lines[1:]]


def documentation(cls: type) -> dict[str, str]:
    """The docstring of each field of a dataclass, including its bases, on one line each."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            docs |= _strings_under_fields(cast(type, base))
    return docs


def hints_of(cls: type) -> dict[str, Any]:
    """Resolved annotations of the fields of a dataclass, by name."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def shown(value: Any) -> str:
    """`repr` on one line of reasonable length."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 100 else f"{text[:97]}…"


def first_line(problem: BaseException) -> str:
    """An exception on one line: its type and the first line of its message."""
    lines = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {lines[0]}" if lines else type(problem).__name__


def _ruled(name: str, value: Any, hint: Any, words: str, rules: Iterable[Any]) -> Any:
    """A value of the right type that satisfies the rules."""
    try:
        value = conform(name, value, hint)
    except UserError as problem:
        raise UserError(f"{problem}, {words}" if words else str(problem)) from None
    for rule in rules:
        if hasattr(rule, "check"):
            rule.check(name, value)
    return value


def _one_of_several(name: str, value: Any, hints: tuple[Any, ...]) -> Any:
    """`value` converted by the first matching annotation; else the error of the first one."""
    if value is None and type(None) in hints:
        return None
    problems = []
    for hint in hints:
        try:
            return conform(name, value, hint)
        except UserError as problem:
            problems.append(problem)
    raise problems[0]


def _tuple(name: str, value: Any, item: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        _refuse(name, value, "a list")
    try:
        return tuple(conform(name, element, item) for element in value)
    except UserError:
        kind = getattr(item, "__name__", str(item))
        raise UserError(f"{name}={shown(list(value))}: must be a list of {kind}") from None


def _plain(name: str, value: Any, hint: Any) -> Any:
    """A number, string, boolean or instance of any other class."""
    if hint is Any:
        return value
    if hint in (int, float):
        kind: type = numbers.Integral if hint is int else numbers.Real
        if isinstance(value, kind) and not isinstance(value, bool):
            return _number(name, value, hint)
    elif _is_instance(value, hint):
        return value
    return _refuse(name, value, _CALLED.get(hint, f"of type {getattr(hint, '__name__', hint)}"))


def _number(name: str, value: Any, kind: Any) -> Any:
    """The number as a Python int or float; `UserError` for NaN and integers beyond int64."""
    if value != value:
        _refuse(name, value, "a number")
    if isinstance(value, numbers.Integral) and abs(int(value)) > LARGEST:
        _refuse(name, value, f"at most {LARGEST}")
    return value if type(value) is kind else kind(value)


def _is_instance(value: Any, hint: Any) -> bool:
    if typing.get_origin(hint) is not None:
        return callable(value)  # the only other generic is Callable
    return isinstance(value, hint)


_CALLED = {
    int: "of type int (a whole number)",
    float: "of type float (a number)",
    str: "of type str (text)",
    bool: "of type bool (true or false)",
}


def _refuse(name: str, value: Any, what: str) -> NoReturn:
    raise UserError(f"{name}={shown(value)}: must be {what}")


def _typed_as(value: Any) -> str:
    """A default in command-line syntax."""
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value) or "empty"


def _strings_under_fields(cls: type) -> dict[str, str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError):  # created at run time
        return {}
    body = tree.body[0].body  # type: ignore[attr-defined]
    docs = {}
    for field, below in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = below.value if isinstance(below, ast.Expr) else None
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                docs[field.target.id] = " ".join(text.value.split())
    return docs
