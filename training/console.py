"""Output of the commands: what nobody reads, or cannot be written, stops nothing.

A reader may go away, a log file's disk may be full, a terminal may close, a console may not know a
letter. Training goes on, and what it said lies in `messages.txt` of the run folder.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from semigradient.training.run_files import open_plain

MESSAGES = "messages.txt"
_ASIDE = (OSError, ValueError)  # a full disk, a broken pipe; a closed stream, an unknown letter


class _Forgiving:
    """A text stream that from its first failure on writes to nowhere."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write; returns the number of characters in any case."""
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            self._stream.write(text.encode("ascii", "backslashreplace").decode("ascii"))
        except _ASIDE:
            self._give_up()
        return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        try:
            self._stream.flush()
        except _ASIDE:
            self._give_up()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _give_up(self) -> None:
        # What is still buffered, and what libraries write by themselves, must have a place to go.
        with contextlib.suppress(*_ASIDE):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextlib.contextmanager
def forgiving() -> Iterator[None]:
    """Let no failure of stdout or stderr out of the block."""
    _open_standard_descriptors()
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        out, errors = (_Forgiving(nowhere if s is None else s) for s in before)
        sys.stdout, sys.stderr = out, errors
        try:
            yield
        finally:
            out.flush()
            errors.flush()
            sys.stdout, sys.stderr = before


def say(text: str, error: bool = False) -> None:
    """Print a line to stdout or stderr, if it can be printed."""
    with contextlib.suppress(*_ASIDE):
        print(text, file=sys.stderr if error else sys.stdout, flush=True)


def record(folder: Path, text: str) -> None:
    """Append a line to the messages of a run folder, if it can be written."""
    with contextlib.suppress(OSError):
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        with open_plain(folder / MESSAGES, flags) as file:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S")
            file.write(f"{stamp}  {text}\n".encode("utf-8", "backslashreplace"))


def _open_standard_descriptors() -> None:
    """Fill descriptors 0 to 2 if they were closed: a file of the run would get their numbers."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
