"""Things by name, imported only when one is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from semigradient.errors import unknown


class Registry:
    """Names of one kind of thing, and where each of them lives.

    What stands below in the house keeps a registry, what stands above it adds to it
    (`semigradient.families`): so nothing below has to name what is above.

    Args:
        noun: what an error calls these things.
    """

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self.locations: dict[str, str] = {}

    def __contains__(self, name: object) -> bool:
        return name in self.locations

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self.locations)

    def add(self, name: str, location: str) -> None:
        """Register "module:attribute" under `name`."""
        self.locations[name] = location

    def load(self, name: str) -> Any:
        """The thing itself; `UserError` with the nearest names for one that is not registered."""
        if name not in self.locations:
            unknown(self.noun, name, self.locations)
        return load(self.locations[name])


def load(location: str) -> Any:
    """What "module:attribute" names.

    Raises:
        ImportError, AttributeError: there is none.
    """
    module, _, attribute = location.partition(":")
    return getattr(import_module(module), attribute)


NETWORKS = Registry("torso")
"""Policies and values for observations that ask for a network of their own: functions of
(setup, network config); see `training.actor_critic`."""

REWARDS = Registry("reward")
"""Rewards of molecules that are learned or computed elsewhere: functions of a file's name that
make a function of SMILES; see `envs.molecules.rewards`."""

POOLS = Registry("engine")
"""Who computes many rewards: functions of (workers, address) that make an executor."""

MODELS = Registry("model")
"""Conditionals of scores: functions of (argument, device); see `envs.music.chorale_setting`."""
