"""Checkpoints that survive `kill -9`, a full disk and a flipped bit.

A checkpoint is a folder `step-000000012345/` with

- `manifest.json`: schema, step, identity, size and sha256 of every other file, and a digest of
  the manifest itself;
- `state.json`: the nested state, its tensors replaced by references;
- `tensors.safetensors`: those tensors;
- `shard-00000.safetensors`, …: one file for each `Shard`.

It is written under a temporary name, synced, and renamed, so that a folder of the final name is
either absent or complete. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from semigradient.errors import UserError
from semigradient.training.state import SAFETENSORS_NAMES, Encoder, decode

SCHEMA = 1
_BLOCK = 1 << 20
_NAME = re.compile(r"(?P<replaced>\.old-)?step-(?P<step>\d{12,})")
_UNREADABLE = (
    SafetensorError,
    OSError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)

# Per process and folder: the token that marks checkpoints whose shards may be linked. It starts
# afresh in each process and after each `load`, since revisions then count from something else.
_lineages: dict[tuple[int, Path], str] = {}


@dataclass(frozen=True)
class Loaded:
    """What `load` found: `skipped` names each damaged newer checkpoint and why."""

    step: int
    state: dict[str, Any]
    path: Path
    skipped: list[str]


class _DamagedError(Exception):
    """A checkpoint that cannot be used; the message says which file and why."""


def save(
    folder: Path, step: int, state: dict[str, Any], identity: dict[str, Any], keep: int = 2
) -> Path:
    """Write `state` as the checkpoint of `step` and return its folder.

    `keep` is how many checkpoints remain, this one included; ones of later steps are left alone.
    An `OSError` (full disk, read-only folder) leaves the older checkpoints as they were.
    """
    if step < 0 or keep < 1:
        raise ValueError(f"step must be >= 0 and keep >= 1, got step={step} and keep={keep}")
    folder = Path(folder)
    final = folder / f"step-{step:012d}"
    encoder = Encoder()
    tree = encoder.encode(state, ())
    facts = {"schema": SCHEMA, "step": step, "identity": encoder.encode_plain(identity)}
    _prepare(folder)
    temporary = folder / f".tmp-{final.name}-{os.getpid()}"
    try:
        temporary.mkdir()
        _write_contents(temporary, folder, tree, encoder, facts)
        _publish(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _prune(folder, step, keep)
    return final


def _prepare(folder: Path) -> None:
    """Create the folder and clear up after a save that was killed."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        _sync_folder(folder.parent)
    for name in os.listdir(folder):
        replaced = _NAME.fullmatch(name)
        if name.startswith(".tmp-"):
            shutil.rmtree(folder / name, ignore_errors=True)
        elif replaced and replaced["replaced"]:
            # Killed between the two renames of `_publish`: the old one is still the good one.
            original = folder / name.removeprefix(".old-")
            if original.exists():
                shutil.rmtree(folder / name, ignore_errors=True)
            else:
                os.rename(folder / name, original)


def _write_contents(
    temporary: Path, folder: Path, tree: Any, encoder: Encoder, facts: dict[str, Any]
) -> None:
    """Write every file of a checkpoint, the manifest last, and sync them."""
    key = (os.getpid(), folder.resolve())
    lineage = _lineages.setdefault(key, uuid.uuid4().hex)
    previous = _linkable_shards(folder, lineage, facts)
    text = json.dumps(tree, allow_nan=False, separators=(",", ":"))
    files = {
        "state.json": _write(temporary / "state.json", [memoryview(text.encode())]),
        "tensors.safetensors": _write_tensors(temporary / "tensors.safetensors", encoder.tensors),
    }
    shards: dict[str, Any] = {}
    for file, (path, shard) in encoder.shards.items():
        kind = [shard.revision, str(shard.tensor.dtype), list(shard.tensor.shape)]
        entry = _link(previous.get(path), kind, temporary / file)
        files[file] = entry or _write_tensors(temporary / file, {"data": shard.tensor})
        shards[path] = {"file": file, "kind": kind}
    manifest = {**facts, "lineage": lineage, "files": files, "shards": shards}
    sealed = json.dumps({**manifest, "digest": _digest(manifest)}, allow_nan=False, indent=1)
    _write(temporary / "manifest.json", [memoryview(sealed.encode())])
    _sync_folder(temporary)


