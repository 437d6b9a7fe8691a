from __future__ import annotations

import errno
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from errors import UserError
from training import checkpoint
from training.checkpoint import load, save
from training.state import Shard

IDENTITY = {"agent": "dqn", "env": "CartPole-v1", "lr": 1e-3, "hidden": [64, 64], "seed": None}
ROOT = Path(__file__).resolve().parents[1]


def small(step: int) -> dict[str, Any]:
    return {"value": torch.full((1000,), step), "steps": step, "big": np.full(500, step)}


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def seal(path: Path, **changes: object) -> None:
    """Rewrite a manifest as an attacker would: changed, with a digest that agrees."""
    manifest = json.loads((path / "manifest.json").read_text())
    manifest.pop("digest")
    manifest.update(changes)
    manifest["digest"] = checkpoint._digest(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def assert_equal(a: Any, b: Any, where: str = "") -> None:
    assert type(a) is type(b), (where, type(a), type(b))
    if isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}.{index}")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, where
        assert a.shape == b.shape, where
        x, y = (t.resolve_conj().contiguous().reshape(-1).view(torch.uint8) for t in (a, b))
        assert torch.equal(x, y), where
    elif isinstance(a, np.ndarray | np.generic):
        assert a.dtype == b.dtype, where
        assert a.shape == b.shape, where
        assert a.tobytes() == b.tobytes(), where
    elif isinstance(a, float):
        assert a.hex() == b.hex(), where
    else:
        assert a == b, where


# --- round trip ---------------------------------------------------------------------------------

TORCH_DTYPES = [
    value for value in vars(torch).values() if isinstance(value, torch.dtype) and value.itemsize > 0
]


def dense(dtype: torch.dtype) -> torch.Tensor | None:
    try:
        return torch.arange(48, dtype=torch.uint8).view(dtype)
    except RuntimeError:  # quantized and sub-byte kinds
        return None


def nasty_state() -> dict[str, Any]:
    frozen = np.arange(6)
    frozen.flags.writeable = False
    return {
        "dtypes": {str(d): t for d in TORCH_DTYPES if (t := dense(d)) is not None},
        "bool": torch.tensor([True, False]),
        "zero": torch.zeros(0, 3),
        "zero bytes": torch.zeros(2, 0, dtype=torch.complex128),
        "scalar": torch.tensor(1.5),
        "scalar complex": torch.tensor(1 + 2j, dtype=torch.complex128),
        "strided": torch.arange(24.0).reshape(4, 6).t()[::2],
        "expanded": torch.ones(1).expand(5),
        "conj": torch.tensor([1 + 2j]).conj(),
        "parameter": torch.nn.Parameter(torch.ones(2)).detach(),
        "odd bytes first": torch.ones(3, dtype=torch.uint8),
        "wide after": torch.ones(3, dtype=torch.float64),
        "a": {"b": torch.tensor(1), "c.d": torch.tensor(2), "c": {"d": torch.tensor(3)}},
        "__metadata__": torch.tensor(4),
        "\ud800": torch.tensor(5),
        "": {"": [[], {}, [torch.tensor(6)]]},
        "looks like ours": {"__tensor__": "a.b", "x": {"__dict__": {"__number__": "nan"}}},
        "arrays": {
            d: np.zeros(3, d)
            for d in (*"?bhilqBHILQefdgFDG", ">f8", ">u4", "U3", "S2", "M8[ns]", "m8[s]")
        },
        "array zero": np.zeros((0, 4), np.uint16),
        "array 0-dim": np.array(7, np.uint64),
        "array strided": np.arange(12).reshape(3, 4)[:, ::2],
        "array frozen": frozen,
        "array big": np.array([2**64 - 1], np.uint64),
        "scalars": [np.float32(0.1), np.float64(-0.0), np.int8(-3), np.bool_(True), np.str_("é")],
        "empty text": [np.str_(""), np.bytes_(b""), np.array([""])],
        "plain": [None, True, False, 0, -1, 2**63, -(2**19937), 10**6000, "", "tëxt\n\0", "nan"],
        "floats": [0.1, -0.0, 5e-324, 1.7976931348623157e308, math.nan, math.inf, -math.inf],
        "rng": [int(x) for x in random.Random(1).getstate()[1]],
        "generator": np.random.default_rng(3).bit_generator.state,
        "torch rng": torch.get_rng_state(),
        "shard": Shard(torch.arange(10, dtype=torch.uint8), 1),
        "shard odd": [Shard(torch.ones(2, dtype=torch.complex128), 1), Shard(torch.tensor(3), 2)],
    }


def test_round_trip_of_a_nasty_state(tmp_path: Path) -> None:
    state = nasty_state()
    path = save(tmp_path / "new" / "checkpoints", 12, state, IDENTITY)
    assert path.name == "step-000000000012"
    loaded = load(tmp_path / "new" / "checkpoints", IDENTITY)
    state["shard"] = state["shard"].tensor
    state["shard odd"] = [shard.tensor for shard in state["shard odd"]]
    assert_equal(loaded.state, state)
    assert (loaded.step, loaded.path, loaded.skipped) == (12, path, [])


