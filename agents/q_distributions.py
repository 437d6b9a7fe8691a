"""Distributions of returns in the place of action values: categorical and by quantiles.

A network gives N numbers per action. `Categorical51` reads them as the logits of N fixed returns
z_i between `v_min` and `v_max` (M. Bellemare, W. Dabney and R. Munos 2017, "A distributional
perspective on reinforcement learning"), `Quantiles` as N returns of probability 1/N each (W. Dabney
et al. 2018, "Distributional reinforcement learning with quantile regression"). Actions are valued
by the mean.
"""

from __future__ import annotations

from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from semigradient.errors import require, unknown

Kind = Literal["none", "c51", "quantile"]


class Distribution(Protocol):
    """A reading of N numbers per action, with the loss of its kind.

    Attributes:
        atoms: N.
    """

    atoms: int

    def means(self, outputs: Tensor) -> Tensor:
        """Action values (m, A) of outputs (m, A·N)."""
        ...

    def losses(self, chosen: Tensor, reward: Tensor, discount: Tensor, following: Tensor) -> Tensor:
        """Losses (m,) of transitions.

        Args:
            chosen: (m, N) outputs of Q(s, a).
            reward, discount: (m,), the latter γⁿ (1 - terminated).
            following: (m, N) outputs of Q̄(s', a*), constants.
        """
        ...


class Categorical51:
    """N returns z_i with learned probabilities; the published N is 51."""

    def __init__(self, atoms: int, low: float, high: float, device: torch.device) -> None:
        self.atoms, self.low, self.high = atoms, low, high
        self.step = (high - low) / (atoms - 1)
        self.support = torch.linspace(low, high, atoms, device=device)

    def means(self, outputs: Tensor) -> Tensor:
        """Action values (m, A) of logits (m, A·N)."""
        return outputs.unflatten(1, (-1, self.atoms)).softmax(2) @ self.support

    def losses(self, chosen: Tensor, reward: Tensor, discount: Tensor, following: Tensor) -> Tensor:
        """Cross-entropy (m,) with the projected target distribution (algorithm 1)."""
        moved = reward[:, None] + discount[:, None] * self.support
        target = self.project(moved, following.softmax(1))
        return -(target * chosen.log_softmax(1)).sum(1)

    def project(self, returns: Tensor, probabilities: Tensor) -> Tensor:
        """Probabilities (m, N) of the z_i, eq. 7, of returns (m, K) and theirs (m, K).

        Each return, clipped to the range, gives its mass to its two neighbours, to each in
        proportion to its nearness.
        """
        clipped = returns.clamp(self.low, self.high)
        distance = (clipped[:, None, :] - self.support[:, None]).abs() / self.step
        return ((1 - distance).clamp(min=0) * probabilities[:, None, :]).sum(2)


class Quantiles:
    """N equally probable returns θ_i, the quantiles at (2i - 1) / 2N; the published N is 200."""

    def __init__(self, atoms: int, device: torch.device) -> None:
        self.atoms = atoms
        self.levels = (torch.arange(atoms, device=device) + 0.5) / atoms

    def means(self, outputs: Tensor) -> Tensor:
        """Action values (m, A) of quantiles (m, A·N)."""
        return outputs.unflatten(1, (-1, self.atoms)).mean(2)

    def losses(self, chosen: Tensor, reward: Tensor, discount: Tensor, following: Tensor) -> Tensor:
        """Quantile Huber loss (m,) with κ = 1, eq. 10: summed over θ_i, mean over targets."""
        target = reward[:, None] + discount[:, None] * following
        error = target[:, None, :] - chosen[:, :, None]  # (m, i of θ, j of targets)
        size = error.abs()
        huber = torch.where(size <= 1, 0.5 * error.square(), size - 0.5)
        weight = (self.levels[:, None] - (error.detach() < 0).to(error.dtype)).abs()
        return (weight * huber).mean(2).sum(1)


class DistributionConfig(Protocol):
    """Fields of a config that choose a distribution; see `agents.dqn_config.Config`."""

    @property
    def distribution(self) -> Kind:
        """Its kind."""
        ...

    @property
    def atoms(self) -> int:
        """N."""
        ...

    @property
    def v_min(self) -> float:
        """Smallest return of the categorical kind."""
        ...

    @property
    def v_max(self) -> float:
        """Largest return of the categorical kind."""
        ...


def distribution(config: DistributionConfig, device: torch.device) -> Distribution | None:
    """The distribution that a config asks for; None where values alone are learned."""
    if config.distribution == "none":
        return None
    if config.distribution == "c51":
        return Categorical51(config.atoms, config.v_min, config.v_max, device)
    return Quantiles(config.atoms, device)


def check(config: DistributionConfig) -> None:
    """`UserError` for options that no distribution has."""
    low, high = config.v_min, config.v_max
    if config.distribution not in get_args(Kind):
        unknown("distribution", config.distribution, get_args(Kind))
    require(config.atoms >= 2, f"atoms={config.atoms}: must be ≥ 2")
    require(low < high, f"v_min={low}, v_max={high}: v_min must be below v_max")


def rows_of(outputs: Tensor, action: Tensor, atoms: int) -> Tensor:
    """Outputs (m, N) of actions (m,), of outputs (m, A·N) of all."""
    rows = outputs.unflatten(1, (-1, atoms))
    return rows[torch.arange(len(action), device=action.device), action]
