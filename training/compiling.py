"""`--compile`: losses through `torch.compile`, kept on disk, and what compiling costs.

Compiled code is kept under `~/.cache/semigradient/compiled` (or `$XDG_CACHE_HOME`), where the next
run of the same shapes finds it, also after a restart of the machine; `TORCHINDUCTOR_CACHE_DIR`
names another place.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_PLACE = "TORCHINDUCTOR_CACHE_DIR"


class Stopwatch:
    """Seconds that this process has spent in compiling, forward and backward passes alike."""

    def __init__(self) -> None:
        self.seconds, self._began = 0.0, 0.0

    def watch(self) -> None:
        """Measure from now on."""
        from torch._dynamo.callback import callback_handler

        if self.start not in callback_handler.start_callbacks:
            callback_handler.register_start_callback(self.start)
            callback_handler.register_end_callback(self.end)

    def start(self, _: Any) -> None:
        """Of the outermost compilation."""
        self._began = time.perf_counter()

    def end(self, _: Any) -> None:
        """Of the outermost compilation."""
        self.seconds += time.perf_counter() - self._began


STOPWATCH = Stopwatch()


def maybe_compile(function: Callable[..., Any], enabled: bool) -> Callable[..., Any]:
    """`torch.compile` a pure tensor function of static shapes if `enabled`."""
    if not enabled:
        return function
    STOPWATCH.watch()
    _settle()
    return torch.compile(function, dynamic=False)


def _settle() -> None:
    """Choose the place; torch, once loaded, has written its own into an environment without one."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    if os.environ.get(_PLACE) in (None, default_cache_dir()):
        os.environ[_PLACE] = str(default_place())


def default_place() -> Path:
    """Where compiled code is kept unless the environment names a place."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "semigradient" / "compiled"


def report(before: float = 0.0) -> str:
    """One line on what compiling has cost since so many seconds; empty where there was none."""
    seconds = STOPWATCH.seconds - before
    return f"compiling took {seconds:.1f} s; kept in {os.environ.get(_PLACE)}" if seconds else ""
