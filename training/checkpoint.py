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

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from semigradient.errors import UserError
from semigradient.training.manifest import (
    BLOCK,
    NAME,
    SCHEMA,
    DamagedError,
    digest,
    read_json,
    read_manifest,
    require_same,
    step_of,
    verify,
)
from semigradient.training.state import SAFETENSORS_NAMES, Encoder, decode

_UNREADABLE = (
    SafetensorError,
    OSError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
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
    final = folder / folder_name(step)
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


def folder_name(step: int) -> str:
    """Name of the folder of a step's checkpoint."""
    return f"step-{step:012d}"


def discard_after(folder: Path, step: int) -> None:
    """Delete the checkpoints of later steps: the future that a resumed run does not have."""
    for path in _checkpoints(folder):
        if step_of(path) > step:
            _remove(path)


def _prepare(folder: Path) -> None:
    """Create the folder and clear up after a save that was killed."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        _sync_folder(folder.parent)
    for name in os.listdir(folder):
        replaced = NAME.fullmatch(name)
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
    sealed = json.dumps({**manifest, "digest": digest(manifest)}, allow_nan=False, indent=1)
    _write(temporary / "manifest.json", [memoryview(sealed.encode())])
    _sync_folder(temporary)


def _linkable_shards(folder: Path, lineage: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the shards of the newest checkpoint up to this step, if this learner wrote it."""
    for path in _checkpoints(folder):
        if step_of(path) > facts["step"]:
            continue
        try:
            manifest = read_manifest(path)
        except DamagedError:
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
    total, size = hashlib.sha256(), 0
    with open(path, "xb") as file:
        for block in blocks:
            for start in range(0, len(block), BLOCK):
                piece = block[start : start + BLOCK]
                total.update(piece)
                size += file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return {"size": size, "sha256": total.hexdigest()}


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
    older = [path for path in _checkpoints(folder) if step_of(path) <= step]
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


def load(
    folder: Path,
    identity: dict[str, Any] | None,
    absent: Mapping[str, Any] | None = None,
    hashed: Collection[Path] = (),
) -> Loaded:
    """Return the newest intact checkpoint; the tensors are on the CPU.

    Args:
        folder: of the checkpoints.
        identity: (agent, env, …) must equal the saved one; None takes any checkpoint.
        absent: what names of the identity stand for that an older checkpoint does not have.
        hashed: those that this process has just found to be `intact`.

    Raises:
        UserError: none is usable, or it is of something else.
    """
    folder = Path(folder)
    _lineages.pop((os.getpid(), folder.resolve()), None)
    paths: list[Path] | None = None
    skipped: list[str] = []
    while paths != (paths := _checkpoints(folder)):  # again if a running training moved them on
        skipped = []
        for path in paths:
            try:
                return _open(path, identity, absent or {}, skipped, path in hashed)
            except UserError:
                raise
            except DamagedError as error:
                skipped.append(f"{path.name}: {error}")
            except _UNREADABLE as error:  # hashes agree, yet `save` never wrote this
                skipped.append(f"{path.name}: malformed ({error!r})")
    if skipped:
        raise UserError(f"no usable checkpoint in {folder}: {'; '.join(skipped)}")
    raise UserError(f"no checkpoint in {folder}")


def intact(folder: Path, step: int | None = None) -> list[Path]:
    """The intact checkpoints, of one step or of all, the newest first; their files are hashed."""
    found = []
    for path in _checkpoints(folder):
        with contextlib.suppress(DamagedError, *_UNREADABLE):
            if step is None or step_of(path) == step:
                verify(path, read_manifest(path))
                found.append(path)
    return found


def holds_any(folder: Path) -> bool:
    """Whether a folder holds a checkpoint, intact or not."""
    return bool(_checkpoints(folder))


def _open(
    path: Path,
    identity: dict[str, Any] | None,
    absent: Mapping[str, Any],
    skipped: list[str],
    is_hashed: bool,
) -> Loaded:
    manifest = read_manifest(path)
    if identity is not None:
        require_same(decode(manifest["identity"], {}, {}), identity, absent)
    if not is_hashed:
        verify(path, manifest)
    tensors = load_file(path / "tensors.safetensors")
    files = [file for file in manifest["files"] if file.startswith("shard-")]
    shards = {file: load_file(path / file)["data"] for file in files}
    state = decode(read_json(path / "state.json"), tensors, shards)
    if not isinstance(state, dict):
        raise DamagedError(f"state.json: holds a {type(state).__name__}, not a table")
    return Loaded(manifest["step"], state, path, skipped)


def _checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints, newest first; one set aside counts after one of its own step."""
    try:
        names = [name for name in os.listdir(folder) if NAME.fullmatch(name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    paths = [folder / name for name in names if (folder / name).is_dir()]
    return sorted(paths, key=lambda path: (step_of(path), path.name[0] != "."), reverse=True)
