"""Gaussian processes: with the Matérn kernel of smoothness ½, and on molecules.

The first is scikit-learn's (the extra `data`); the second has the Tanimoto kernel of Morgan
fingerprints (Ralaivola et al. 2005) and a term in the number of heavy atoms, and is written here.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semigradient.envs.molecules.fingerprints import chemistry, morgan, tanimoto
from semigradient.errors import missing

Array = NDArray[np.float64]


class GaussianProcess:
    """Regression on points (m, D): σ² exp(-|x - x'| / l), and observation noise.

    σ, l and the noise maximise the likelihood at the first fit, and at later ones with `adapt`.
    """

    def __init__(self) -> None:
        try:
            from sklearn.gaussian_process import GaussianProcessRegressor, kernels
        except ImportError:
            missing("Gaussian process", "scikit-learn", "data")
        self._make: Any = GaussianProcessRegressor
        scale, length = kernels.ConstantKernel(1.0), kernels.Matern(1.0, (1e-2, 1e2), nu=0.5)
        self._kernel: Any = scale * length + kernels.WhiteKernel(1e-3, (1e-8, 1e0))
        self._adapted = False

    def fit(self, points: Array, values: Array, adapt: bool = True) -> GaussianProcess:
        """Condition on values (m,) at points (m, D)."""
        search = "fmin_l_bfgs_b" if adapt or not self._adapted else None
        process = self._make(kernel=self._kernel, optimizer=search, normalize_y=True)
        import warnings

        with warnings.catch_warnings():
            # Parameters at the border of their range are accepted.
            warnings.simplefilter("ignore")
            self._process = process.fit(points, values)
        self._kernel, self._adapted = self._process.kernel_, True
        return self

    def predict(self, points: Array) -> tuple[Array, Array]:
        """Mean and standard deviation (m,) of the function, without observation noise."""
        mean, std = self._process.predict(points, return_std=True)
        noise = self._kernel.k2.noise_level * self._process._y_train_std**2
        return mean, np.sqrt(np.clip(std**2 - noise, 0, None))


class MoleculeProcess:
    """Regression on SMILES: a T(x, x') + b exp(-(s - s')² / 2 l²) + noise, of values scaled to 1.

    T is Tanimoto's similarity of Morgan fingerprints, s the number of heavy atoms. a, b, l and the
    noise maximise the likelihood on a grid of values.
    """

    LENGTHS = (2.0, 5.0, 10.0)
    SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
    NOISES = (0.01, 0.03, 0.1, 0.3)

    def fit(self, smiles: Sequence[str], values: Array) -> MoleculeProcess:
        """Condition on the values (m,) of molecules."""
        self._prints, self._sizes = _described(smiles)
        self._mean, self._scale = float(values.mean()), float(values.std()) or 1.0
        y, alike = (values - self._mean) / self._scale, self._similar(self._prints)
        best = -np.inf
        for length, share, noise in itertools.product(self.LENGTHS, self.SHARES, self.NOISES):
            kernel = self._kernel(alike, self._sizes, share, length)
            lower = np.linalg.cholesky(kernel + noise * np.eye(len(y)))
            half = np.linalg.solve(lower, y)
            likelihood = -0.5 * half @ half - np.log(np.diag(lower)).sum()
            if likelihood > best:
                best, self._chosen = likelihood, (share, length)
                self._weights = np.linalg.solve(lower.T, half)
        return self

    def predict(self, smiles: Sequence[str]) -> Array:
        """Mean (m,) of the scores of molecules."""
        prints, sizes = _described(smiles)
        kernel = self._kernel(self._similar(prints), sizes, *self._chosen)
        return self._mean + self._scale * kernel @ self._weights

    def _similar(self, prints: list[Any]) -> Array:
        """Tanimoto's similarity to the molecules that were fitted to: (m, n)."""
        return np.array([tanimoto(each, self._prints) for each in prints])

    def _kernel(self, alike: Array, sizes: Array, share: float, length: float) -> Array:
        gap = (sizes[:, None] - self._sizes) / length
        return share * alike + (1 - share) * np.exp(-0.5 * gap**2)


def _described(smiles: Sequence[str]) -> tuple[list[Any], Array]:
    """Fingerprints and numbers of heavy atoms (m,)."""
    chem = chemistry()
    sizes = [chem.MolFromSmiles(name).GetNumHeavyAtoms() for name in smiles]
    return [morgan(name) for name in smiles], np.array(sizes, dtype=float)
