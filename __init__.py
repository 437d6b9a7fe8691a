"""Reinforcement learning where learning itself is the subject.

Importing this package registers every environment (`semigradient/…`) with Gymnasium and loads
no heavy dependency. The functions are imported on first use (`semigradient.api`):

    make_agent   the agent that the command line creates
    train        train into a run folder
    train_seeds  train several seeds as one learner
    resume       continue a run folder
    load         a trained policy from a run folder
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from semigradient import envs as envs
from semigradient import families

if TYPE_CHECKING:
    from semigradient.api import load, make_agent, resume, train, train_seeds

__all__ = ["load", "make_agent", "resume", "train", "train_seeds"]

families.register()


def __getattr__(name: str) -> Any:
    """The functions of `semigradient.api`, which imports torch, on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from semigradient import api

    return getattr(api, name)


def __dir__() -> list[str]:
    """Names of this package, including those imported on first use."""
    return sorted({*globals(), *__all__})
