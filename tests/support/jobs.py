"""Jobs of a comparison's engines, and a driver that runs three of them two at a time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from semigradient.experiments.engines import CommandJob, Result
from support.commands import ROOT

# Ray makes its workers, and so their commands, nicer by 15: where two other tests keep both cores
# busy, these would get next to nothing, and no deadline would be long enough.
PLAIN_RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
PATIENCE = 180.0


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


@dataclass(frozen=True)
class Fixed:
    """Commands known beforehand; picklable, as Ray needs."""

    commands: tuple[Sequence[str], ...]

    def __call__(self) -> Iterator[Sequence[str]]:
        yield from self.commands


@dataclass(frozen=True)
class UntilFile:
    """A command that is left out once the file it makes is there."""

    path: Path
    command: Sequence[str]

    def __call__(self) -> Iterator[Sequence[str]]:
        if not self.path.exists():
            yield self.command


def job(folder: Path, name: str, *commands: Sequence[str]) -> CommandJob:
    return CommandJob(name, Fixed(commands), folder / f"{name}.log")


def by_name(results: Iterator[Result]) -> dict[str, Result]:
    return {result.name: result for result in results}


def wait_for(condition, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, str(Path("tests").resolve()))
from support import jobs as parts
from support.jobs import job, python
from semigradient.experiments.engines import Engine, run_all
if sys.argv[2] == "ray":  # whose workers cannot import that file by name
    from ray.cloudpickle import register_pickle_by_value
    register_pickle_by_value(parts)
folder = Path(sys.argv[1])
jobs = [job(folder, f"job{i}", python(Path(sys.argv[3]).read_text(), folder / str(i)))
        for i in range(3)]
try:
    for result in run_all(jobs, Engine(name=sys.argv[2], jobs=2)):
        print(result, flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(130)
"""

SAVER = """
import pathlib, signal, sys, time
path = pathlib.Path(sys.argv[1])
count = 0
def save(number, frame):
    global count
    count += 1
    path.with_suffix(".told").touch()
signal.signal(signal.SIGINT, save)
signal.signal(signal.SIGTERM, save)
path.with_suffix(".started").touch()
while not count:
    time.sleep(0.02)
time.sleep(0.3)
path.with_suffix(".saved").write_text(str(count))
sys.exit(130)
"""


@contextlib.contextmanager
def drivers(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`start(engine, code)`: two jobs running; nothing of it outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def start(engine: str = "local", code: str = SAVER) -> subprocess.Popen[str]:
        (tmp_path / "code.py").write_text(code)
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(tmp_path), engine, str(tmp_path / "code.py")],
            cwd=ROOT,
            env=os.environ | PLAIN_RAY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        begun = lambda: len(list(tmp_path.glob("*.started"))) == 2  # noqa: E731
        wait_for(lambda: begun() or process.poll() is not None, PATIENCE)
        assert begun(), process.communicate()
        return process

    try:
        yield start
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
