"""Corrected momentum with the whole matrix, written to be read: the oracle of the tests.

One sample after another, derivatives by autograd, vectors and matrices over all parameters
flattened. `optim/corrected_momentum.py` computes the same for any form of zeta, in one pass over
the minibatch.

Source: E. Bengio, PhD thesis, ch. 4, eq. 4.12-4.19.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from semigradient.optim.temporal_difference import Samples, TemporalDifference


class ReferenceCorrectedMomentum:
    """theta <- theta - lr (mu - eta): momentum mu minus its staleness eta.

    Args:
        module: the network; all of its parameters are learned.
        lr: learning rate.
        beta: share of the averages that is kept at each step.
    """

    def __init__(self, module: nn.Module, lr: float, beta: float = 0.9) -> None:
        self.module, self.lr, self.beta = module, lr, beta
        theta = self.theta()
        n = len(theta)
        self.mu, self.eta, self.zeta = theta.new_zeros(n), theta.new_zeros(n), theta.new_zeros(n, n)
        self.previous = theta

    def theta(self) -> Tensor:
        """Return the present parameters, (n,)."""
        return nn.utils.parameters_to_vector(self.module.parameters()).detach().clone()

    def step(self, batch: TemporalDifference) -> None:
        """Learn from a minibatch whose bootstraps, if any, are samples (m, ...)."""
        batch.require_target("ReferenceCorrectedMomentum")
        gradient, matrix = self.gradient_and_matrix(batch)
        theta, beta = self.theta(), self.beta
        # Every old gradient moves along with the parameters, to first order.
        self.eta = beta * (self.eta - self.zeta.T @ (theta - self.previous))
        self.zeta = beta * self.zeta + (1 - beta) * matrix
        self.mu = beta * self.mu + (1 - beta) * gradient
        self.previous = theta
        new = theta - self.lr * (self.mu - self.eta)
        nn.utils.vector_to_parameters(new, self.module.parameters())

    def gradient_and_matrix(self, batch: TemporalDifference) -> tuple[Tensor, Tensor]:
        """Return the semi-gradient g (n,) and Z (n, n), Z[i, j] = d g_j / d theta_i."""
        gradient, matrix = torch.zeros_like(self.mu), torch.zeros_like(self.zeta)
        for i in range(batch.size):
            prediction, b = self._differentiate(batch, batch.samples, i)
            error, a = prediction, b
            if batch.target is not None:
                error = error - batch.target[i]
            if batch.bootstrap is not None and batch.discount is not None:
                assert not callable(batch.bootstrap)
                bootstrap, row = self._differentiate(batch, batch.bootstrap, i)
                error = error - batch.discount[i] * bootstrap
                a = b - batch.discount[i] * row
            weight = 1 if batch.weight is None else batch.weight[i]
            curvature = 1 if batch.loss.curvature is None else batch.loss.curvature(error)
            gradient += weight * batch.loss.slope(error) * b / batch.size
            matrix += weight * curvature * torch.outer(a, b) / batch.size
        return gradient, matrix

    def _differentiate(
        self, batch: TemporalDifference, samples: Samples, i: int
    ) -> tuple[Tensor, Tensor]:
        """Return the value of one sample, and its derivative by the parameters, (n,)."""
        sample = {name: tensor[i] for name, tensor in samples.items()}
        value = batch.prediction(lambda x: self.module(x[None])[0], sample)
        rows = torch.autograd.grad(value, list(self.module.parameters()))
        return value.detach(), torch.cat([row.flatten() for row in rows])
