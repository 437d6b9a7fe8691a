"""Loaders on tiny files in the published formats, and what they say about wrong ones."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch

from semigradient.envs.images import datasets as images
from semigradient.envs.images import tables
from semigradient.envs.images.glyphs import glyphs
from semigradient.errors import UserError

RNG = np.random.default_rng(0)


def svhn_file(path: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Write a file of SVHN's cropped digits; returns images (N, 3, 32, 32) and labels."""
    pixels = RNG.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(1, count + 1) % 11
    labels[labels == 0] = 10
    stored = {"X": pixels.transpose(2, 3, 1, 0), "y": labels[:, None].astype(np.uint8)}
    scipy.io.savemat(path, stored)
    return pixels, labels


def cifar_records(count: int) -> tuple[bytes, np.ndarray, np.ndarray]:
    pixels = RNG.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(count, dtype=np.uint8) % 10
    records = b"".join(
        bytes([label]) + image.tobytes() for label, image in zip(labels, pixels, strict=True)
    )
    return records, pixels, labels


def test_svhn_in_its_own_format(tmp_path: Path) -> None:
    pixels, labels = svhn_file(tmp_path / "test_32x32.mat", 12)
    read = images.load("svhn", "test", str(tmp_path), verify=False)
    np.testing.assert_array_equal(read.images.numpy(), pixels)
    assert read.labels.tolist() == [label % 10 for label in labels]  # 10 stands for the digit 0
    assert 0 in read.labels
    assert len(images.load("svhn", "test", str(tmp_path), limit=5, verify=False).images) == 5


def test_cifar_from_its_folder_and_from_its_archive(tmp_path: Path) -> None:
    folder, parts = tmp_path / "a" / "cifar-10-batches-bin", []
    folder.mkdir(parents=True)
    archive = tmp_path / "b" / "cifar-10-binary.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
            records, pixels, labels = cifar_records(3)
            parts.append((pixels, labels))
            (folder / name).write_bytes(records)
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(records)
            tar.addfile(member, io.BytesIO(records))
    for place, verify in ((tmp_path / "a", True), (folder, True), (tmp_path / "b", False)):
        train = images.load("cifar10", "train", str(place), verify=verify)
        np.testing.assert_array_equal(train.images, np.concatenate([p for p, _ in parts[:5]]))
        np.testing.assert_array_equal(train.labels, np.concatenate([y for _, y in parts[:5]]))
        test = images.load("cifar10", "test", str(place), verify=verify)
        np.testing.assert_array_equal(test.images, parts[5][0])


def test_sums_are_compared_with_the_published_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "train_32x32.mat"
    svhn_file(path, 4)
    found = hashlib.md5(path.read_bytes()).hexdigest()
    with pytest.raises(
        UserError, match=f"MD5 is {found}, published is e26dedcc434d2e4c54c9b2d4a06d"
    ):
        images.load("svhn", "train", str(tmp_path))
    monkeypatch.setitem(images._MD5, "train_32x32.mat", found)
    assert len(images.load("svhn", "train", str(tmp_path)).labels) == 4


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset 'digit'.*digits"):
        images.load("digit")
    with pytest.raises(UserError, match=r"split='all': accepted are train, test"):
        images.load("glyphs", "all")
    with pytest.raises(UserError, match=r"dataset='svhn': needs folder"):
        images.load("svhn")
    with pytest.raises(UserError, match=r"folder='x': dataset='digits' needs none"):
        images.load("digits", folder="x")
    with pytest.raises(UserError, match=r"limit=9999: digits has 1297 train images"):
        images.load("digits", limit=9999)
    for dataset, file in (("svhn", "train_32x32.mat"), ("cifar10", "data_batch_1.bin")):
        with pytest.raises(UserError, match=rf"{file}'?: no such file"):
            images.load(dataset, "train", str(tmp_path))
    (tmp_path / "train_32x32.mat").write_bytes(b"not MATLAB's" * 50)
    (tmp_path / "test_batch.bin").write_bytes(b"x" * 3072)
    (tmp_path / "cifar").mkdir()
    (tmp_path / "cifar" / "cifar-10-binary.tar.gz").write_bytes(b"not an archive")
    with pytest.raises(UserError, match="not a file of SVHN's cropped digits"):
        images.load("svhn", "train", str(tmp_path), verify=False)
    with pytest.raises(UserError, match="3072 bytes are no CIFAR-10 records"):
        images.load("cifar10", "test", str(tmp_path))
    with pytest.raises(UserError, match="not CIFAR-10's binary version"):
        images.load("cifar10", "test", str(tmp_path / "cifar"), verify=False)
    (tmp_path / "test_batch.bin").write_bytes(b"\x0a" + b"x" * 3072)
    with pytest.raises(UserError, match="labels beyond 9"):
        images.load("cifar10", "test", str(tmp_path), verify=False)


