"""Things by name, imported only when one is asked for.

A name is ours, or an installed package brings it (entry points), or it says itself where the thing
lives: "module:attribute".
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
    """Where one thing lives.

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
    """Names of one kind of thing.

    What stands below in the house keeps a registry, what stands above it adds to it
    (`semigradient.families`): so nothing below has to name what is above.

    Args:
        noun: what an error calls these things.
        kind: class of the entries.
        entries: those known from the start.
        group: group of the entry points by which installed packages add theirs; none: they cannot.
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
            UserError: an unknown name, or one that several installed packages bring.
        """
        if name in self.entries:
            return self.entries[name]
        places = self._installed().get(name, {})
        if places:
            packages = " and ".join(sorted(places.values()))
            require(len(places) == 1, f"{self.noun} {name!r}: {packages} each bring one")
            return self.kind(next(iter(places)), f"of the package {packages}")
        if ":" not in name:
            unknown(self.noun, name, self.names())
        return self.kind(name, "of a module of your own")

    def load(self, name: str, attribute: str = "") -> Any:
        """What a name stands for, or another attribute of the module where that lives.

        Raises:
            UserError: an unknown name, or nothing there that can be imported.
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
    """What installed packages bring to a group: by name the locations, and the package of each."""
    locations: dict[str, dict[str, str]] = {}
    for point in metadata.entry_points(group=group):
        package = point.dist.name if point.dist is not None else "?"
        locations.setdefault(point.name, {})[f"{point.module}:{point.attr}"] = package
    return locations


def brought() -> dict[str, list[str]]:
    """All names that installed packages bring, by the last word of their group."""
    points = metadata.entry_points()
    groups = sorted(group for group in points.groups if group.startswith("semigradient."))
    return {group.split(".")[1]: sorted(installed(group)) for group in groups}


def load(location: str) -> Any:
    """What "module:attribute" names; the module itself where there is no attribute.

    Raises:
        ImportError, AttributeError: there is none.
    """
    module, _, attribute = location.partition(":")
    try:
        found = import_module(module)
    except (TypeError, ValueError) as problem:  # a relative or an empty name
        raise ImportError(f"{module!r} names no module ({problem})") from None
    return getattr(found, attribute) if attribute else found


NETWORKS = Registry("torso", Entry)
"""Policies and values for observations that ask for a network of their own: functions of
(setup, network config); see `training.actor_critic`."""

REWARDS = Registry("reward", Entry)
"""Rewards of molecules that are learned or computed elsewhere: functions of a file's name that
make a function of SMILES; see `envs.molecules.rewards`."""

POOLS = Registry("engine", Entry)
"""Who computes many rewards: functions of (workers, address) that make an executor."""

MODELS = Registry("model", Entry)
"""Conditionals of scores: functions of (argument, device); see `envs.music.chorale_setting`."""

RUNNERS = Registry("engine", Entry)
"""Where jobs run: functions of (jobs, engine) that yield results; see `experiments.engines`."""
