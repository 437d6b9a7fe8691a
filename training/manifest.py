"""The manifest of a checkpoint: which files it has, of what size and hash, and of what run.

Nothing that a manifest or a file says is believed before its hash is, and no file is opened that is
not plain.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from semigradient.errors import UserError
from semigradient.training.run_files import open_plain

SCHEMA = 1
BLOCK = 1 << 20
NAME = re.compile(r"(?P<replaced>\.old-)?step-(?P<step>\d{12,})")


class DamagedError(Exception):
    """A checkpoint that cannot be used; the message says which file and why."""


def step_of(path: Path) -> int:
    """The step in the name of a checkpoint's folder."""
    match = NAME.fullmatch(path.name)
    assert match
    return int(match["step"])


def digest(manifest: Mapping[str, Any]) -> str:
    """Of a manifest without its digest."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def read_json(path: Path) -> Any:
    """The content of a file of strict JSON, in which Infinity and NaN are no numbers."""
    try:
        with open_plain(path, os.O_RDONLY) as file:
            return json.loads(file.readall().decode(), parse_constant=_refuse)  # type: ignore[attr-defined]
    except FileNotFoundError:
        raise DamagedError(f"{path.name}: missing") from None
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise DamagedError(f"{path.name}: unreadable ({error})") from error


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest once it is known to be intact and to name only its own files."""
    manifest = read_json(path / "manifest.json")
    if not isinstance(manifest, dict):
        raise DamagedError("manifest.json: not an object")
    if manifest.get("schema") != SCHEMA:
        schema = manifest.get("schema")
        raise DamagedError(f"manifest.json: schema {schema!r}, this version reads {SCHEMA}")
    sealed = manifest.pop("digest", None)
    if sealed != digest(manifest):
        raise DamagedError("manifest.json: hash differs")
    fields = {"step": int, "identity": dict, "files": dict, "shards": dict, "lineage": str}
    for field, kind in fields.items():
        if not isinstance(manifest.get(field), kind):
            raise DamagedError(f"manifest.json: {field} is not a {kind.__name__}")
    if manifest["step"] != step_of(path):
        raise DamagedError(f"manifest.json: is of step {manifest['step']}")
    for file in manifest["files"]:
        if file in ("", ".", "..") or re.search(r"[/\\\0]", file):
            raise DamagedError(f"manifest.json: refused, {file!r} leaves the folder")
    return manifest


def verify(path: Path, manifest: dict[str, Any]) -> None:
    """Compare size and hash of every file."""
    for name in {"state.json": 0, "tensors.safetensors": 0, **manifest["files"]}:
        try:
            entry = manifest["files"][name]
            with _open(path / name) as file:
                if os.fstat(file.fileno()).st_size != entry["size"]:
                    raise DamagedError(f"{name}: size differs")
                if _hash(file) != entry["sha256"]:
                    raise DamagedError(f"{name}: hash differs")
        except FileNotFoundError:
            raise DamagedError(f"{name}: missing") from None
        except (OSError, KeyError, TypeError) as error:
            raise DamagedError(f"{name}: {error!r}") from error


def _open(path: Path) -> BinaryIO:
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise DamagedError(f"{path.name}: refused, not a plain file")
    return open_plain(path, os.O_RDONLY)


def _hash(file: BinaryIO) -> str:
    total, buffer = hashlib.sha256(), memoryview(bytearray(BLOCK))
    while count := file.readinto(buffer):  # type: ignore[attr-defined]
        total.update(buffer[:count])
    return total.hexdigest()


def require_same(
    saved: Mapping[str, Any], requested: Mapping[str, Any], absent: Mapping[str, Any]
) -> None:
    """`UserError` that names every difference of two identities.

    Args:
        saved: of the checkpoint.
        requested: of the command.
        absent: what names stand for that the checkpoint does not have, being older than they.
    """
    differences = []
    saved = {**{name: value for name, value in absent.items() if name in requested}, **saved}
    for name in [*requested, *(name for name in saved if name not in requested)]:
        if name in saved and name in requested and _same(saved[name], requested[name]):
            continue
        has = f"{name}={saved[name]!r}" if name in saved else f"no {name}"
        wants = f"{name}={requested[name]!r}" if name in requested else f"no {name}"
        differences.append(f"checkpoint has {has}, asked for {wants}")
    if differences:
        raise UserError("; ".join(differences))


def _same(saved: Any, requested: Any) -> bool:
    """Equal as JSON: tuples are lists, 1 is 1.0, nan is nan, but True is not 1."""
    if json.dumps(saved) == json.dumps(requested):
        return True
    return saved == requested and isinstance(saved, bool) == isinstance(requested, bool)