def test_digits_are_enlarged_and_split() -> None:
    train, test = images.load("digits", "train"), images.load("digits", "test")
    assert train.images.shape == (1297, 1, 32, 32)
    assert test.images.shape == (500, 1, 32, 32)
    blocks = train.images.view(-1, 8, 4, 8, 4)
    assert (blocks == blocks[:, :, :1, :, :1]).all()
    assert train.images.max() == 255
    assert images.load("digits", "train").images is train.images  # everyone shares one copy
    seen = {image.numpy().tobytes() for image in train.images}
    assert not any(image.numpy().tobytes() in seen for image in test.images)


def test_glyphs_are_reproducible_and_can_be_told_apart() -> None:
    drawn, labels = glyphs(300, 16, 1, seed=5)
    again, _ = glyphs(300, 16, 1, seed=5)
    other, _ = glyphs(300, 16, 1, seed=6)
    np.testing.assert_array_equal(drawn, again)
    assert (drawn != other).any()
    assert set(labels) == set(range(10))
    train, test = images.load("small-glyphs"), images.load("small-glyphs", "test")
    assert train.images.shape == (4000, 3, 16, 16)
    assert not torch.equal(train.images[:1000], test.images)
    assert ink(drawn[labels == 7]) < ink(drawn[labels == 8])  # all segments of the seven and more


def ink(drawn: np.ndarray) -> float:
    """How much images differ from their background on average."""
    background = np.median(drawn, (2, 3), keepdims=True)
    return float(np.abs(drawn - background).mean())


def test_tables_are_scaled_by_their_training_rows() -> None:
    for name, inputs in (("waves", 8), ("diabetes", 10)):
        train, test = tables.load(name), tables.load(name, "test")
        whole = torch.cat([train.inputs, train.targets], 1)
        assert whole.shape[1] == inputs + 1
        torch.testing.assert_close(whole.mean(0), torch.zeros(inputs + 1), atol=1e-4, rtol=0)
        torch.testing.assert_close(whole.std(0), torch.ones(inputs + 1), atol=5e-3, rtol=0)
        rows = {row.numpy().tobytes() for row in train.inputs}
        assert not any(row.numpy().tobytes() in rows for row in test.inputs)


def test_sarcos_and_california_in_their_own_formats(tmp_path: Path) -> None:
    for name, count in (("sarcos_inv", 40), ("sarcos_inv_test", 10)):
        scipy.io.savemat(tmp_path / f"{name}.mat", {name: RNG.normal(3, 2, (count, 28))})
    train = tables.load("sarcos", "train", str(tmp_path))
    assert (train.inputs.shape, train.targets.shape) == ((40, 21), (40, 7))
    assert len(tables.load("sarcos", "test", str(tmp_path)).inputs) == 10
    np.savetxt(tmp_path / "cal_housing.data", RNG.normal(size=(60, 9)), delimiter=",")
    train = tables.load("california", "train", str(tmp_path))
    assert (train.inputs.shape, train.targets.shape) == ((57, 8), (57, 1))
    with pytest.raises(UserError, match=r"sarcos_inv\.mat'?: no such file"):
        tables.load("sarcos", "train", str(tmp_path / "elsewhere"))
    (tmp_path / "cal_housing.data").write_text("1,2\n3,4\n")
    with pytest.raises(UserError, match="2 columns; California housing has 9"):
        tables.load("california", "test", str(tmp_path))
