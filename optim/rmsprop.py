"""RMSprop with both places for epsilon."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from semigradient.optim.denormals import flushed
from semigradient.optim.foreach import decay_weights, descend, evaluate, with_gradient


class RMSprop(torch.optim.Optimizer):
    """theta -= lr g / (sqrt(v) + eps), or lr g / sqrt(v + eps) with `eps_inside_sqrt`.

    With the defaults this is `torch.optim.RMSprop`. The published A2C and DQN agents used the
    other form, whose denominator is at least sqrt(eps): with eps = 1e-5, 300 times as large
    where gradients vanish. TensorFlow moreover starts from v = 1 (`initial_square`).

    State per parameter, each of its shape: `square_avg`; `grad_avg` if centered;
    `momentum_buffer` if momentum > 0. Denormal numbers count as zero (`optim.denormals`).
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor,
        *,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        centered: bool = False,
        eps_inside_sqrt: bool = False,
        initial_square: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "alpha": alpha,
                "eps": eps,
                "momentum": momentum,
                "centered": centered,
                "eps_inside_sqrt": eps_inside_sqrt,
                "initial_square": initial_square,
                "weight_decay": weight_decay,
            },
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; return the closure's loss."""
        loss = evaluate(closure)
        with flushed():
            for group in self.param_groups:
                self._move(group)
        return loss

    def _move(self, group: dict[str, Any]) -> None:
        """Update the parameters of one group that have a gradient."""
        params, grads = with_gradient(group)
        if not params:
            return
        for p in params:
            self._start(p, group)
        grads = decay_weights(group, params, grads)
        direction = list(torch._foreach_div(grads, self._denominator(group, params, grads)))
        if group["momentum"] > 0:
            velocity = [self.state[p]["momentum_buffer"] for p in params]
            torch._foreach_mul_(velocity, group["momentum"])
            torch._foreach_add_(velocity, direction)
            direction = velocity
        descend(group["lr"], params, direction)

    def _start(self, p: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if state:
            return
        state["square_avg"] = torch.full_like(p, group["initial_square"])
        if group["centered"]:
            state["grad_avg"] = torch.zeros_like(p)
        if group["momentum"] > 0:
            state["momentum_buffer"] = torch.zeros_like(p)

    def _denominator(
        self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]
    ) -> list[Tensor]:
        """Advance the running moments and return the divisor of each gradient."""
        square = [self.state[p]["square_avg"] for p in params]
        torch._foreach_mul_(square, group["alpha"])
        torch._foreach_addcmul_(square, grads, grads, 1 - group["alpha"])
        scale = square
        if group["centered"]:
            mean = [self.state[p]["grad_avg"] for p in params]
            torch._foreach_lerp_(mean, grads, 1 - group["alpha"])
            scale = list(torch._foreach_addcmul(square, mean, mean, -1))
            # A steady gradient has variance zero, and rounding can leave a little less.
            torch._foreach_clamp_min_(scale, 0.0)
        if group["eps_inside_sqrt"]:
            return list(torch._foreach_sqrt(torch._foreach_add(scale, group["eps"])))
        return list(torch._foreach_add(torch._foreach_sqrt(scale), group["eps"]))
