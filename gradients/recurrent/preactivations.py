"""UORO at the pre-activations, shaped in space and time, and PreUORO, which projects in time alone.

With z = W a and h the state, u ~ noise of covariance I, a matrix Q₀ and positive weights,

    h̃ ← γ (∂h'/∂h) h̃ + β (∂h'/∂z) Q₀ u,    w̃ ← w̃/γ + (Q₀^−ᵀ u) aᵀ / β

has E[h̃ w̃] = dh/dW. Only γ²/β² matters; greedy iterative rescaling (GIR) takes

    γ² = ‖w̃‖ / ‖(∂h'/∂h) h̃‖,    β² = ‖uᵀ Q₀⁻¹ ∂z/∂W‖ / ‖(∂h'/∂z) Q₀ u‖;

weights α_s for each time instead mean γ = 1, β = α_s. PreUORO leaves the projection in space out:

    H̃ ← γ (∂h'/∂h) H̃ + β τ ∂h'/∂z,    ã ← ã/γ + τ a/β

with one τ for a step, at N times the cost and 1/N of the variance.

Source: T. Cooijmans, PhD thesis 2023, chapter 4, eq. 4.5.1, section 4.6.3, appendix 4.H (there τ is
normal; signs vary less and are the default here).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from semigradient.errors import require
from semigradient.gradients.recurrent.forward import Forward
from semigradient.gradients.recurrent.layer import Layer, balance
from semigradient.gradients.recurrent.noise import draws
from semigradient.gradients.recurrent.unrolled import Unrolled


def shaped_uoro(
    module: nn.Module,
    examples: int,
    generator: torch.Generator | None = None,
    alpha: Sequence[float] | Tensor | None = None,
    shape: Tensor | None = None,
    noise: str = "signs",
    exact_last_step: bool = True,
) -> Forward:
    """UORO at z = W a.

    Args:
        module: its cell is one layer; see `Layer`.
        examples: B.
        generator: draws u.
        alpha: weights α_s > 0 of an episode's times; none is GIR.
        shape: Q₀ (N, N), invertible; none is I.
        noise: signs or normal.
        exact_last_step: see `Forward`.
    """
    layer = Layer(module, "shaped-uoro")
    trace = ShapedTrace(layer, examples, generator, alpha, shape, noise)
    return Forward(module, examples, trace, exact_last_step=exact_last_step)


def preuoro(
    module: nn.Module,
    examples: int,
    generator: torch.Generator | None = None,
    noise: str = "signs",
    exact_last_step: bool = True,
) -> Forward:
    """PreUORO; for arguments see `shaped_uoro`."""
    trace = TimeTrace(Layer(module, "preuoro"), examples, generator, noise)
    return Forward(module, examples, trace, exact_last_step=exact_last_step)


class ShapedTrace:
    """h̃ (B, 1, width), w̃ (B, N, A), and the steps of each row."""

    def __init__(
        self,
        layer: Layer,
        examples: int,
        generator: torch.Generator | None,
        alpha: Sequence[float] | Tensor | None,
        shape: Tensor | None,
        noise: str,
    ) -> None:
        self.layer = layer
        zeros = layer.network.start(examples)
        self.state = zeros[:, None]
        self.weight = zeros.new_zeros(examples, layer.units, layer.inputs)
        self.time = torch.zeros(examples, dtype=torch.int64, device=zeros.device)
        self.alpha = None if alpha is None else torch.as_tensor(alpha).to(zeros)
        require(
            self.alpha is None or bool((self.alpha > 0).all()), f"alpha={alpha}: must be positive"
        )
        n = layer.units
        self.shape = torch.eye(n).to(zeros) if shape is None else shape.to(zeros)
        require(
            self.shape.shape == (n, n),
            f"shape: Q₀ is {tuple(self.shape.shape)}, and must be ({n}, {n}), one row for each "
            "pre-activation",
        )
        self.inverse = torch.linalg.inv(self.shape)
        self.draw = draws(noise, generator, zeros)

    def tangents(self) -> Tensor:
        """h̃."""
        return self.state

    def contract(self, by_state: Tensor) -> Tensor:
        """(∂l/∂h · h̃) w̃, in the place of W."""
        along = torch.einsum("bn,bn->b", by_state, self.state[:, 0])
        return self.layer.spread(along[:, None, None] * self.weight)

    def advance(self, block: Unrolled) -> None:
        """One step."""
        moved = block.tangents
        assert moved is not None  # for they were asked for
        a = self.layer.features(block)
        u = self.draw((len(a), self.layer.units))
        new_state = self.layer.along(block, a, u @ self.shape.mT)
        new_weight = torch.einsum("bn,ba->bna", u @ self.inverse, a)
        if self.alpha is None:
            carry, enter = balance(self.weight, moved), balance(new_weight, new_state)
        else:
            last = int(self.time.max())
            require(last < len(self.alpha), f"alpha: {len(self.alpha)} weights, at step {last}")
            carry, enter = torch.ones_like(a[:, 0]), self.alpha[self.time]
        self.state = carry[:, None, None] * moved + (enter[:, None] * new_state)[:, None]
        self.weight = self.weight / carry[:, None, None] + new_weight / enter[:, None, None]
        self.time = self.time + 1

    def reset(self, mask: Tensor) -> None:
        """Zeros."""
        self.state = torch.where(mask[:, None, None], 0, self.state)
        self.weight = torch.where(mask[:, None, None], 0, self.weight)
        self.time = torch.where(mask, 0, self.time)

    def state_dict(self) -> dict[str, Tensor]:
        """All three."""
        return {"state": self.state, "weight": self.weight, "time": self.time}

    def load_state_dict(self, stored: Mapping[str, Tensor]) -> None:
        """All three."""
        self.state, self.weight, self.time = (
            stored[name].clone() for name in ("state", "weight", "time")
        )


class TimeTrace:
    """H̃ as N columns (B, N, width), and ã (B, A)."""

    def __init__(
        self, layer: Layer, examples: int, generator: torch.Generator | None, noise: str
    ) -> None:
        self.layer = layer
        zeros = layer.network.start(examples)
        self.columns = zeros.new_zeros(examples, layer.units, layer.network.width)
        self.features = zeros.new_zeros(examples, layer.inputs)
        self.draw = draws(noise, generator, zeros)

    def tangents(self) -> Tensor:
        """The columns of H̃."""
        return self.columns

    def contract(self, by_state: Tensor) -> Tensor:
        """(∂l/∂h H̃)ᵀ ãᵀ, in the place of W."""
        along = torch.einsum("bw,bnw->bn", by_state, self.columns)
        return self.layer.spread(torch.einsum("bn,ba->bna", along, self.features))

    def advance(self, block: Unrolled) -> None:
        """One step."""
        moved = block.tangents
        assert moved is not None  # for they were asked for
        a = self.layer.features(block)
        new = self.layer.jacobian(block, a).mT
        tau = self.draw((len(a), 1))
        carry, enter = balance(self.features, moved), balance(a, new)
        self.columns = carry[:, None, None] * moved + (enter * tau[:, 0])[:, None, None] * new
        self.features = self.features / carry[:, None] + tau * a / enter[:, None]

    def reset(self, mask: Tensor) -> None:
        """Zeros."""
        self.columns = torch.where(mask[:, None, None], 0, self.columns)
        self.features = torch.where(mask[:, None], 0, self.features)

    def state_dict(self) -> dict[str, Tensor]:
        """Both."""
        return {"columns": self.columns, "features": self.features}

    def load_state_dict(self, stored: Mapping[str, Tensor]) -> None:
        """Both."""
        self.columns, self.features = stored["columns"].clone(), stored["features"].clone()
