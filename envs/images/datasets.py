"""Labelled images, split into training and test images by index.

Nothing is downloaded. `glyphs` are drawn, `digits` come with scikit-learn, SVHN and CIFAR-10 are
read from a folder that the user names, in the formats their authors publish: MATLAB files (Netzer
et al. 2011) and CIFAR's binary version (Krizhevsky 2009), neither of which can carry code.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from semigradient.envs.images.glyphs import glyphs
from semigradient.envs.options import Options
from semigradient.errors import UserError, missing, require, unknown
from semigradient.validate import Natural, among

SPLITS = ("train", "test")

_MD5 = {
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
    "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
}
_CIFAR_FOLDER = "cifar-10-batches-bin"
_CIFAR_RECORD = 1 + 3 * 32 * 32  # a label, then three colour planes


class Images(NamedTuple):
    """Labelled images, read-only by convention: all users share the same memory."""

    images: Tensor  # (N, C, H, W) uint8
    labels: Tensor  # (N,) int64


@lru_cache(maxsize=8)
def load(
    dataset: str, split: str = "train", folder: str = "", limit: int = 0, verify: bool = True
) -> Images:
    """Images of one split; repeated calls return the same memory.

    Args:
        dataset: glyphs, small-glyphs, digits, svhn or cifar10.
        split: train or test; the two share no image.
        folder: where the published files of svhn and cifar10 are.
        limit: number of images, the first ones; 0: all.
        verify: compare the files with their published MD5 sums.

    Raises:
        UserError: unknown names; files absent, damaged or of another format.
    """
    if dataset not in DATASETS:
        unknown("dataset", dataset, DATASETS)
    require(split in SPLITS, f"split={split!r}: accepted are {', '.join(SPLITS)}")
    if dataset in _FROM_FOLDER:
        require(folder != "", f"dataset={dataset!r}: needs folder=… with its published files")
    elif folder:
        raise UserError(f"folder={folder!r}: dataset={dataset!r} needs none")
    data = _load(dataset, split, folder, verify)
    count = len(data.labels)
    require(0 <= limit <= count, f"limit={limit}: {dataset} has {count} {split} images")
    return Images(data.images[: limit or None], data.labels[: limit or None])


@lru_cache(maxsize=2)
def _load(dataset: str, split: str, folder: str, verify: bool) -> Images:
    if dataset in _FROM_FOLDER:
        images, labels = _FROM_FOLDER[dataset](Path(folder).expanduser(), split, verify)
    else:
        images, labels = _BUILT_IN[dataset](split)
    return Images(
        torch.from_numpy(np.ascontiguousarray(images)),
        torch.from_numpy(np.ascontiguousarray(labels, dtype=np.int64)),
    )


Arrays = tuple[np.ndarray, np.ndarray]


def _glyphs(split: str, size: int = 32) -> Arrays:
    return glyphs(4000, size, seed=0) if split == "train" else glyphs(1000, size, seed=1)


def _digits(split: str) -> Arrays:
    """scikit-learn's 1797 digits of 8×8, each pixel four by four; the last 500 are for testing.

    They are in the order of their writers, so most writers of one split are not in the other.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        missing("dataset='digits'", "scikit-learn", "data")
    bunch = load_digits()
    part = slice(0, -500) if split == "train" else slice(-500, None)
    grey = np.round(bunch.images[part] * (255 / 16)).astype(np.uint8)
    return grey.repeat(4, axis=1).repeat(4, axis=2)[:, None], bunch.target[part]


def _svhn(folder: Path, split: str, verify: bool) -> Arrays:
    """Cropped SVHN: `X` (32, 32, 3, N) bytes, `y` (N, 1) with 10 for the digit 0."""
    try:
        from scipy.io import loadmat
    except ModuleNotFoundError:
        missing("dataset='svhn'", "scipy", "data")
    path = _checked(folder / f"{split}_32x32.mat", verify)
    try:
        content = loadmat(path, variable_names=("X", "y"))
        pixels, labels = content["X"], content["y"].astype(np.int64).ravel()
    except (ValueError, KeyError, TypeError, NotImplementedError, OSError) as problem:
        raise UserError(f"{path}: not a file of SVHN's cropped digits: {problem}") from None
    fits = pixels.dtype == np.uint8 and pixels.shape[:3] == (32, 32, 3)
    fits = fits and pixels.shape[3:] == labels.shape
    require(fits and bool((labels <= 10).all()), f"{path}: not a file of SVHN's cropped digits")
    return pixels.transpose(3, 2, 0, 1), labels % 10


