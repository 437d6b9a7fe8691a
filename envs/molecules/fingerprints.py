"""RDKit, fingerprints of molecules, and Tanimoto's similarity of them.

The published figures seem to use RDKit's own path fingerprint: only it gives random molecules the
similarity they report. Morgan's, with radius 2, is reported as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from semigradient.errors import missing

SIMILAR = 0.7
"""Similarity from which on two molecules are of one mode."""


def chemistry() -> Any:
    """`rdkit.Chem`; `UserError` where it is not installed."""
    try:
        from rdkit import Chem
    except ImportError:
        missing("molecules", "RDKit", "molecules")
    return Chem


def paths(smiles: str) -> Any:
    """RDKit's path fingerprint, 2048 bits."""
    return _path_generator().GetFingerprint(chemistry().MolFromSmiles(smiles))


def morgan(smiles: str) -> Any:
    """Morgan's fingerprint with radius 2, 2048 bits."""
    return _morgan_generator().GetFingerprint(chemistry().MolFromSmiles(smiles))


def tanimoto(one: Any, others: list[Any]) -> list[float]:
    """Similarities of a fingerprint to others."""
    from rdkit.DataStructs import BulkTanimotoSimilarity

    return BulkTanimotoSimilarity(one, others)


def similarity(smiles: Sequence[str], fingerprint: Callable[[str], Any] = paths) -> float:
    """Mean Tanimoto similarity over all pairs."""
    prints = [fingerprint(name) for name in smiles]
    total = sum(sum(tanimoto(own, prints[:index])) for index, own in enumerate(prints) if index)
    return total / (len(prints) * (len(prints) - 1) / 2)


def distance(smiles: Sequence[str]) -> Tensor:
    """1 - Tanimoto similarity of path fingerprints, all pairs: (m, m) float64."""
    prints = [paths(name) for name in smiles]
    rows = [tanimoto(own, prints) for own in prints]
    return 1 - torch.tensor(rows, dtype=torch.float64).view(len(prints), len(prints))


@cache
def _path_generator() -> Any:
    from rdkit.Chem.rdFingerprintGenerator import GetRDKitFPGenerator

    return GetRDKitFPGenerator(fpSize=2048)


@cache
def _morgan_generator() -> Any:
    from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator

    return GetMorganGenerator(radius=2, fpSize=2048)
