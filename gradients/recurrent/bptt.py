"""Backpropagation through time, whole or truncated (Werbos 1990; Jaeger 2002).

    δ_t = δ_{t+1} ∂F/∂s + ∂l_t/∂s_t,    ∂L/∂θ = Σ_t δ_t ∂F/∂θ

Truncated after every L steps, the state's value is carried on and its gradient is not. The gradient
is then biased, unless no dependency crosses a cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from semigradient.errors import require
from semigradient.gradients.recurrent.unrolled import Network, Unrolled


class BPTT:
    """Memory grows with the steps since the last cut.

    Args:
        module: see the package.
        examples: B.
        length: L, steps between two cuts; 0 never cuts.
    """

    def __init__(self, module: nn.Module, examples: int, length: int = 0) -> None:
        require(length >= 0, f"length={length}: steps between two cuts must be ≥ 1, or 0 for none")
        self.network, self.length = Network(module), length
        self.unrolled = Unrolled(self.network, self.network.start(examples))

    @property
    def state(self) -> Tensor:
        """(B, width)."""
        return self.unrolled.state.detach()

    def reset(self, mask: Tensor) -> None:
        """Rows start anew; where all do, the graph does too."""
        self.unrolled.reset(mask)
        if mask.all():
            self.cut()

    def step(self, x: Tensor) -> Tensor:
        """Outputs."""
        if self.unrolled.count == self.length > 0:
            self.cut()
        return self.unrolled.step(x)

    def cut(self) -> None:
        """Forget the graph; the state's value goes on."""
        self.unrolled = Unrolled(self.network, self.state)

    def gradient(self, cotangent: Tensor) -> Tensor:
        """(B, P), back to the last cut."""
        return self.unrolled.back(cotangent)[1]

    def state_dict(self) -> dict[str, Any]:
        """The steps since the last cut."""
        return self.unrolled.state_dict()

    def load_state_dict(self, stored: Mapping[str, Any]) -> None:
        """The same graph again."""
        self.unrolled = Unrolled.rebuilt(self.network, stored)
