"""The console script: semigradient train|evaluate|compare|reproduce, as the scripts of those
names.
"""

from __future__ import annotations

import sys
from importlib import import_module

from semigradient.errors import UserError, unknown

COMMANDS = ("train", "evaluate", "compare", "reproduce")
_USAGE = f"usage: semigradient {'|'.join(COMMANDS)} …  (each has its own --help)"


def main(arguments: list[str] | None = None) -> int:
    """Run the command that the first word names; returns the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ("-h", "--help"):
        print(_USAGE)
        return 0 if words else 2
    name, *rest = words
    if name not in COMMANDS:
        try:
            unknown("command", name, COMMANDS)
        except UserError as problem:
            print(f"semigradient: error: {problem}", file=sys.stderr)
        return 2
    code: int = import_module(f"semigradient.{name}").main(rest)
    return code