def test_files_are_what_their_names_say(tmp_path: Path) -> None:
    path = save(tmp_path, 1, {"net": {"w": torch.ones(2, 3)}, "nan": math.nan}, IDENTITY)
    assert load_file(path / "tensors.safetensors")["net.w"].tolist() == [[1, 1, 1], [1, 1, 1]]

    def strict(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    for file in ("state.json", "manifest.json"):
        json.loads((path / file).read_text(), parse_constant=strict)


def test_loaded_tensors_are_aligned(tmp_path: Path) -> None:
    dtypes = [torch.uint8, torch.float16, torch.float32, torch.complex128, torch.float64]
    save(tmp_path, 1, {str(d): torch.ones(3, dtype=d) for d in dtypes}, IDENTITY)
    for tensor in load(tmp_path, IDENTITY).state.values():
        assert tensor.data_ptr() % min(8, tensor.element_size()) == 0


def test_loaded_tensors_are_writable_and_apart_from_the_file(tmp_path: Path) -> None:
    save(tmp_path, 1, small(1), IDENTITY)
    state = load(tmp_path, IDENTITY).state
    state["value"].add_(1)
    state["big"] += 1
    assert load(tmp_path, IDENTITY).state["value"][0] == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128])
def test_tied_tensors_are_stored_once_and_stay_tied(tmp_path: Path, dtype: torch.dtype) -> None:
    weight = torch.randn(64, 64, dtype=dtype)
    overlap = weight.flatten()[5:100]
    path = save(tmp_path, 1, {"a": weight, "b": weight, "c": overlap, "d": weight.t()}, IDENTITY)
    state = load(tmp_path, None).state
    assert state["a"].data_ptr() == state["b"].data_ptr()
    assert torch.equal(state["c"], overlap)
    assert torch.equal(state["d"], weight.t())
    assert (path / "tensors.safetensors").stat().st_size < 3 * weight.numel() * dtype.itemsize


@pytest.mark.parametrize(
    "leaf",
    [(1, 2), {1, 2}, object(), b"bytes", np.array([object()]), torch.eye(2).to_sparse(), {1: 2}],
    ids=lambda leaf: type(leaf).__name__,
)
def test_refuses_what_it_could_not_give_back(tmp_path: Path, leaf: object) -> None:
    with pytest.raises(TypeError, match=r"agent\.x"):
        save(tmp_path, 1, {"agent": {"x": leaf}}, IDENTITY)
    assert names(tmp_path) == []


# --- keeping and replacing ----------------------------------------------------------------------


def test_keeps_two_and_removes_stale_temporaries(tmp_path: Path) -> None:
    (tmp_path / ".tmp-step-000000000001-9").mkdir()
    (tmp_path / ".tmp-step-000000000001-9" / "state.json").write_text("{")
    (tmp_path / "notes.txt").write_text("mine")
    for step in (1, 2, 3):
        save(tmp_path, step, small(step), IDENTITY)
    assert names(tmp_path) == ["notes.txt", "step-000000000002", "step-000000000003"]
    save(tmp_path, 4, small(4), IDENTITY, keep=1)
    assert names(tmp_path) == ["notes.txt", "step-000000000004"]
    save(tmp_path, 1, small(1), IDENTITY, keep=1)  # never removes what it just wrote, or later ones
    assert names(tmp_path) == ["notes.txt", "step-000000000001", "step-000000000004"]


def test_overwrites_the_same_step(tmp_path: Path) -> None:
    save(tmp_path, 5, small(1), IDENTITY)
    save(tmp_path, 5, small(2), IDENTITY)
    assert load(tmp_path, IDENTITY).state["steps"] == 2
    assert names(tmp_path) == ["step-000000000005"]


def test_killed_between_the_two_renames_of_an_overwrite(tmp_path: Path) -> None:
    path = save(tmp_path, 5, small(1), IDENTITY)
    path.rename(tmp_path / ".old-step-000000000005")
    assert load(tmp_path, IDENTITY).state["steps"] == 1
    save(tmp_path, 6, small(2), IDENTITY)
    assert names(tmp_path) == ["step-000000000005", "step-000000000006"]


# --- shards -------------------------------------------------------------------------------------


def replay(revisions: list[int]) -> dict[str, Any]:
    return {"replay": [Shard(torch.full((1000,), float(r)), r) for r in revisions]}


def inodes(path: Path) -> list[int]:
    return [file.stat().st_ino for file in sorted(path.glob("shard-*"))]


def test_unchanged_shards_are_linked_and_changed_ones_written(tmp_path: Path) -> None:
    first = inodes(save(tmp_path, 1, replay([1, 1, 1]), IDENTITY))
    second = inodes(save(tmp_path, 2, replay([1, 2, 1, 1]), IDENTITY))
    assert [a == b for a, b in zip(first, second, strict=False)] == [True, False, True]
    for step in (3, 4):  # the first owner of the file is removed meanwhile
        save(tmp_path, step, replay([1, 2, 1, 1]), IDENTITY)
    assert [t[0].item() for t in load(tmp_path, IDENTITY).state["replay"]] == [1, 2, 1, 1]


