"""Checkpoints: what goes in comes out, whatever it is; keeping, linking and identity."""

from __future__ import annotations

import errno
import json
import math
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from semigradient.errors import UserError
from semigradient.training.checkpoint import load, save
from semigradient.training.state import Shard
from support.checkpoints import IDENTITY, names, replay, small


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


def test_identity_mismatch_lists_every_field(tmp_path: Path) -> None:
    save(tmp_path, 1, {"x": 1}, {**IDENTITY, "old": 1, "flag": True})
    requested = {**IDENTITY, "agent": "ppo", "new": "y", "lr": 0.5, "flag": 1}
    with pytest.raises(UserError) as caught:
        load(tmp_path, requested)
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
    requested = {"hidden": [64, 64], "clip": math.inf, "nan": math.nan, "n": 1.0}
    assert load(tmp_path, requested).step == 1


@pytest.mark.parametrize("stride", [3, 8])
def test_one_element_of_any_stride_is_saved(tmp_path: Path, stride: int) -> None:
    """It counts as contiguous, and yet has no view of bytes."""
    value = torch.arange(float(stride), dtype=torch.float64)[1::stride]
    assert (value.shape, value.stride()) == ((1,), (stride,))
    save(tmp_path, 0, {"value": value, "array": value.numpy()}, {})
    loaded = load(tmp_path, {}).state
    assert loaded["value"].tolist() == loaded["array"].tolist() == [1.0]
