"""REINFORCE with perturbed hidden states, which needs no derivative of the loss.

    h_t = F(x_t, h̄_{t−1}),    h̄_t = h_t + σ Q u_t,    w̄ ← w̄ + (1/σ) (Q^−ᵀ u_t)ᵀ ∂h_t/∂θ

estimates the gradient of the expected loss by (L_t(h̄_t) − b) w̄. As σ → 0 it is UORO's estimate
without rescaling, plus (L_t at u = 0) w̄ of mean zero and variance 1/σ², which the baseline b takes
away: the loss of a twin that runs without noise on the same inputs.

Source: T. Cooijmans, PhD thesis 2023, chapter 4, section 4.9 (the text has the noise's covariance
as QᵀQ; it is QQᵀ).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from semigradient.errors import UserError, require
from semigradient.gradients.recurrent.noise import draws
from semigradient.gradients.recurrent.unrolled import Network, Unrolled

BASELINES = ("none", "twin", "mean")


class Perturbed:
    """Its `gradient` takes losses where others take their derivatives.

    Parameters that only make outputs of a state get no gradient: nothing is perturbed behind them.

    Args:
        module: it has `output(s)`.
        examples: B.
        generator: draws u; its state is the caller's to keep.
        sigma: σ, of the noise on states.
        baseline: none, twin (the loss without noise, handed to `gradient`) or mean (of losses seen
            by a row so far, averaged with `decay`).
        shape: Q (width, width); none is I.
        decay: of the mean.
    """

    def __init__(
        self,
        module: nn.Module,
        examples: int,
        generator: torch.Generator | None = None,
        sigma: float = 0.1,
        baseline: str = "twin",
        shape: Tensor | None = None,
        decay: float = 0.99,
    ) -> None:
        require(sigma > 0, f"sigma={sigma}: the noise's standard deviation must be > 0")
        require(baseline in BASELINES, f"baseline={baseline!r}: must be none, twin or mean")
        require(0 <= decay < 1, f"decay={decay}: must be in [0, 1)")
        require(
            hasattr(module, "output"),
            f"reinforce: {type(module).__name__} has no output(s), its outputs as a function of "
            "the state alone, which is perturbed",
        )
        self.network = Network(module)
        self.sigma, self.baseline, self.decay = sigma, baseline, decay
        zeros = self.network.start(examples)
        self.shape = torch.eye(self.network.width).to(zeros) if shape is None else shape.to(zeros)
        self.inverse = torch.linalg.inv(self.shape)
        self.state, self.twin = zeros, zeros
        self.score = zeros.new_zeros(examples, self.network.parameters)
        self.mean, self.seen = zeros.new_zeros(examples), zeros.new_zeros(examples)
        normal, size = draws("normal", generator, zeros), tuple(zeros.shape)
        self.draw = lambda: normal(size)

    def reset(self, mask: Tensor) -> None:
        """Rows start anew; the mean of losses stays."""
        rows = mask[:, None]
        self.state, self.twin, self.score = (
            torch.where(rows, 0, value) for value in (self.state, self.twin, self.score)
        )

    def step(self, x: Tensor) -> Tensor:
        """Outputs of the perturbed states; those of the twin are `quiet_output`."""
        block = Unrolled(self.network, self.state)
        block.step(x)
        u = self.draw()
        by_theta = block.back_from_state((u @ self.inverse)[None])[1][0]
        self.score = self.score + by_theta / self.sigma
        self.state = block.state.detach() + self.sigma * u @ self.shape.mT
        rows = block.theta.detach()
        if self.baseline == "twin":
            self.twin = self.network.step(rows, x, self.twin)[1]
            self.quiet_output = self.network.output(rows, self.twin)
        return self.network.output(rows, self.state)

    def gradient(self, losses: Tensor, quiet_losses: Tensor | None = None) -> Tensor:
        """(B, P).

        Args:
            losses: (B,) of the outputs.
            quiet_losses: (B,) of `quiet_output`, with baseline twin.
        """
        if self.baseline == "twin":
            if quiet_losses is None:
                raise UserError("quiet_losses=None: baseline twin takes the losses of quiet_output")
            return (losses - quiet_losses)[:, None] * self.score
        gradient = (losses - self.mean)[:, None] * self.score
        if self.baseline == "mean":
            self.seen = self.decay * self.seen + 1 - self.decay
            self.mean = self.mean + (1 - self.decay) / self.seen * (losses - self.mean)
        return gradient

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on."""
        return {name: getattr(self, name) for name in ("state", "twin", "score", "mean", "seen")}

    def load_state_dict(self, stored: Mapping[str, Any]) -> None:
        """The same."""
        for name in ("state", "twin", "score", "mean", "seen"):
            setattr(self, name, stored[name].clone())
