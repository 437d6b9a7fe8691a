"""Reinforcement learning where learning itself is the subject.

Importing this package registers every environment (`semigradient/…`) with Gymnasium, and loads
nothing heavy. What it offers besides comes with its first use (`semigradient.api`):

    make_agent   an agent as the command line makes it
    train        train into a run folder
    resume       go on with a run folder
    load         a trained policy out of a run folder
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from semigradient import envs as envs
from semigradient import families

if TYPE_CHECKING:
    from semigradient.api import load, make_agent, resume, train

__all__ = ["load", "make_agent", "resume", "train"]

families.register()


def __getattr__(name: str) -> Any:
    """The functions of `semigradient.api`, which imports torch, when one is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from semigradient import api

    return getattr(api, name)


def __dir__() -> list[str]:
    """Names of this package, those that come with their first use among them."""
    return sorted({*globals(), *__all__})
