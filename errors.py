"""The exception for user errors, and other troubles told in one line.

Every invalid input (a name, a number, a folder) raises `UserError` before any training starts.
The scripts print it as a single line and exit with code 2; a traceback indicates a bug.
"""

from __future__ import annotations

import contextlib
import difflib
import sys
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


def not_stacked(runs: int, what: str, why: str = "") -> NoReturn:
    """Raise the error for what several seeds as one learner do not have.

    Args:
        runs: how many seeds.
        what: such as "target_kl=0.01".
        why: the reason, or what is accepted.
    """
    reason = f" ({why})" if why else ""
    raise UserError(f"seeds={runs}: {what} has no stacked form{reason}; train the seeds one by one")


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


def warn(message: str) -> None:
    """Print a warning on one line of stderr; a closed one is no reason to stop."""
    with contextlib.suppress(OSError, ValueError):
        print(f"warning: {message}", file=sys.stderr, flush=True)


def one_line(problem: BaseException, longest: int | None = None) -> str:
    """An error's kind and text, on one line; of the text so many characters at most."""
    text = " ".join(str(problem).split())[:longest]
    return f"{type(problem).__name__}: {text}" if text else type(problem).__name__
