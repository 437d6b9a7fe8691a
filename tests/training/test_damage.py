"""Checkpoints that are damaged, forged, cut off by `kill -9`, or out of room."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from semigradient.errors import UserError
from semigradient.training import checkpoint
from semigradient.training.checkpoint import load, save
from semigradient.training.manifest import digest
from semigradient.training.state import Shard
from support.checkpoints import IDENTITY, names, replay, small
from support.commands import ROOT


def seal(path: Path, **changes: object) -> None:
    """Rewrite a manifest as an attacker would: changed, with a digest that agrees."""
    manifest = json.loads((path / "manifest.json").read_text())
    manifest.pop("digest")
    manifest.update(changes)
    manifest["digest"] = digest(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def link_away(path: Path) -> None:
    shutil.move(path, path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


@pytest.mark.parametrize(
    "file", ["tensors.safetensors", "state.json", "shard-00000.safetensors", "manifest.json"]
)
@pytest.mark.parametrize("harm", [truncate, flip, Path.unlink, link_away])
def test_damage_is_named_and_the_one_before_is_used(
    tmp_path: Path, file: str, harm: Callable[[Path], None]
) -> None:
    for step in (1, 2):
        save(tmp_path, step, {**small(step), **replay([step])}, IDENTITY)
    if (file, harm) == ("manifest.json", link_away):
        pytest.skip("the manifest vouches for itself wherever it lies")
    harm(tmp_path / "step-000000000002" / file)
    loaded = load(tmp_path, IDENTITY)
    assert loaded.step == loaded.state["steps"] == 1
    (reason,) = loaded.skipped
    assert reason.startswith(f"step-000000000002: {file}: ")
    expected = {truncate: "size", flip: "hash", Path.unlink: "missing", link_away: "refused"}[harm]
    assert expected in reason or file == "manifest.json"


def test_every_single_bit_of_the_manifest_counts(tmp_path: Path) -> None:
    path = save(tmp_path, 1, {"x": 1}, IDENTITY) / "manifest.json"
    intact = path.read_bytes()
    manifest = json.loads(intact)
    for position in range(len(intact)):
        data = bytearray(intact)
        data[position] ^= 1 << (position % 8)
        path.write_bytes(data)
        try:
            assert load(tmp_path, IDENTITY).state == {"x": 1}
        except UserError as error:
            assert "no usable checkpoint" in str(error)  # noqa: PT017
        else:  # only a change that JSON does not see, such as a space that became a newline
            assert json.loads(data) == manifest


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", "a\\b", ""])
def test_a_manifest_that_points_outside_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("mine")
    path = save(tmp_path / "c", 1, {"x": 1}, IDENTITY)
    files = json.loads((path / "manifest.json").read_text())["files"]
    seal(path, files={**files, name: {"size": 4, "sha256": "0" * 64}})
    with pytest.raises(UserError, match="refused"):
        load(tmp_path / "c", IDENTITY)


def forge(path: Path, tree: object) -> None:
    """Replace the state by any JSON, with hashes that agree."""
    (path / "state.json").unlink()
    text = json.dumps(tree).encode()
    entry = checkpoint._write(path / "state.json", [memoryview(text)])
    files = json.loads((path / "manifest.json").read_text())["files"]
    seal(path, files={**files, "state.json": entry})


@pytest.mark.parametrize(
    "tree",
    [
        {"__tensor__": "none such"},
        {"__tensor__": "t", "dtype": "save", "shape": [1]},
        {"__tensor__": "t", "dtype": "complex128", "shape": [99]},
        {"__shard__": "../../secret"},
        {"__array__": "t", "dtype": "O", "shape": [1]},
        {"__array__": "t", "dtype": "<f8", "shape": [1 << 60]},
        {"__scalar__": "<f8", "bytes": "00"},
        {"__number__": "exit()"},
        {"__number__": ["nan"]},
        {"__dict__": 3},
    ],
    ids=str,
)
def test_a_forged_state_is_one_line_not_a_traceback(tmp_path: Path, tree: object) -> None:
    path = save(tmp_path, 1, {"t": torch.ones(1)}, IDENTITY)
    forge(path, {"x": tree})
    with pytest.raises(UserError, match="step-000000000001: malformed"):
        load(tmp_path, IDENTITY)


def test_another_schema_and_a_renamed_folder_are_named(tmp_path: Path) -> None:
    seal(save(tmp_path, 1, {"x": 1}, IDENTITY), schema=99)
    save(tmp_path, 2, {"x": 1}, IDENTITY).rename(tmp_path / "step-000000000003")
    with pytest.raises(UserError, match=r"is of step 2; .*schema 99, this version reads 1"):
        load(tmp_path, IDENTITY)


def test_no_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoint in .*nowhere"):
        load(tmp_path / "nowhere", IDENTITY)
    (tmp_path / "step-000000000001").mkdir()
    with pytest.raises(UserError, match=r"step-000000000001: manifest\.json: missing"):
        load(tmp_path, IDENTITY)


# Stops itself before every operation on a file system: what lies on disk at that instant is
# exactly what SIGKILL would leave. Stopping is the child's own doing, so no clock decides.
SAVER = """
import os, signal, sys, torch
from pathlib import Path
from semigradient.training.checkpoint import save
from semigradient.training.state import Shard
torch.set_num_threads(1)
def stopping(call):
    def stop(*arguments, **options):
        os.kill(os.getpid(), signal.SIGSTOP)
        return call(*arguments, **options)
    return stop
