"""One run folder, one process: a lock that the system releases when its holder dies.

The lock is a POSIX record lock on `.lock` in the run folder. It belongs to a process, so that
neither a child nor `kill -9` leaves a stale one behind. The file says who holds it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
from pathlib import Path
from typing import BinaryIO

from semigradient.errors import UserError
from semigradient.training.run_files import open_plain, unwritable

NAME = ".lock"
_held: set[tuple[int, int]] = set()  # a process does not exclude itself from its own locks
_UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class RunFolderGoneError(OSError):
    """The folder of a running training was deleted, moved or replaced."""


class RunLock:
    """The exclusive right to write into a run folder.

    Args:
        folder: the run folder, which exists.

    Raises:
        UserError: another process has it (the message names it), or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if _is_ours(folder / NAME):  # to open and close it once more would release it
            self._refuse(f"process {os.getpid()} (this one)")
        try:
            self._file: BinaryIO = open_plain(folder / NAME, os.O_RDWR | os.O_CREAT)
        except OSError as problem:
            raise unwritable(folder, problem) from None
        self._identity = _identity(os.fstat(self._file.fileno()))
        try:
            self._take()
        except BaseException:
            self._file.close()
            raise

    def require_folder(self) -> None:
        """`RunFolderGoneError` unless the locked folder is still where it was."""
        try:
            is_there = _identity(os.stat(self.folder / NAME)) == self._identity
        except OSError:
            is_there = False
        if not is_there:
            raise RunFolderGoneError(
                f"run folder {self.folder} was deleted, moved or replaced during the run"
            )

    def release(self) -> None:
        """Let another process have the folder."""
        if not self._file.closed:
            _held.discard(self._identity)
            self._file.close()

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _take(self) -> None:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            if problem.errno not in _UNSUPPORTED:  # a file system without locks has none to offer
                self._refuse(self._holder())
        _held.add(self._identity)
        with contextlib.suppress(OSError):
            self._file.truncate(0)
            holder = {"pid": os.getpid(), "host": socket.gethostname()}
            os.pwrite(self._file.fileno(), json.dumps(holder).encode() + b"\n", 0)

    def _refuse(self, holder: str) -> None:
        raise UserError(
            f"run_dir={str(self.folder)!r}: {holder} is training it; "
            "accepted is a folder that no other process trains"
        )

    def _holder(self) -> str:
        try:
            holder = json.loads(os.pread(self._file.fileno(), 4096, 0))
            return f"process {int(holder['pid'])} on {str(holder['host'])[:80]}"
        except (OSError, ValueError, LookupError, TypeError):
            return "another process"


def _is_ours(path: Path) -> bool:
    try:
        return _identity(os.stat(path)) in _held
    except OSError:
        return False


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
