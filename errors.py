"""The exception for user errors.

Every invalid input (a name, a number, a folder) raises `UserError` before any training starts.
The scripts print it as a single line and exit with code 2; a traceback indicates a bug.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NoReturn


class UserError(ValueError):
    """Invalid input: the message names the value and the accepted values."""


def require(condition: bool, message: str) -> None:
    """Raise `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)


def missing(what: str, package: str, extra: str) -> NoReturn:
    """Raise the error for a missing package that `what` requires.

    Args:
        what: such as "dataset='digits'".
        package: such as "scikit-learn".
        extra: the extra of this package that installs it.
    """
    raise UserError(
        f"{what}: {package} is not installed; "
        f"pip install -c constraints.txt -e '.[{extra}]' brings it"
    )


def unknown(kind: str, name: str, known: Iterable[str], where: str = "") -> NoReturn:
    """Raise the error for an unknown `name` of some `kind`, with the nearest known names.

    Args:
        kind: the expected kind, such as "agent".
        name: the given name.
        known: the accepted names.
        where: where the name was read from.
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    listed = ", ".join(known) if len(known) <= 60 else f"{len(known)} names"
    place = f" in {where}" if where else ""
    raise UserError(f"unknown {kind} {name!r}{place}: {hint}known: {listed}")
