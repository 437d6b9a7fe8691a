"""Registries of named objects, imported on first use.

A name is one of ours, an entry point of an installed package, or a location "module:attribute".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from typing import Any, Generic, TypeVar

from semigradient.errors import UserError, require, unknown


@dataclass(frozen=True)
class Entry:
    """Location of one registered object.

    Attributes:
        location: "module:attribute"; "module" for a module itself.
        summary: one line for `--help`.
    """

    location: str
    summary: str = ""

    @property
    def module(self) -> str:
        """Module path."""
        return self.location.partition(":")[0]


E = TypeVar("E", bound=Entry)


class Registry(Generic[E]):
    """Names of one kind of object.

    A lower layer keeps the registry and `semigradient.families`, the top layer, adds the entries,
    so that lower layers never name upper ones.

    Args:
        noun: name of the kind in error messages.
        kind: class of the entries.
        entries: initial entries.
        group: entry-point group through which installed packages add entries; empty: none.
    """

    def __init__(
        self, noun: str, kind: type[E], entries: Mapping[str, E] | None = None, group: str = ""
    ) -> None:
        self.noun, self.kind, self.group = noun, kind, group
        self.entries: dict[str, E] = dict(entries or {})

    def __contains__(self, name: object) -> bool:
        return name in self.entries or name in self._installed()

    def names(self) -> list[str]:
        """All names, ours first."""
        return list(dict.fromkeys([*self.entries, *sorted(self._installed())]))

    def add(self, name: str, location: str) -> None:
        """Register "module:attribute" under `name`."""
        self.entries[name] = self.kind(location)

    def find(self, name: str) -> E:
        """The entry of a name, or of "module:attribute"; nothing is imported.

        Raises:
            UserError: an unknown name, or one that several installed packages define.
        """
        if name in self.entries:
            return self.entries[name]
        places = self._installed().get(name, {})
        if places:
            packages = " and ".join(sorted(places.values()))
            require(len(places) == 1, f"{self.noun} {name!r}: {packages} each define one")
            return self.kind(next(iter(places)), f"of the package {packages}")
        if ":" not in name:
            unknown(self.noun, name, self.names())
        return self.kind(name, "of a module of your own")

    def load(self, name: str, attribute: str = "") -> Any:
        """The object of a name, or another attribute of its module.

        Raises:
            UserError: an unknown name, or an object that cannot be imported.
        """
        entry = self.find(name)
        try:
            return load(f"{entry.module}:{attribute}" if attribute else entry.location)
        except (ImportError, AttributeError) as problem:
            raise UserError(f"{self.noun} {name!r}: {problem}") from problem

    def _installed(self) -> Mapping[str, Mapping[str, str]]:
        return installed(self.group) if self.group else {}


@cache
def installed(group: str) -> dict[str, dict[str, str]]:
    """Entries of installed packages in a group: name → location → package."""
    locations: dict[str, dict[str, str]] = {}
    for point in metadata.entry_points(group=group):
        package = point.dist.name if point.dist is not None else "?"
        locations.setdefault(point.name, {})[f"{point.module}:{point.attr}"] = package
    return locations


def brought() -> dict[str, list[str]]:
    """All names that installed packages define, by the last word of their group."""
    points = metadata.entry_points()
    groups = sorted(group for group in points.groups if group.startswith("semigradient."))
    return {group.split(".")[1]: sorted(installed(group)) for group in groups}


def load(location: str) -> Any:
    """The object at "module:attribute"; the module itself without an attribute.

    Raises:
        ImportError, AttributeError: it does not exist.
    """
    module, _, attribute = location.partition(":")
    try:
        found = import_module(module)
    except (TypeError, ValueError) as problem:  # a relative or an empty name
        raise ImportError(f"{module!r} names no module ({problem})") from None
    return getattr(found, attribute) if attribute else found


NETWORKS = Registry("torso", Entry)
"""Actor-critic networks for observations that need a specific architecture: functions of
(setup, network config); see `training.actor_critic`."""

REWARDS = Registry("reward", Entry)
"""Learned or external rewards of molecules: functions of a file name that return a function of
SMILES; see `envs.molecules.rewards`."""

POOLS = Registry("engine", Entry)
"""Executors that compute rewards in parallel: functions of (workers, address)."""

MODELS = Registry("model", Entry)
"""Conditionals of musical scores: functions of (argument, device); see
`envs.music.chorale_setting`."""

RUNNERS = Registry("engine", Entry)
"""Engines that run jobs: functions of (jobs, engine) that yield results; see
`experiments.engines`."""
