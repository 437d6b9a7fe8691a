"""Run many commands: on the cores of this machine, or on Ray (`experiments/ray_engine.py`).

The engines know nothing of what the commands do. A `CommandJob` is a sequence of commands,
generated one at a time, so that each can depend on what the previous one left on disk: this is how
an interrupted job continues, whether this machine or a Ray worker died.

Two processes never work on one job: the log file of a job is locked as long as any process that
writes to it lives, and a command whose parent is killed receives SIGTERM (on Linux).
POSIX only; on a cluster, every node must see the working folder and the logs at the same path.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

from semigradient.errors import missing, require
from semigradient.registry import RUNNERS

ENGINES = ("local", "ray")
INTERRUPTED = 130
KILLED = "killed by "
"""First words of the reason of a command that a signal ended."""
POLL_SECONDS = 0.05
THREAD_VARIABLES = [f"{name}_NUM_THREADS" for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")]

# Each command is started by this program, which then executes it in its own process. It cannot
# be a `preexec_fn`: running Python between fork and exec can deadlock in a threaded Ray worker.
# Ray blocks SIGINT in its workers and shells ignore it in background jobs; both are inherited,
# so the defaults are restored for the command. 1 is PR_SET_PDEATHSIG.
_GUARD = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, ())
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, int(signal.SIGTERM), 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the process that asked for this command has ended")
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"{sys.argv[2]}: {error.strerror}")
"""


@dataclass(frozen=True)
class CommandJob:
    """Commands that belong together.

    `commands` is called once per attempt, and its result is advanced only after the previous
    command has succeeded: write it as a generator that inspects the disk. It must be picklable.
    """

    name: str
    commands: Callable[[], Iterable[Sequence[str]]]
    log: Path


@dataclass(frozen=True)
class Result:
    """Result of a job: return code 0 is success, 130 an interruption; `message` is the error.

    `again`: the job is not over, it runs once more.
    """

    name: str
    returncode: int
    seconds: float
    message: str = ""
    again: bool = False


