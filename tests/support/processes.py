"""Processes that train, forked from one that has imported torch: no seconds of imports for each."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from semigradient.experiments.engines import CommandJob, Engine, Result
from support.commands import ROOT

_SERVED = multiprocessing.get_context("forkserver")
_SERVED.set_forkserver_preload(
    [
        "torch._dynamo",
        "gymnasium",
        "tyro",
        "semigradient.training.loop",
        "semigradient.training.cli",
    ]
)


class Forked:
    """`function(words)` in a process of its own, with what it prints; as a `Popen` of text.

    It has the environment of this process, works in the repository's root, and ends with what
    the function returns. The function must be one that another process can import.
    """

    def __init__(self, function: Callable[[list[str]], int], *words: object) -> None:
        self._printed = tempfile.TemporaryDirectory()
        self._files = [Path(self._printed.name, name) for name in ("out", "err")]
        given = function, [*map(str, words)], dict(os.environ), self._files
        self._process = _SERVED.Process(target=_begin, args=given)
        self._process.start()

    @property
    def returncode(self) -> int | None:
        """Minus the signal that ended it; None: not over."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """As `returncode`."""
        return self.returncode

    def communicate(self) -> tuple[str, str]:
        """What it printed, once it has ended."""
        self._process.join()
        return self._files[0].read_text(), self._files[1].read_text()

    def send_signal(self, number: signal.Signals) -> None:
        """To it alone."""
        pid = self._process.pid
        assert pid is not None
        os.kill(pid, number)

    def end(self) -> None:
        """Kill it if need be, and forget what it printed."""
        self._process.kill()
        self._process.join()
        self._printed.cleanup()


def _begin(
    function: Callable[[list[str]], int],
    words: list[str],
    environment: Mapping[str, str],
    files: list[Path],
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600), number)
    sys.exit(function(words))


def run_forked(jobs: Iterable[CommandJob], _engine: Engine) -> Iterator[Result]:
    """The engine for comparisons whose processes are not what is tested: forked, one by one."""
    for job in jobs:
        for _python, *words in job.commands():
            process = Forked(_script, *words)
            printed = process.communicate()
            assert process.returncode == 0, printed
            process.end()
        yield Result(job.name, 0, 0.0)


def _script(words: list[str]) -> int:
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")
    return 0
