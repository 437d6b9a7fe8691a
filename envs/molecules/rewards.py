"""Scores of molecules from 0 to 10 that need only RDKit.

`qed` is the quantitative estimate of drug-likeness (Bickerton et al. 2012), `sa` the synthetic
accessibility of Ertl and Schuffenhauer 2009 inverted, `qed_sa` the geometric mean of both,
`plogp` the octanol-water partition coefficient less what rings and synthesis cost, `mw_window` one
up to 300 dalton that falls to nothing at 1000.

`dock_like` is synthetic and *no binding affinity*: a hump over the number of heavy atoms, shaped
like the mean of a docking proxy on random molecules, and a random weight for every structural
feature. It serves experiments that need a landscape like that of docking without a target.

Scores are computed in batches, by canonical SMILES, and cached; several processes, of this machine
or of a Ray cluster, can share a batch. Any function from a list of SMILES to scores can replace
them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from semigradient.envs.molecules.fingerprints import chemistry
from semigradient.errors import UserError, require, unknown
from semigradient.registry import POOLS, REWARDS
from semigradient.validate import first_line

Scores = NDArray[np.float64]
Batch = Callable[[list[str]], Any]
"""From canonical SMILES to one score each."""

_HUMP = (
    (0, 5, 7.5, 12, 17, 22, 32, 50, 60, 70, 90),
    (0, 0, 0.5, 1.8, 3.1, 3.8, 3.5, 2.25, 1.0, 0.3, 0),
)
_BITS, _ROUGHNESS = 2048, 1.1


def qed(mol: Any) -> float:
    """Drug-likeness, ×10."""
    from rdkit.Chem.QED import qed as score

    return 10 * float(score(mol))


def sa(mol: Any) -> float:
    """Ease of synthesis: 10 for a score of 1 (easy), 0 for one of 10."""
    return 10 * (10 - _accessibility(mol)) / 9


def qed_sa(mol: Any) -> float:
    """Geometric mean of `qed` and `sa`."""
    return math.sqrt(qed(mol) * max(0.0, sa(mol)))


def plogp(mol: Any) -> float:
    """5 + logP - SA - atoms beyond six of the largest ring, cut to [0, 10]."""
    from rdkit.Chem.rdMolDescriptors import CalcCrippenDescriptors

    rings = mol.GetRingInfo().AtomRings()
    excess = max(0, max(map(len, rings), default=0) - 6)
    return min(
        10.0, max(0.0, 5 + float(CalcCrippenDescriptors(mol)[0]) - _accessibility(mol) - excess)
    )


def mw_window(mol: Any) -> float:
    """10 up to 300 dalton, falling to 0 at 1000."""
    from rdkit.Chem.Descriptors import MolWt  # type: ignore[attr-defined]

    return 10 * min(1.0, max(0.0, (300 - float(MolWt(mol))) / 700 + 1))


def dock_like(mol: Any, seed: int = 0) -> float:
    """Synthetic, in [0, 10]: a hump in size plus weights of Morgan features drawn with `seed`."""
    from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator

    size = float(np.interp(mol.GetNumHeavyAtoms(), *_HUMP))
    on = list(GetMorganGenerator(radius=2, fpSize=_BITS).GetFingerprint(mol).GetOnBits())
    rough = _ROUGHNESS * float(_weights(seed)[on].sum()) / math.sqrt(max(1, len(on)))
    # Features add nothing to molecules too small or too large for the pocket.
    return min(10.0, max(0.0, size + rough * min(1.0, size / 2)))


SCORES: dict[str, Callable[..., float]] = {
    "qed": qed,
    "sa": sa,
    "qed_sa": qed_sa,
    "plogp": plogp,
    "mw_window": mw_window,
    "dock_like": dock_like,
}
"""Scores of one molecule."""


class Pool(Protocol):
    """Processes that share work; a `concurrent.futures.Executor` is one."""

    def map(self, function: Batch, parts: Sequence[list[str]], /) -> Iterable[Any]:
        """What `function` makes of each part, in order."""

    def shutdown(self, *, cancel_futures: bool) -> None:
        """End the processes."""


class Scorer:
    """Scores of molecules by canonical SMILES; each is computed once.

    Args:
        reward: a name in `SCORES` or `registry.REWARDS`, "module:function" like
            those, or a function from a list of SMILES to scores.
        seed: of rewards with a random part.
        file: what makers get, such as trained parameters.
        workers: processes that compute; 0: this one. They serve rewards by name only, and each
            makes its own.
        engine: a name in `registry.POOLS`, where the workers are: on this machine, or Ray's.
        ray_address: the cluster; none: Ray starts one here.

    Attributes:
        calls: how many molecules were scored, each once.
    """

    def __init__(
        self,
        reward: str | Batch = "qed",
        seed: int = 0,
        file: str = "",
        workers: int = 0,
        engine: str = "local",
        ray_address: str = "",
    ) -> None:
        require(workers >= 0, f"workers={workers}: must be ≥ 0")
        if engine not in POOLS:
            unknown("engine", engine, POOLS.names())
        require(workers > 0 or engine == "local", f"engine={engine!r}: needs workers ≥ 1")
        require(not ray_address or engine == "ray", f"ray_address={ray_address!r}: is for ray")
        self.reward, self.workers, self.calls = reward, workers, 0
        self._scores: dict[str, float] = {}
        self._pool: Pool | None = None
        self._batch: Batch
        if callable(reward):
            require(not workers, f"workers={workers}: not for a function, only rewards by name")
            self._batch = reward
        elif reward in SCORES:
            require(not file, f"reward_file={file!r}: reward={reward!r} needs none")
            chemistry()
            self._batch = partial(score_all, reward, seed)
        else:
            made = _made(reward, file)
            self._batch = partial(score_made, reward, file, _changed(file)) if workers else made
        self._open = partial(POOLS.load(engine), workers, ray_address)
        if engine != "local":
            self._pool = self._open()  # a missing cluster fails before training

    def __call__(self, smiles: Sequence[str]) -> Scores:
        """Scores (m,); `UserError` where one is not a finite number."""
        missing = list(dict.fromkeys(name for name in smiles if name not in self._scores))
        if missing:
            scores = np.asarray(self._computed(missing), dtype=np.float64).reshape(-1)
            require(
                len(scores) == len(missing),
                f"reward {self.reward!r}: gave {len(scores)} scores for {len(missing)} molecules",
            )
            for text, value in zip(missing, scores.tolist(), strict=True):
                require(math.isfinite(value), f"reward {self.reward!r}: {value} for {text}")
            self._scores.update(zip(missing, scores.tolist(), strict=True))
            self.calls += len(missing)
        return np.array([self._scores[name] for name in smiles])

    @property
    def scored(self) -> Mapping[str, float]:
        """Scores of all molecules so far, by SMILES, in the order of the first request."""
        return self._scores

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _computed(self, smiles: list[str]) -> Any:
        if not self.workers or len(smiles) < 2:
            return self._batch(smiles)
        if self._pool is None:
            self._pool = self._open()
        share = math.ceil(len(smiles) / self.workers)
        parts = [smiles[start : start + share] for start in range(0, len(smiles), share)]
        return np.concatenate(list(self._pool.map(self._batch, parts)))


def score_all(reward: str, seed: int, smiles: list[str]) -> Scores:
    """Scores (m,) of a key of `SCORES`."""
    chem, score = chemistry(), SCORES[reward]
    extra = {"seed": seed} if reward == "dock_like" else {}
    return np.array([score(chem.MolFromSmiles(name), **extra) for name in smiles])


def score_made(reward: str, file: str, changed: int, smiles: list[str]) -> Any:
    """Scores (m,) by a maker's function; each process makes it once per version of the file."""
    return _kept(reward, file, changed)(smiles)


