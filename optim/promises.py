"""Memory that processes were promised and have not taken yet, so that none is promised twice.

One small file per promise, in a folder of this user's; it ends with its process, when the memory
has been taken, or when its owner is gone. Where no such folder can be had, nothing is noted.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

SMALLEST = 64 * 2**20
"""Less than this is not worth a note."""


def folder() -> Path:
    """The folder of promises, which only this user can write; made when it is missing.

    Raises:
        OSError: there is none, or it is another user's.
    """
    path = Path(tempfile.gettempdir()) / f"semigradient-memory-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.lstat()
    if path.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise OSError(f"{path}: not this user's own")
    return path


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Between looking at what is free and promising it, no other process does either."""
    try:
        lock = (folder() / "lock").open("a", encoding="utf-8")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:
        yield
        return
    with lock:
        yield


def of_others(device: str) -> int:
    """Bytes on a device that other living processes were promised and have not taken."""
    total = 0
    with suppress(OSError):
        for path in folder().glob("*.json"):
            note = _read(path)
            if note.get("pid") == os.getpid() or note.get("device") != device:
                continue
            if _is_alive(note):
                total += int(note["bytes"])
            else:
                path.unlink(missing_ok=True)
    return total


def give(owner: object, device: str, size: int) -> None:
    """Note a promise to `owner`, in the place of its earlier one; `take` ends it."""
    take(owner)
    if owner is None or size < SMALLEST:
        return
    with suppress(OSError):
        path = folder() / f"{os.getpid()}-{id(owner)}.json"
        note = {"pid": os.getpid(), "started": _started(os.getpid()), "device": device}
        path.write_text(json.dumps({**note, "bytes": size}), encoding="utf-8")
        _kept[id(owner)] = weakref.finalize(owner, path.unlink, missing_ok=True)


def take(owner: object) -> None:
    """End the promise to `owner`: it has the memory now."""
    if (end := _kept.pop(id(owner), None)) is not None:
        end()


_kept: dict[int, weakref.finalize[Any, Any]] = {}


def _read(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        note = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(note, dict) and isinstance(note.get("bytes"), int):
            return note
    return {}


def _is_alive(note: dict[str, Any]) -> bool:
    """Whether the process of a note still runs, and is not another one with its number."""
    started = _started(note.get("pid", 0))
    return started is not None and started == note.get("started")


def _started(pid: int) -> str | None:
    """When a process started, in the kernel's clock ticks; None if there is none."""
    try:
        status = Path(f"/proc/{int(pid)}/stat").read_text(encoding="utf-8")
        return status.rpartition(")")[2].split()[19]
    except (OSError, ValueError, IndexError):
        return None