@dataclass(frozen=True)
class Engine:
    """Where jobs run, and the resources of each."""

    name: str = "local"
    jobs: int | None = None  # at a time; local: the cores divided by the threads; ray: no limit
    threads: int = 1
    ray_address: str | None = None  # None starts a cluster on this machine
    cpus_per_run: float = 1.0
    gpus_per_run: float = 0.0
    retries: int = 3  # of a Ray task whose worker died
    folder: Path = field(default_factory=Path.cwd)

    def __post_init__(self) -> None:
        require(self.name in ENGINES, f"--engine {self.name!r}: choose from {', '.join(ENGINES)}")
        require(self.jobs is None or self.jobs >= 1, f"--jobs {self.jobs}: must be at least 1")
        require(self.threads >= 1, f"--threads {self.threads}: must be at least 1")
        require(self.cpus_per_run > 0, f"--cpus-per-run {self.cpus_per_run}: must be above 0")
        require(self.gpus_per_run >= 0, f"--gpus-per-run {self.gpus_per_run}: must be at least 0")
        if self.name == "ray" and importlib.util.find_spec("ray") is None:
            missing("--engine ray", "ray", "ray")

    @property
    def local_slots(self) -> int:
        """Number of jobs that the local engine runs concurrently."""
        return self.jobs or max(1, (os.cpu_count() or 1) // self.threads)

    def environment(self) -> dict[str, str]:
        """Environment variables of a command: those of this process, with the number of threads."""
        return os.environ | dict.fromkeys(THREAD_VARIABLES, str(self.threads))


class Attempt:
    """One pass through the commands of a job; `poll` advances it without blocking."""

    def __init__(self, job: CommandJob, engine: Engine) -> None:
        self.job, self.engine = job, engine
        self.commands: Iterator[Sequence[str]] | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.interrupted = False
        self.started = time.monotonic()
        job.log.parent.mkdir(parents=True, exist_ok=True)
        self.log = job.log.open("ab")

    def poll(self) -> Result | None:
        """Start the next command once the previous one has ended; the result after the last."""
        if self.process is not None:
            returncode = self.process.poll()
            if returncode is None:
                return None
            self.process = None
            if returncode and not self.interrupted:
                return self._end(returncode, _reason(self.job.log, returncode))
        if self.interrupted:
            return self._end(INTERRUPTED, "interrupted")
        try:
            return self._advance()
        except Exception as error:
            # A job whose commands cannot be determined must not stop the others.
            return self._end(1, f"{type(error).__name__}: {error}")

    def _advance(self) -> Result | None:
        if self.commands is None:
            if not _try_lock(self.log):
                return None
            self.commands = iter(self.job.commands())
        command = next(self.commands, None)
        if command is None:
            return self._end(0, "")
        self.process = _start(command, self.log, self.engine)
        return None

    def _end(self, returncode: int, message: str) -> Result:
        if message:
            self.log.write(f"{_VERDICT}{message}\n".encode())
        self.log.close()
        return Result(self.job.name, returncode, time.monotonic() - self.started, message)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the running command, if any, and start no other."""
        self.interrupted = True
        if self.process is not None:
            self.process.send_signal(number)


def _start(command: Sequence[str], log: BinaryIO, engine: Engine) -> subprocess.Popen[bytes]:
    log.write(f"$ {shlex.join(command)}\n".encode())
    log.flush()
    # A separate session shields the command from the terminal's Ctrl-C, which would otherwise
    # arrive twice: programs often treat the second signal as "stop without saving".
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid()), *command],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=engine.folder,
        env=engine.environment(),
        start_new_session=True,
    )


def _try_lock(log: BinaryIO) -> bool:
    """Acquire the lock that commands inherit with the log: it is free once the last has ended."""
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _reason(log: Path, returncode: int) -> str:
    number = _signal_of(returncode)
    if number:
        return f"{KILLED}{_described(number)}"
    return last_words(log) or f"exit status {returncode}"


def _signal_of(returncode: int) -> int:
    """The signal that ended a command, directly or as programs and shells report it; or 0."""
    return -returncode if returncode < 0 else returncode - 128 if 128 < returncode <= 192 else 0


def _described(number: int) -> str:
    """A signal's name, with the usual cause of the one that the system itself sends."""
    names = {known.value: known.name for known in signal.Signals}
    guess = ", probably for want of memory: fewer --jobs need less"
    return names.get(number, f"signal {number}") + guess * (number == signal.SIGKILL)


_COMMAND, _VERDICT = "$ ", "! "
"""How an engine's own lines in a log begin: a command that starts, the reason why a job ended."""


def reason(log: Path) -> str:
    """Why the last attempt at a job failed; empty before the first one."""
    lines = _tail(log)
    if lines and lines[-1].startswith(_VERDICT):
        return lines[-1].removeprefix(_VERDICT)
    if not lines:
        return ""
    return f"its end was not seen: the engine ended first, or it still runs ({last_words(log)})"


def last_words(log: Path) -> str:
    """The last line that a job's commands printed; empty when they printed none."""
    spoken = (line for line in reversed(_tail(log)) if not line.startswith((_COMMAND, _VERDICT)))
    return next(spoken, "")


def _tail(log: Path) -> list[str]:
    """The last lines of a log, without empty ones."""
    if not log.exists():
        return []
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
        lines = file.read().decode(errors="replace").splitlines()
    return [line.strip() for line in lines if line.strip()]


class Retries:
    """Jobs that a signal ended run once more, after all others: they may need room for themselves.

    What they have saved is not lost, see `CommandJob.commands`.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()

    def grant(self, result: Result) -> bool:
        """Whether the job of a result gets its second attempt."""
        if not _signal_of(result.returncode) or result.name in self.names:
            return False
        self.names.add(result.name)
        return True


class Interruptions:
    """Count SIGINT and SIGTERM while open, instead of raising between two statements."""

    def __init__(self) -> None:
        self.count = 0
        self.previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruptions:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.previous[number] = signal.signal(number, self._count)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _count(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1


def stop(attempts: Iterable[Attempt], interruptions: Interruptions) -> None:
    """Interrupt all and wait until they have saved their state; kill them on a further signal."""
    remaining = list(attempts)
    received = interruptions.count
    for attempt in remaining:
        attempt.signal(signal.SIGINT)
    while remaining := [attempt for attempt in remaining if attempt.poll() is None]:
        if interruptions.count > max(received, 1):
            for attempt in remaining:
                attempt.signal(signal.SIGKILL)
        time.sleep(POLL_SECONDS)


def run_local(jobs: Iterable[CommandJob], engine: Engine) -> Iterator[Result]:
    """Run jobs as processes of this machine; yield each result as it finishes.

    A job that a signal ended runs once more (`Retries`), and yields a result each time.
    SIGINT or SIGTERM is forwarded as one SIGINT; `KeyboardInterrupt` is raised when all commands
    have ended. A second signal kills them.
    """
    waiting, retries = deque(jobs), Retries()
    running: list[Attempt] = []
    with Interruptions() as interruptions:
        try:
            while (waiting or running) and not interruptions.count:
                while waiting and len(running) < engine.local_slots:
                    running.append(Attempt(waiting.popleft(), engine))
                for attempt in tuple(running):
                    if (result := attempt.poll()) is not None:
                        running.remove(attempt)
                        if again := retries.grant(result):
                            waiting.append(attempt.job)
                        yield replace(result, again=again)
                time.sleep(POLL_SECONDS)
        finally:
            stop(running, interruptions)
    if interruptions.count:
        raise KeyboardInterrupt


def run_all(jobs: Iterable[CommandJob], engine: Engine) -> Iterator[Result]:
    """Run jobs on an engine and yield their results as they finish."""
    results: Iterator[Result] = RUNNERS.load(engine.name)(jobs, engine)
    return results