@cache
def _kept(reward: str, file: str, _stamp: int) -> Batch:
    return _made(reward, file)


def _changed(file: str) -> int:
    """Modification time of a file; 0 for none."""
    return os.stat(file).st_mtime_ns if file and os.path.exists(file) else 0


def _made(reward: str, file: str) -> Batch:
    """The function that a maker makes."""
    if reward not in REWARDS and ":" not in reward:
        unknown("reward", reward, [*SCORES, *REWARDS.names()])
    maker = REWARDS.load(reward)
    try:
        made: Batch = maker(file) if file else maker()
    except UserError:
        raise
    except Exception as problem:
        raise UserError(f"reward {reward!r}: {first_line(problem)}") from problem
    require(callable(made), f"reward {reward!r}: must make a function of SMILES")
    return made


def processes(workers: int, _address: str) -> Pool:
    """Processes of this machine, each with one thread."""
    return ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,))


@cache
def _weights(seed: int) -> Scores:
    return np.random.default_rng(seed).standard_normal(_BITS)


def _accessibility(mol: Any) -> float:
    """Synthetic accessibility from 1 (easy) to 10."""
    return float(_sascorer().calculateScore(mol))


@cache
def _sascorer() -> Any:
    """The scorer among RDKit's contributions."""
    import importlib.util
    from pathlib import Path

    from rdkit.Chem import RDConfig

    path = Path(RDConfig.RDContribDir) / "SA_Score" / "sascorer.py"
    spec = importlib.util.spec_from_file_location("rdkit_sascorer", path)
    if spec is None or spec.loader is None or not path.exists():
        raise UserError(f"reward sa: this RDKit has no {path}; the one from PyPI does")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
