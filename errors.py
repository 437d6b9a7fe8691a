"""The one exception a user is meant to read.

Everything that can be wrong with what somebody typed (a name, a number, a folder) raises
`UserError` before any training starts. The scripts print it as a single line and exit with
code 2; a traceback means a bug of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NoReturn


class UserError(ValueError):
    """An error in the input: the message names the value and what is accepted."""


def require(condition: bool, message: str) -> None:
    """Raise `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)


def missing(what: str, package: str, extra: str) -> NoReturn:
    """Raise the error for a package that `what` needs and that is not installed.

    Args:
        what: such as "dataset='digits'".
        package: such as "scikit-learn".
        extra: the extra of ours that brings it.
    """
    raise UserError(
        f"{what}: {package} is not installed; "
        f"pip install -c constraints.txt -e '.[{extra}]' brings it"
    )


def unknown(kind: str, name: str, known: Iterable[str], where: str = "") -> NoReturn:
    """Raise the error for an unknown `name` of some `kind`, with the nearest known names.

    Args:
        kind: what it should have been, such as "agent".
        name: what was typed.
        known: what is accepted.
        where: the place that it was read from.
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    listed = ", ".join(known) if len(known) <= 40 else f"{len(known)} names"
    place = f" in {where}" if where else ""
    raise UserError(f"unknown {kind} {name!r}{place}: {hint}known: {listed}")
