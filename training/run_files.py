"""Files of a run folder: whole or absent, and never read or written through a link out of it.

A run folder may come from somebody else. What lies in it is data: a link to a file of the reader,
or a pipe that never ends, is refused before anything is opened.
"""

from __future__ import annotations

import json
import os
import stat
import unicodedata
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from semigradient.errors import UserError, one_line, require

_FOREIGN = "wandb"  # W&B links its own logs into its folder, and we write nothing below it


def require_name(name: str, option: str = "run_dir") -> None:
    """`UserError` for the name of a folder that no file system or no config file can hold."""
    bad = next((char for char in name if unicodedata.category(char) in ("Cc", "Cs")), "")
    is_text = not unicodedata.category(bad).startswith("Cs") if bad else True
    what = "a control character" if is_text else "a byte that is not UTF-8"
    require(
        not bad,
        f"{option}={name!r}: has {what} ({bad!r}); accepted are names of printable text",
    )


def require_plain(folder: Path) -> None:
    """Refuse a run folder that holds links out of it, pipes, sockets or devices.

    Raises:
        UserError: names the first such entry.
    """
    root = folder.resolve()
    for path in _entries(folder):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            inside = path.resolve().is_relative_to(root)
            require(inside, f"run {str(folder)!r}: {path} is a link out of the folder; refused")
        else:
            is_plain = stat.S_ISREG(mode) or stat.S_ISDIR(mode)
            require(is_plain, f"run {str(folder)!r}: {path} is no plain file; refused")


def _entries(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        yield from (Path(place, name) for name in (*folders, *files))
        if Path(place) == folder and _FOREIGN in folders:
            folders.remove(_FOREIGN)
            yield from filter(os.path.lexists, [folder / _FOREIGN / "run-id"])


def write_text(path: Path, text: str) -> None:
    """Write a small file in UTF-8, in one piece; a link of its name is replaced, not followed."""
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex[:12]}.tmp")
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a small JSON file in one piece."""
    write_text(path, json.dumps(content, indent=2, default=str) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no such file or it holds anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def open_plain(path: Path, flags: int) -> BinaryIO:
    """Open a plain file, unbuffered; an `OSError` for a link, a pipe or a device.

    Args:
        path: the file.
        flags: of `os.open`, such as `os.O_RDWR | os.O_CREAT`.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path}: not a plain file")
    mode = "rb+" if flags & os.O_RDWR else "ab" if flags & os.O_APPEND else "rb"
    return os.fdopen(descriptor, mode, buffering=0)  # type: ignore[return-value]


def unwritable(folder: Path, problem: OSError | ValueError) -> UserError:
    """The error for a run folder that cannot be made or written."""
    reason = getattr(problem, "strerror", None) or one_line(problem)
    return UserError(
        f"run_dir={str(folder)!r}: cannot be written ({reason}); accepted is any folder that can"
    )