def _linkable_shards(folder: Path, lineage: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the shards of the newest checkpoint up to this step, if this learner wrote it."""
    for path in _checkpoints(folder):
        if _step(path) > facts["step"]:
            continue
        try:
            manifest = _read_manifest(path)
        except _DamagedError:
            return {}
        if manifest["lineage"] != lineage or manifest["identity"] != facts["identity"]:
            return {}
        return {
            name: {**shard, "path": path / shard["file"], "entry": manifest["files"][shard["file"]]}
            for name, shard in manifest["shards"].items()
        }
    return {}


def _link(previous: dict[str, Any] | None, kind: list[Any], to: Path) -> dict[str, Any] | None:
    """Hard-link an unchanged shard and return its manifest entry, or None to have it written."""
    if previous is None or previous["kind"] != kind:
        return None
    entry: dict[str, Any] = previous["entry"]
    try:
        if os.stat(previous["path"]).st_size != entry["size"]:
            return None
        os.link(previous["path"], to)
    except OSError:  # no links on this file system, or the file is gone
        return None
    return entry


def _write(path: Path, blocks: Iterator[memoryview] | list[memoryview]) -> dict[str, Any]:
    """Write and sync a file, hashing on the way; return its manifest entry."""
    digest, size = hashlib.sha256(), 0
    with open(path, "xb") as file:
        for block in blocks:
            for start in range(0, len(block), _BLOCK):
                piece = block[start : start + _BLOCK]
                digest.update(piece)
                size += file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return {"size": size, "sha256": digest.hexdigest()}


def _write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Write a safetensors file tensor by tensor.

    The library's own writer first copies everything, and on a full disk raises no `OSError`.
    """
    # The widest elements first keeps each tensor aligned for the reader's memory map.
    ordered = sorted(tensors.items(), key=lambda item: -_stored_size(item[1]))
    header: dict[str, Any] = {}
    offset = 0
    for name, tensor in ordered:
        native = SAFETENSORS_NAMES.get(tensor.dtype)
        size = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": native or "U8",
            "shape": list(tensor.shape) if native else [size],
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)

    def blocks() -> Iterator[memoryview]:
        yield memoryview(len(text).to_bytes(8, "little") + text)
        for _, tensor in ordered:
            yield _bytes(tensor)

    return _write(path, blocks())


def _stored_size(tensor: torch.Tensor) -> int:
    return tensor.element_size() if tensor.dtype in SAFETENSORS_NAMES else 1


def _bytes(tensor: torch.Tensor) -> memoryview:
    """Return the elements as bytes, without a copy when they are contiguous on the CPU."""
    flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    # A single element counts as contiguous whatever its stride, which a view of bytes does not.
    return flat.as_strided(flat.shape, (1,)).view(torch.uint8).numpy().data


def _publish(temporary: Path, final: Path) -> None:
    """Rename the finished folder to its place, replacing one of the same step."""
    replaced = None
    if final.exists():
        # A folder cannot be renamed over a full one. In between, `load` knows the `.old-` name.
        replaced = final.with_name(f".old-{final.name}")
        os.rename(final, replaced)
    try:
        os.rename(temporary, final)
    except BaseException:
        if replaced:
            os.rename(replaced, final)
        raise
    _sync_folder(final.parent)
    if replaced:
        _remove(replaced)


def _prune(folder: Path, step: int, keep: int) -> None:
    older = [path for path in _checkpoints(folder) if _step(path) <= step]
    for path in older[keep:]:
        _remove(path)


