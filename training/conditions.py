"""Options that count only beside another setting, and those that were given without it.

    atoms: int = field(default=51, metadata=only_with(distribution=("c51", "quantile")))

What a user gives and nothing reads is refused. Presets, config files and `dataclasses.replace` may
hold such values: they describe whole configurations, of which a flag may change one setting.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from semigradient.errors import require
from semigradient.validate import shown

SOME = ()
"""Any value but none: a number above 0, a text."""


def only_with(**settings: tuple[str, ...]) -> dict[str, Any]:
    """Metadata of a field that counts only where other fields have one of the given values.

    Args:
        settings: by the name of another field its accepted values, or `SOME`.
    """
    return {"only_with": settings}


def refuse_idle(config: Any, base: Any) -> None:
    """`UserError` for a field that differs from the base and does not count.

    Args:
        config: as the user wants it.
        base: what it would be had the user not said anything.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value == getattr(base, field.name):
            continue
        for name, accepted in field.metadata.get("only_with", {}).items():
            other = getattr(config, name)
            counts = other in accepted if accepted else bool(other)
            needed = f"{name}={' or '.join(accepted)}" if accepted else f"{name} set"
            was = f"{field.name}={shown(value)}"
            require(counts, f"{was}: counts only with {needed}, not {name}={shown(other)}")
