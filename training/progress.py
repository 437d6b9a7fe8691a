"""Progress on the console."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any


class Progress:
    """A bar on a terminal; elsewhere a plain line every half minute. `update` is cheap."""

    def __init__(self, total_steps: int, enabled: bool = True, first_step: int = 0) -> None:
        self.total_steps = total_steps
        self._step = first_step
        self._evaluation: Any = None
        self._return: Any = None
        terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._every = 0.2 if terminal else 30.0
        self._show = self._start_bar() if enabled and terminal else self._print
        now = time.monotonic()
        self._next = now + self._every if enabled else math.inf
        # The rate is that of the last 50 showings: what learning costs now, not on average.
        self._past: deque[tuple[float, int]] = deque([(now, first_step)], maxlen=50)

    def update(self, step: int, evaluation: Any = None, episode_return: Any = None) -> None:
        """Note the steps done so far, and the latest evaluation mean and episode return if new."""
        self._step = step
        if evaluation is not None:
            self._evaluation = evaluation
        if episode_return is not None:
            self._return = episode_return
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._every
            self._refresh(now)

    def close(self) -> None:
        """Show the last state and restore the terminal."""
        if self._next != math.inf:
            self._refresh(time.monotonic())
        self._next = math.inf
        if self._bar:
            with contextlib.suppress(OSError, ValueError):
                self._bar.stop()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    _bar: Any = None

    def _refresh(self, now: float) -> None:
        try:
            self._show(self._note(now))
        except (OSError, ValueError):  # the terminal is gone; training is not
            self._next = math.inf

    def _note(self, now: float) -> str:
        """Return rate, time left and the latest results."""
        then, before = self._past[0]
        self._past.append((now, self._step))
        rate = (self._step - before) / max(now - then, 1e-9)
        parts = [f"{rate:,.0f} steps/s"]
        if rate > 0:
            minutes, seconds = divmod(round(max(0, self.total_steps - self._step) / rate), 60)
            parts.append(f"ETA {minutes // 60}:{minutes % 60:02d}:{seconds:02d}")
        for name, value in (("return", self._return), ("eval", self._evaluation)):
            if value is not None:
                parts.append(f"{name} {float(value):.4g}")
        return "  ".join(parts)

    def _print(self, note: str) -> None:
        percent = 100 * self._step / max(1, self.total_steps)
        done = f"{self._step:,} / {self.total_steps:,} steps ({percent:.0f} %)"
        print(f"{done}  {note}", file=sys.stderr, flush=True)

    def _start_bar(self) -> Callable[[str], None]:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        # No thread that refreshes: it would take the interpreter from the training loop.
        self._bar = RichProgress(
            TextColumn("{task.completed:,} / {task.total:,}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            auto_refresh=False,
        )
        task = self._bar.add_task("", total=self.total_steps, completed=self._step, note="")
        self._bar.start()
        refresh = functools.partial(self._bar.update, task, refresh=True)
        return lambda note: refresh(completed=self._step, note=note)