def test_shards_are_linked_when_a_step_is_overwritten(tmp_path: Path) -> None:
    first = inodes(save(tmp_path, 1, replay([1]), IDENTITY))
    assert inodes(save(tmp_path, 1, replay([1]), IDENTITY)) == first
    assert load(tmp_path, IDENTITY).state["replay"][0][0] == 1


def test_shards_of_another_lineage_are_not_trusted(tmp_path: Path) -> None:
    ppo = {**IDENTITY, "agent": "ppo"}
    files = inodes(save(tmp_path, 1, replay([1]), IDENTITY, keep=9))
    load(tmp_path, IDENTITY)  # a resumed learner counts its revisions anew
    files += inodes(save(tmp_path, 2, replay([1]), IDENTITY, keep=9))
    files += inodes(save(tmp_path, 3, replay([1]), ppo, keep=9))
    files += inodes(save(tmp_path, 4, {"replay": [Shard(torch.zeros(7), 1)]}, ppo, keep=9))
    assert len(set(files)) == 4


def test_shards_are_written_where_linking_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, replay([1]), IDENTITY)
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no")))
    save(tmp_path, 2, replay([1]), IDENTITY)
    assert load(tmp_path, IDENTITY).step == 2


def test_a_shard_of_the_wrong_size_is_written_again(tmp_path: Path) -> None:
    file = save(tmp_path, 1, replay([1]), IDENTITY) / "shard-00000.safetensors"
    os.truncate(file, 100)
    save(tmp_path, 2, replay([1]), IDENTITY)
    assert load(tmp_path, IDENTITY).step == 2


# --- damage -------------------------------------------------------------------------------------


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
    good = path.read_bytes()
    manifest = json.loads(good)
    for position in range(len(good)):
        data = bytearray(good)
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


# --- identity -----------------------------------------------------------------------------------


def test_identity_mismatch_lists_every_field(tmp_path: Path) -> None:
    save(tmp_path, 1, {"x": 1}, {**IDENTITY, "old": 1, "flag": True})
    asked = {**IDENTITY, "agent": "ppo", "new": "y", "lr": 0.5, "flag": 1}
    with pytest.raises(UserError) as caught:
        load(tmp_path, asked)
    assert str(caught.value) == (
        "checkpoint has agent='dqn', asked for agent='ppo'; "
        "checkpoint has lr=0.001, asked for lr=0.5; "
        "checkpoint has no new, asked for new='y'; "
        "checkpoint has flag=True, asked for flag=1; "
        "checkpoint has old=1, asked for no old"
    )
    assert load(tmp_path, None).step == 1


def test_identity_compares_as_json(tmp_path: Path) -> None:
    saved = {"hidden": (64, 64), "clip": math.inf, "nan": math.nan, "n": 1}
    save(tmp_path, 1, {"x": 1}, saved)
    asked = {"hidden": [64, 64], "clip": math.inf, "nan": math.nan, "n": 1.0}
    assert load(tmp_path, asked).step == 1


# --- disasters ----------------------------------------------------------------------------------

SAVER = """
import sys, torch
from pathlib import Path
from typing import Any
from training.checkpoint import save
from training.state import Shard
torch.set_num_threads(1)
folder, step = Path(sys.argv[1]), int(sys.argv[2])
while True:
    step += 1
    for _ in range(2):  # the second one overwrites
        save(folder, step, {
            "step": step,
            "tensors": [torch.full((20_000,), step) for _ in range(3)],
            "replay": [Shard(torch.full((50_000,), step // 3), step // 3)],
        }, {"agent": "x"})
    print(step, flush=True)
"""


def test_sigkill_at_any_instant_loses_at_most_one_interval(tmp_path: Path) -> None:
    generator = random.Random(0)
    step, deadline, kills = 0, time.monotonic() + 20, 0
    while kills < 3 and time.monotonic() < deadline:
        child = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(tmp_path), str(step)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        child.stdout.readline()
        # A stopped child lets many instants be looked at for the price of one start: what lies
        # on disk then is exactly what SIGKILL would leave.
        for _ in range(25):
            time.sleep(generator.uniform(0, 0.02))
            os.kill(child.pid, signal.SIGSTOP)
            os.waitpid(child.pid, os.WUNTRACED)
            step = check_complete(tmp_path, step)
            os.kill(child.pid, signal.SIGCONT)
        time.sleep(generator.uniform(0, 0.02))
        child.send_signal(signal.SIGKILL)
        printed = child.stdout.read().split()
        child.stdout.close()
        child.wait()
        step = check_complete(tmp_path, int(printed[-1]) if printed else step)
        kills += 1
    assert kills >= 2


def check_complete(folder: Path, at_least: int) -> int:
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
