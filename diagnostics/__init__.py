"""Observers of a learner, by name.

`python train.py … --diagnose interference,gain` measures, periodically during training,
how the learner's updates act on each other. Nothing here imports torch: a command line can list
and check the names before the first heavy import; `diagnostics/attach.py` does the rest, and
`docs/diagnostics.md` has a formula and a source for each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from semigradient import registry
from semigradient.errors import require, unknown
from semigradient.registry import Registry


@dataclass(frozen=True)
class Entry(registry.Entry):
    """Location and requirements of an observer.

    Attributes:
        location: "module:name" of a function `measure(view) -> Findings` or of an observer class.
        summary: one line for `--help`.
        length: least number of consecutive steps that the learner must store.
        continuous: whether it differentiates by the observations, which must then be floats.
    """

    length: int = 1
    continuous: bool = False


OURS: dict[str, Entry] = {
    "interference": Entry(
        "semigradient.diagnostics.interference:measure",
        "inner products and cosines of gradients, in pairs",
    ),
    "stiffness": Entry(
        "semigradient.diagnostics.interference:measure_stiffness",
        "cosine of gradients by distance in time",
        length=2,
    ),
    "gain": Entry(
        "semigradient.diagnostics.gain:measure", "what one update does to losses nearby", length=2
    ),
    "spectrum": Entry(
        "semigradient.diagnostics.spectrum:measure",
        "singular values of the last hidden layer's weights",
    ),
    "sign-variance": Entry(
        "semigradient.diagnostics.coherence:measure",
        "variance of the errors' signs in a row",
        length=5,
    ),
    "evolution": Entry(
        "semigradient.diagnostics.evolution:measure", "derivative of interference along an update"
    ),
    "staleness": Entry(
        "semigradient.diagnostics.staleness:measure",
        "momentum, plain and corrected, against the oracle's",
    ),
    "drift": Entry(
        "semigradient.diagnostics.drift:Drift", "how far values move while momentum remembers"
    ),
    "sensitivity": Entry(
        "semigradient.diagnostics.sensitivity:measure",
        "how much losses depend on each example learned from",
        continuous=True,
    ),
}


DIAGNOSTICS = Registry("diagnostic", Entry, OURS, group="semigradient.diagnostics")
"""Ours, and those of installed packages."""


def names() -> list[str]:
    """Names of all diagnostics."""
    return DIAGNOSTICS.names()


def parse(text: str) -> list[str]:
    """The names in a comma-separated list, each once; `all` stands for every registered one.

    Raises:
        UserError: a name is unknown or missing.
    """
    requested = [name.strip() for name in text.split(",")]
    for name in requested:
        require(bool(name), f"diagnose={text!r}: must be names with commas between, or all")
        if name not in DIAGNOSTICS and name != "all" and ":" not in name:
            unknown("diagnostic", name, [*names(), "all"])
    listed = [*names(), *requested] if "all" in requested else requested
    return [name for name in dict.fromkeys(listed) if name != "all"]


def load(name: str) -> Any:
    """The function or class behind a name or "module:name"."""
    return DIAGNOSTICS.load(name)


def entry(name: str) -> Entry:
    """The requirements of a diagnostic.

    One of another package declares them as attributes `length` and `continuous`.
    """
    if name in OURS:
        return OURS[name]
    observer = load(name)
    length, continuous = getattr(observer, "length", 1), getattr(observer, "continuous", False)
    return replace(DIAGNOSTICS.find(name), length=length, continuous=continuous)