def _cifar10(folder: Path, split: str, verify: bool) -> Arrays:
    """CIFAR-10's binary version, from its archive or from the folder inside it."""
    train = [f"data_batch_{i}.bin" for i in range(1, 6)]
    names = train if split == "train" else ["test_batch.bin"]
    archive = folder / "cifar-10-binary.tar.gz"
    if archive.exists():
        parts = _members(_checked(archive, verify), names)
    else:
        inner = folder / _CIFAR_FOLDER
        place = inner if inner.is_dir() else folder
        parts = [_checked(place / name, verify).read_bytes() for name in names]
    for name, part in zip(names, parts, strict=True):
        is_valid = len(part) > 0 and len(part) % _CIFAR_RECORD == 0
        require(is_valid, f"{name} in {str(folder)!r}: {len(part)} bytes are no CIFAR-10 records")
    records = np.frombuffer(b"".join(parts), np.uint8).reshape(-1, _CIFAR_RECORD)
    labels = records[:, 0]
    require(bool((labels < 10).all()), f"{str(folder)!r}: labels beyond 9 are not CIFAR-10's")
    return records[:, 1:].reshape(-1, 3, 32, 32), labels


def _members(archive: Path, names: list[str]) -> list[bytes]:
    """Contents of named files of the archive; nothing is extracted to disk."""
    try:
        with tarfile.open(archive) as tar:
            files = [tar.extractfile(f"{_CIFAR_FOLDER}/{name}") for name in names]
            return [b"" if file is None else file.read() for file in files]
    except (KeyError, tarfile.TarError, OSError, EOFError) as problem:
        raise UserError(f"{archive}: not CIFAR-10's binary version: {problem}") from None


def _checked(path: Path, verify: bool) -> Path:
    """The path of a file that is there and, where its sum is published, unchanged."""
    require(path.is_file(), f"{str(path)!r}: no such file; it must be downloaded by hand")
    if verify and path.name in _MD5:
        digest = hashlib.md5(usedforsecurity=False)
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        require(
            digest.hexdigest() == _MD5[path.name],
            f"{str(path)!r}: MD5 is {digest.hexdigest()}, published is {_MD5[path.name]} "
            "(verify=false reads it all the same)",
        )
    return path


_BUILT_IN: dict[str, Callable[[str], Arrays]] = {
    "glyphs": _glyphs,
    "small-glyphs": lambda split: _glyphs(split, 16),
    "digits": _digits,
}
_FROM_FOLDER: dict[str, Callable[[Path, str, bool], Arrays]] = {"svhn": _svhn, "cifar10": _cifar10}
DATASETS = (*_BUILT_IN, *_FROM_FOLDER)


@dataclass(frozen=True)
class ImageOptions(Options):
    """Which labelled images an environment shows."""

    NEEDS: ClassVar = {
        "folder": ("dataset", tuple(_FROM_FOLDER)),
        "verify": ("dataset", tuple(_FROM_FOLDER)),
    }

    dataset: Annotated[str, among(DATASETS)] = "glyphs"
    """Images: drawn (glyphs of 32×32, small-glyphs of 16×16), scikit-learn's digits, or read from
    a folder (svhn, cifar10)."""
    split: Literal["train", "test"] = "train"
    """Part of the data; the two share no image."""
    folder: str = ""
    """Folder with the published files of svhn or cifar10."""
    limit: Natural = 0
    """Number of images, the first of the split; 0: all."""
    verify: bool = True
    """Compare files with their published MD5 sums."""

    def images(self) -> Images:
        """The images and their labels."""
        return load(self.dataset, self.split, self.folder, self.limit, self.verify)
