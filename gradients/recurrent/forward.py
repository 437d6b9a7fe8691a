"""Estimators that carry ds/dθ, or something in its place, forward in time.

Inside a block of T steps backpropagation is exact; across its beginning the trace stands in:

    g = (∂l/∂s_begin) · trace + ∂l/∂θ inside the block

so that with T = 1 the most recent step is exact (C. Tallec, PhD thesis 2019, chapter 3, Algorithm 1
and its memory-T form).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from semigradient.errors import require
from semigradient.gradients.recurrent.unrolled import Network, Unrolled


class Trace(Protocol):
    """What is carried."""

    def tangents(self) -> Tensor | None:
        """(B, K, width): directions that the next block differentiates its states along."""

    def contract(self, by_state: Tensor) -> Tensor:
        """(B, P): a cotangent of the state (B, width) times the trace."""

    def advance(self, block: Unrolled) -> None:
        """Go on to the state at the end of a block."""

    def reset(self, mask: Tensor) -> None:
        """Zeros for rows (B,)."""

    def state_dict(self) -> dict[str, Tensor]:
        """Its tensors."""

    def load_state_dict(self, stored: Mapping[str, Tensor]) -> None:
        """Take them."""


class Forward:
    """An estimator with a trace.

    Args:
        module: see the package.
        examples: B.
        trace: made for the same network.
        memory: T, steps of a block.
        exact_last_step: false uses the trace after the step, whose noise then enters the most
            recent step too (chapter 4 of the thesis on variance); needs `module.output(s)`.
    """

    def __init__(
        self,
        module: nn.Module,
        examples: int,
        trace: Trace,
        memory: int = 1,
        exact_last_step: bool = True,
    ) -> None:
        require(memory >= 1, f"memory={memory}: the steps of a block must be ≥ 1")
        require(
            exact_last_step or memory == 1,
            f"memory={memory}: blocks make their steps exact, which exact_last_step=False undoes",
        )
        require(
            exact_last_step or hasattr(module, "output"),
            f"exact_last_step=False: {type(module).__name__} has no output(s), its outputs as a "
            "function of the state alone",
        )
        self.network, self.trace, self.memory = Network(module), trace, memory
        self.exact_last_step = exact_last_step
        self.block = Unrolled(self.network, self.network.start(examples), trace.tangents())
        self.pending = False

    @property
    def state(self) -> Tensor:
        """(B, width)."""
        return self.block.state.detach()

    def reset(self, mask: Tensor) -> None:
        """Rows start anew, with a trace of zeros."""
        self._close()
        self.block.reset(mask)
        self.trace.reset(mask)

    def step(self, x: Tensor) -> Tensor:
        """Outputs; the trace has moved on to the beginning of this step's block."""
        self._close()
        output = self.block.step(x)
        if self.exact_last_step:
            self.pending = self.block.count == self.memory
        else:
            self.trace.advance(self.block)
        return output

    def gradient(self, cotangent: Tensor) -> Tensor:
        """(B, P)."""
        if self.exact_last_step:
            by_start, by_theta = self.block.back(cotangent)
            return self.trace.contract(by_start) + by_theta
        state = self.state.requires_grad_()
        rows = self.network.vector().expand(len(state), -1).requires_grad_()
        by_state, by_theta = torch.autograd.grad(
            self.network.output(rows, state),
            (state, rows),
            cotangent,
            allow_unused=True,
            materialize_grads=True,
        )
        return self.trace.contract(by_state) + by_theta

    def state_dict(self) -> dict[str, Any]:
        """The trace and the steps of the block."""
        return {"trace": self.trace.state_dict(), "block": self.block.state_dict()}

    def load_state_dict(self, stored: Mapping[str, Any]) -> None:
        """Both again."""
        self.trace.load_state_dict(stored["trace"])
        tangents = self.trace.tangents() if self.exact_last_step else None
        self.block = Unrolled.rebuilt(self.network, stored["block"], tangents)
        self.pending = self.exact_last_step and self.block.count == self.memory

    def _close(self) -> None:
        if self.exact_last_step:
            if not self.pending:
                return
            self.trace.advance(self.block)
        elif not self.block.count:
            return
        self.pending = False
        self.block = Unrolled(self.network, self.block.state, self.trace.tangents())
