"""Regression tables, split by row and scaled; nothing is downloaded.

`waves` is generated, `diabetes` comes with scikit-learn; the inverse dynamics of the SARCOS arm
(Vijayakumar & Schaal 2000) and California housing (Pace & Barry 1997) are read from a folder that
the user names.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from semigradient.envs.images.datasets import SPLITS
from semigradient.envs.options import Options
from semigradient.errors import UserError, missing, require, unknown
from semigradient.validate import Natural, among

TABLES = ("waves", "diabetes", "sarcos", "california")
_TORQUES = 7


class Table(NamedTuple):
    """Columns scaled by the training rows' mean and standard deviation."""

    inputs: Tensor  # (N, I) float32
    targets: Tensor  # (N, O) float32


@dataclass(frozen=True)
class TableOptions(Options):
    """Options of a regression table."""

    NEEDS: ClassVar = {"folder": ("dataset", ("sarcos", "california"))}

    dataset: Annotated[str, among(TABLES)] = "waves"
    """Table: drawn (waves), scikit-learn's (diabetes), or read from a folder (sarcos,
    california)."""
    split: Literal["train", "test"] = "train"
    """Part of the data; the two share no row."""
    folder: str = ""
    """Folder with sarcos_inv.mat and sarcos_inv_test.mat, or with cal_housing.data."""
    limit: Natural = 0
    """Number of rows, the first of the split; 0: all."""


@lru_cache(maxsize=8)
def load(dataset: str, split: str = "train", folder: str = "", limit: int = 0) -> Table:
    """Rows of one split.

    Args:
        dataset: waves, diabetes, sarcos or california.
        split: train or test; the two share no row.
        folder: where sarcos_inv.mat and sarcos_inv_test.mat, or cal_housing.data, are.
        limit: number of rows, the first ones; 0: all.

    Raises:
        UserError: unknown names; files absent or of another format.
    """
    if dataset not in TABLES:
        unknown("dataset", dataset, TABLES)
    require(split in SPLITS, f"split={split!r}: accepted are {', '.join(SPLITS)}")
    if dataset in ("sarcos", "california"):
        require(folder != "", f"dataset={dataset!r}: needs folder=… with its published files")
    elif folder:
        raise UserError(f"folder={folder!r}: dataset={dataset!r} needs none")
    train, test, outputs = _read(dataset, folder)
    mean, scale = train.mean(0), train.std(0)
    chosen = train if split == "train" else test
    require(0 <= limit <= len(chosen), f"limit={limit}: {dataset} has {len(chosen)} {split} rows")
    rows = (chosen[: limit or None] - mean) / np.where(scale > 0, scale, 1)
    table = torch.from_numpy(rows.astype(np.float32))
    return Table(table[:, :-outputs].contiguous(), table[:, -outputs:].contiguous())


def _read(dataset: str, folder: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Training rows, test rows and the number of target columns, which come last."""
    if dataset == "waves":
        return (*_waves(), 1)
    if dataset == "diabetes":
        return (*_cut(_diabetes()), 1)
    place = Path(folder).expanduser()
    if dataset == "california":
        return (*_cut(_california(place / "cal_housing.data")), 1)
    train, test = (
        _sarcos(place / f"{name}.mat", name) for name in ("sarcos_inv", "sarcos_inv_test")
    )
    return train, test, _TORQUES


def _cut(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A twentieth of the rows, in random but fixed order, is for testing (at least one)."""
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    count = max(1, len(rows) // 20)
    return rows[count:], rows[:count]


def _waves() -> tuple[np.ndarray, np.ndarray]:
    """Sums of sines of eight inputs, with noise: 5000 rows to train and 1000 to test."""
    rng = np.random.default_rng(0)
    inputs = rng.uniform(-1, 1, (6000, 8))
    waves = np.sin(3 * inputs @ rng.normal(size=(8, 4)) + rng.uniform(0, 2 * np.pi, 4))
    target = waves @ rng.normal(size=(4, 1)) + rng.normal(0, 0.1, (6000, 1))
    rows = np.concatenate([inputs, target], 1)
    return rows[:5000], rows[5000:]


def _diabetes() -> np.ndarray:
    try:
        from sklearn.datasets import load_diabetes
    except ModuleNotFoundError:
        missing("dataset='diabetes'", "scikit-learn", "data")
    bunch = load_diabetes(scaled=False)
    return np.concatenate([bunch.data, bunch.target[:, None]], 1)


def _california(path: Path) -> np.ndarray:
    """StatLib's file: eight features of a block of houses, then their median value."""
    require(path.is_file(), f"{str(path)!r}: no such file; it must be downloaded by hand")
    try:
        rows = np.loadtxt(path, delimiter=",", ndmin=2)
    except (ValueError, UnicodeDecodeError) as problem:
        raise UserError(f"{path}: not California housing: {problem}") from None
    require(rows.shape[1] == 9, f"{path}: {rows.shape[1]} columns; California housing has 9")
    return rows


def _sarcos(path: Path, name: str) -> np.ndarray:
    """21 positions, velocities and accelerations, then 7 torques."""
    require(path.is_file(), f"{str(path)!r}: no such file; it must be downloaded by hand")
    try:
        from scipy.io import loadmat
    except ModuleNotFoundError:
        missing("dataset='sarcos'", "scipy", "data")
    try:
        rows = loadmat(path, variable_names=(name,))[name]
    except (ValueError, KeyError, TypeError, NotImplementedError, OSError) as problem:
        raise UserError(f"{path}: not a file of SARCOS: {problem}") from None
    is_valid = rows.ndim == 2 and rows.shape[1] == 21 + _TORQUES
    require(is_valid, f"{path}: shape {rows.shape}; SARCOS has 28 columns")
    return rows.astype(np.float64)
