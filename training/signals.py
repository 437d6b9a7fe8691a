"""Signals that ask a run to save and leave.

Ctrl-C, the end of a job (SIGTERM), a lost terminal (SIGHUP), a scheduler's warning (SIGUSR1,
SIGUSR2) and a spent CPU limit (SIGXCPU) are noted; the loop saves after the running iteration and
leaves. An evaluation is abandoned at once, since a resumed run repeats it.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from semigradient.training import console

PATIENCE = 2.0
"""Seconds within which more signals are taken as one: a scheduler often sends several."""
_ALWAYS = ("SIGINT", "SIGTERM")
_UNLESS_TAKEN = ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")  # nohup ignores the first


class AbandonedError(BaseException):
    """Unwinds what a signal cuts short; no `except Exception` of an environment catches it."""


class Signals:
    """Notes signals while it is entered.

    Attributes:
        received: number of the first signal; 0: none.
    """

    def __init__(self) -> None:
        self.received = 0
        self._since = 0.0
        self._is_abandonable = False
        self._before: dict[int, Any] = {}

    @property
    def name(self) -> str:
        """Of the first signal, such as SIGTERM."""
        return signal.Signals(self.received).name

    @contextlib.contextmanager
    def abandonable(self) -> Iterator[None]:
        """A block that a signal leaves at once, and is not entered after one.

        Raises:
            AbandonedError: a signal has come, before or in the block.
        """
        self._is_abandonable = True
        try:
            if self.received:
                raise AbandonedError
            yield
        finally:
            self._is_abandonable = False

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for name in (*_ALWAYS, *_UNLESS_TAKEN):
                number = getattr(signal, name, None)
                if number is None:
                    continue
                if name in _ALWAYS or signal.getsignal(number) == signal.SIG_DFL:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received:
            if now - self._since > PATIENCE:
                raise AbandonedError
            return
        self.received, self._since = number, now
        if self._is_abandonable:
            self._is_abandonable = False
            raise AbandonedError
        name = signal.Signals(number).name
        console.say(f"{name}: saves after this iteration; another one leaves at once", error=True)
