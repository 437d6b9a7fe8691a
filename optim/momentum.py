"""Momentum as a running average of gradients, from a zero start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from semigradient.optim.foreach import decay_weights, descend, evaluate, with_gradient


class Momentum(torch.optim.Optimizer):
    """mu_t = beta mu_{t-1} + (1 - beta) g_t with mu_0 = 0; theta_{t+1} = theta_t - lr mu_t.

    E. Bengio, PhD thesis, ch. 4, eq. 4.2-4.3. `torch.optim.SGD(momentum=, dampening=)` is
    another method: it starts from mu_1 = g_1, so its first gradient weighs 1 / (1 - beta)
    times as much as every later one.

    State per parameter: `mu`, of the parameter's shape.
    """

    def __init__(
        self,
        params: Any,
        lr: float | torch.Tensor,
        beta: float = 0.9,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "beta": beta,
                "weight_decay": weight_decay,
                "decoupled_weight_decay": decoupled_weight_decay,
            },
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; return the closure's loss."""
        loss = evaluate(closure)
        for group in self.param_groups:
            params, grads = with_gradient(group)
            if not params:
                continue
            for p in params:
                if not self.state[p]:
                    self.state[p]["mu"] = torch.zeros_like(p)
            mu = [self.state[p]["mu"] for p in params]
            grads = decay_weights(group, params, grads)
            torch._foreach_lerp_(mu, grads, 1 - group["beta"])
            descend(group["lr"], params, mu)
        return loss
