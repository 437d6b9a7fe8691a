"""Adam and AdamW without torch's bookkeeping around their fused kernel, and without denormals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from semigradient.optim.denormals import flushed


class _Fused:
    """One step of torch's fused kernel over lists that are kept, where that is all there is to do.

    The numbers are torch's to the last bit, but for averages that are denormal, which are zero
    here (`optim.denormals`). Looking every parameter's state up again at each step takes torch as
    long as the step of a small network.
    """

    param_groups: Any
    state: Any

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; return the closure's loss."""
        lists = None if closure is not None or self._has_hooks() else self._lists()
        if lists is None:
            return super().step(closure)  # type: ignore[misc]
        for group, (params, means, squares, counts) in zip(self.param_groups, lists, strict=True):
            kernel: Any = torch._fused_adam_
            if group.get("decoupled_weight_decay", False):
                kernel = torch._fused_adamw_
            torch._foreach_add_(counts, 1)
            with flushed():
                kernel(
                    params,
                    [p.grad for p in params],
                    means,
                    squares,
                    [],
                    counts,
                    lr=group["lr"],
                    beta1=group["betas"][0],
                    beta2=group["betas"][1],
                    weight_decay=group["weight_decay"],
                    eps=group["eps"],
                    amsgrad=False,
                    maximize=False,
                )
        return None

    step.hooked = True  # type: ignore[attr-defined]  # torch's wrapper would cost as much again

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients; torch's own way first asks whether it is being profiled."""
        if not set_to_none:
            super().zero_grad(set_to_none)  # type: ignore[misc]
            return
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def _has_hooks(self) -> bool:
        return any(self.__dict__[f"_optimizer_step_{when}_hooks"] for when in ("pre", "post"))

    def _lists(self) -> list[Any] | None:
        """Parameters, averages and counts of each group; None: the step is torch's to make."""
        lists: list[Any] | None = self.__dict__.get("_kept")
        if lists is None or not self._still_holds(lists):
            lists = self.__dict__["_kept"] = self._collect()
        return lists

    def _collect(self) -> list[Any] | None:
        lists = []
        for group in self.param_groups:
            params, plain = group["params"], not (group["amsgrad"] or group["maximize"])
            plain = plain and group["fused"] and not group["differentiable"]
            plain = plain and not isinstance(group["lr"], Tensor)
            if not plain or any(not self.state.get(p) or p.grad is None for p in params):
                return None
            states = [self.state[p] for p in params]
            names = ("exp_avg", "exp_avg_sq", "step")
            lists.append((params, *([state[name] for state in states] for name in names)))
        return lists

    def _still_holds(self, lists: list[Any]) -> bool:
        """Whether no state was loaded or replaced since, and every parameter has its gradient."""
        return len(lists) == len(self.param_groups) and all(
            params is group["params"]
            and all(p.grad is not None for p in params)
            and self.state[params[0]].get("exp_avg") is means[0]
            and self.state[params[-1]].get("exp_avg") is means[-1]
            for group, (params, means, _, _) in zip(self.param_groups, lists, strict=True)
        )


# Torch wraps the steps of a class, so that hooks are called, when the first of it is made.
torch.optim.Adam([torch.zeros(1)])
torch.optim.AdamW([torch.zeros(1)])


class Adam(_Fused, torch.optim.Adam):
    """`torch.optim.Adam`."""


class AdamW(_Fused, torch.optim.AdamW):
    """`torch.optim.AdamW`."""
