"""A Gaussian process with the Matérn kernel of smoothness ½, by scikit-learn (the extra `data`)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

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
