"""One run folder, one process."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from semigradient.errors import UserError
from semigradient.training.lock import RunFolderGoneError, RunLock
from support.commands import ROOT

HOLDER = """
import sys
from pathlib import Path
from semigradient.errors import UserError
from semigradient.training.lock import RunLock
try:
    lock = RunLock(Path(sys.argv[1]))
except UserError as problem:
    print(problem, flush=True)
else:
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that takes the lock, and what it says: held, or why not."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def test_a_second_process_is_refused_with_the_first_ones_number(tmp_path: Path) -> None:
    with another(tmp_path) as (process, said):
        assert said == "held"
        with pytest.raises(UserError, match=rf"process {process.pid} on .* is training it"):
            RunLock(tmp_path)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with RunLock(tmp_path):  # what `kill -9` leaves behind holds nobody up
            pass


def test_a_process_does_not_take_its_own_lock_twice_nor_lose_it_by_trying(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        with pytest.raises(UserError, match=rf"process {os.getpid()} \(this one\)"):
            RunLock(tmp_path)
        with another(tmp_path) as (_, said):
            assert re.search(rf"process {os.getpid()} on .* is training it", said)
    with RunLock(tmp_path):
        pass


def test_a_child_that_lives_on_does_not_hold_it(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        os.read(read, 1)  # until the parent is done
        os._exit(0)
    os.close(read)
    lock.release()
    with another(tmp_path) as (_, said):
        assert said == "held"
    os.close(write)
    os.waitpid(child, 0)


def test_a_folder_that_is_gone_moved_or_replaced_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with RunLock(folder) as lock:
        lock.require_folder()
        folder.rename(tmp_path / "elsewhere")
        with pytest.raises(RunFolderGoneError, match=r"run was deleted, moved or replaced"):
            lock.require_folder()
        folder.mkdir()
        with RunLock(folder), pytest.raises(RunFolderGoneError):
            lock.require_folder()
        shutil.rmtree(folder)
        with pytest.raises(RunFolderGoneError):
            lock.require_folder()


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_lock_that_is_no_plain_file_is_refused(tmp_path: Path, kind: str) -> None:
    mine, folder = tmp_path / "mine", tmp_path / "run"
    folder.mkdir()
    mine.write_text("precious")
    if kind == "link":
        (folder / ".lock").symlink_to(mine)
    else:
        os.mkfifo(folder / ".lock")
    with pytest.raises(UserError, match="cannot be written"):
        RunLock(folder)
    assert mine.read_text() == "precious"
