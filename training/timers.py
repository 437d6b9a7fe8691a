"""Phase timers of a run (environment, act, learn, log)."""

from __future__ import annotations

from time import perf_counter
from types import TracebackType


class Timers:
    """Seconds spent in named phases; phases may nest, an inner one is not counted twice.

    >>> timers = Timers()
    >>> with timers("learn"):
    ...     pass
    >>> sorted(timers.seconds)
    ['learn']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._open: list[tuple[str, float]] = []
        self._next = ""

    def __call__(self, phase: str) -> Timers:
        """Choose the phase that the following `with` block is charged to."""
        self._next = phase
        return self

    def __enter__(self) -> Timers:
        now = perf_counter()
        if self._open:
            self._charge(now)
        self._open.append((self._next, now))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        now = perf_counter()
        self._charge(now)
        self._open.pop()
        if self._open:
            self._open[-1] = (self._open[-1][0], now)

    def _charge(self, now: float) -> None:
        phase, since = self._open[-1]
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - since