for name in ("rename", "fsync", "link", "mkdir", "unlink", "rmdir"):
    setattr(os, name, stopping(getattr(os, name)))
folder, step = Path(sys.argv[1]), int(sys.argv[2])
while True:
    step += 1
    for _ in range(2):  # the second one overwrites
        save(folder, step, {
            "step": step,
            "tensors": [torch.full((20_000,), step) for _ in range(3)],
            "replay": [Shard(torch.full((50_000,), step // 3), step // 3)],
        }, {"agent": "x"})
"""


def test_sigkill_at_any_instant_loses_at_most_one_interval(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    step = 0
    for stops in (60, 37, 51):  # in the middle of something else each time
        child = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(tmp_path / "run"), str(step)], cwd=ROOT
        )
        for _ in range(stops):
            _, status = os.waitpid(child.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status)
            step = check_complete(tmp_path / "run", step)
            child.send_signal(signal.SIGCONT)
        os.waitpid(child.pid, os.WUNTRACED)
        child.kill()
        child.wait()
        step = check_complete(tmp_path / "run", step)
    assert step >= 3


def check_complete(folder: Path, at_least: int) -> int:
    """The newest checkpoint is whole and no older than what was there; none before the first."""
    if at_least == 0 and not checkpoint.holds_any(folder):
        return 0
    loaded = load(folder, {"agent": "x"})
    assert loaded.skipped == []
    assert loaded.step >= at_least
    step = loaded.state["step"]
    assert step == loaded.step
    assert all(torch.equal(t, torch.full((20_000,), step)) for t in loaded.state["tensors"])
    assert torch.equal(loaded.state["replay"][0], torch.full((50_000,), step // 3))
    return step


@contextmanager
def tmpfs(folder: Path, options: str) -> Iterator[bool]:
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True
    )
    try:
        yield done.returncode == 0
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def little_space(folder: Path) -> Iterator[None]:
    """One MiB to write: a small file system where mounting is allowed, else a file size limit."""
    if shutil.which("mount"):
        with tmpfs(folder, "size=1m") as mounted:
            if mounted:
                yield
                return
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_keeps_the_older_checkpoints(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    with little_space(folder):
        save(folder, 1, small(1), IDENTITY)
        save(folder, 2, small(2), IDENTITY)
        for huge in (torch.zeros(2_000_000), Shard(torch.zeros(2_000_000), 1), "x" * 2_000_000):
            for step in (2, 3):
                with pytest.raises(OSError) as caught:
                    save(folder, step, {"huge": huge}, IDENTITY)
                assert caught.value.errno in (errno.ENOSPC, errno.EFBIG)
        assert names(folder) == ["step-000000000001", "step-000000000002"]
        loaded = load(folder, IDENTITY)
        assert (loaded.step, loaded.skipped) == (2, [])
        save(folder, 3, small(3), IDENTITY)  # and room made for it is used again
        assert load(folder, IDENTITY).step == 3


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_failing_system_call_anywhere_keeps_the_older_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    real = getattr(os, call)
    for fail_at in range(1, 12):
        folder = tmp_path / str(fail_at)
        save(folder, 1, small(1), IDENTITY)
        save(folder, 2, small(2), IDENTITY)
        calls = 0

        def failing(*arguments: Any, fail_at: int = fail_at) -> Any:
            nonlocal calls
            calls += 1
            if calls == fail_at:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*arguments)

        monkeypatch.setattr(os, call, failing)
        try:
            save(folder, 2, small(7), IDENTITY)
        except OSError:
            assert not [name for name in names(folder) if name.startswith(".tmp-")]
        monkeypatch.setattr(os, call, real)
        loaded = load(folder, IDENTITY)
        assert (loaded.step, loaded.skipped) == (2, [])
        assert loaded.state["steps"] in (2, 7)
        if calls < fail_at:
            assert fail_at > 3
            return
    raise AssertionError("the failure was never past the last call")


def test_a_read_only_folder_gives_an_os_error(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    with tmpfs(folder, "size=1m") as mounted:
        if mounted:
            save(folder, 1, small(1), IDENTITY)
            subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
            with pytest.raises(OSError):
                save(folder, 2, small(2), IDENTITY)
            assert names(folder) == ["step-000000000001"]
            assert load(folder, IDENTITY).step == 1
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        save(tmp_path / "file" / "checkpoints", 1, small(1), IDENTITY)
    assert names(tmp_path) == ["disk", "file"]


def test_source_never_unpickles() -> None:
    text = (ROOT / "training" / "checkpoint.py").read_text()
    assert "torch.load" not in text
    assert "import pickle" not in text
    assert "allow_pickle" not in text