def _remove(path: Path) -> None:
    """Delete a checkpoint, renamed first: a half-deleted one must not look damaged."""
    doomed = path.with_name(f".tmp-{path.name.removeprefix('.old-')}-removed")
    os.rename(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load(folder: Path, identity: dict[str, Any] | None) -> Loaded:
    """Return the newest intact checkpoint; the tensors are on the CPU.

    `identity` (agent, env, …) must equal the saved one; None takes any checkpoint.
    """
    folder = Path(folder)
    _lineages.pop((os.getpid(), folder.resolve()), None)
    paths: list[Path] | None = None
    skipped: list[str] = []
    while paths != (paths := _checkpoints(folder)):  # again if a running training moved them on
        skipped = []
        for path in paths:
            try:
                return _open(path, identity, skipped)
            except UserError:
                raise
            except _DamagedError as error:
                skipped.append(f"{path.name}: {error}")
            except _UNREADABLE as error:  # hashes agree, yet `save` never wrote this
                skipped.append(f"{path.name}: malformed ({error!r})")
    if skipped:
        raise UserError(f"no usable checkpoint in {folder}: {'; '.join(skipped)}")
    raise UserError(f"no checkpoint in {folder}")


def _open(path: Path, identity: dict[str, Any] | None, skipped: list[str]) -> Loaded:
    manifest = _read_manifest(path)
    if identity is not None:
        _require_same(decode(manifest["identity"], {}, {}), identity)
    _verify(path, manifest)
    tensors = load_file(path / "tensors.safetensors")
    files = [file for file in manifest["files"] if file.startswith("shard-")]
    shards = {file: load_file(path / file)["data"] for file in files}
    state = decode(_read_json(path / "state.json"), tensors, shards)
    return Loaded(manifest["step"], state, path, skipped)


def _step(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match
    return int(match["step"])


def _checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints, newest first; one set aside counts after one of its own step."""
    try:
        names = [name for name in os.listdir(folder) if _NAME.fullmatch(name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    paths = [folder / name for name in names if (folder / name).is_dir()]
    return sorted(paths, key=lambda path: (_step(path), path.name[0] != "."), reverse=True)


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _DamagedError(f"{path.name}: missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise _DamagedError(f"{path.name}: unreadable ({error})") from error


def _read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest once it is known to be intact and to name only its own files."""
    manifest = _read_json(path / "manifest.json")
    if not isinstance(manifest, dict):
        raise _DamagedError("manifest.json: not an object")
    if manifest.get("schema") != SCHEMA:
        schema = manifest.get("schema")
        raise _DamagedError(f"manifest.json: schema {schema!r}, this version reads {SCHEMA}")
    digest = manifest.pop("digest", None)
    if digest != _digest(manifest):
        raise _DamagedError("manifest.json: hash differs")
    fields = {"step": int, "identity": dict, "files": dict, "shards": dict, "lineage": str}
    for field, kind in fields.items():
        if not isinstance(manifest.get(field), kind):
            raise _DamagedError(f"manifest.json: {field} is not a {kind.__name__}")
    if manifest["step"] != _step(path):
        raise _DamagedError(f"manifest.json: is of step {manifest['step']}")
    for file in manifest["files"]:
        if file in ("", ".", "..") or re.search(r"[/\\\0]", file):
            raise _DamagedError(f"manifest.json: refused, {file!r} leaves the folder")
    return manifest


def _verify(path: Path, manifest: dict[str, Any]) -> None:
    """Compare size and hash of every file."""
    for name in {"state.json": 0, "tensors.safetensors": 0, **manifest["files"]}:
        try:
            entry = manifest["files"][name]
            if not stat.S_ISREG(os.lstat(path / name).st_mode):
                raise _DamagedError(f"{name}: refused, not a plain file")
            with open(path / name, "rb") as file:
                if os.fstat(file.fileno()).st_size != entry["size"]:
                    raise _DamagedError(f"{name}: size differs")
                if _hash(file) != entry["sha256"]:
                    raise _DamagedError(f"{name}: hash differs")
        except FileNotFoundError:
            raise _DamagedError(f"{name}: missing") from None
        except (OSError, KeyError, TypeError) as error:
            raise _DamagedError(f"{name}: {error!r}") from error


def _hash(file: BinaryIO) -> str:
    digest, buffer = hashlib.sha256(), memoryview(bytearray(_BLOCK))
    while count := file.readinto(buffer):  # type: ignore[attr-defined]
        digest.update(buffer[:count])
    return digest.hexdigest()


def _require_same(saved: dict[str, Any], requested: dict[str, Any]) -> None:
    differences = []
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
