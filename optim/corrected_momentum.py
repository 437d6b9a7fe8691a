"""Momentum corrected for staleness.

Momentum averages gradients g_i that were taken at old parameters theta_i. With bootstrapped
targets they are stale twice: the prediction has moved since, and so has the target. Moving each
of them to the present parameters, to first order, g_i(theta_t) ~ g_i + Z_i^T (theta_t - theta_i),
needs no past minibatch, only the running average zeta of the matrices Z_i.

Source: E. Bengio, PhD thesis, ch. 4, eq. 4.12-4.19.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, get_args

import torch
from torch import Tensor

from errors import UserError, unknown
from optim.configs import Correction
from optim.foreach import decay_weights, descend, evaluate
from optim.memory import available_memory, readable
from optim.temporal_difference import TemporalDifference, per_sample_gradients


class CorrectedMomentum(torch.optim.Optimizer):
    """Momentum mu minus its staleness eta; per step t, at parameters theta_t:

        eta  <- beta (eta - zeta^T (theta_t - theta_{t-1}))     with zeta of step t-1
        zeta <- beta zeta + (1 - beta) Z_t
        mu   <- beta mu + (1 - beta) g_t
        theta_{t+1} = theta_t - lr (mu - eta)

    The thesis writes the first line with the step lr (mu - eta) of constant lr. The displacement
    is measured here instead, so that the result stays exact (for gradients affine in theta)
    under schedules, weight decay and anything else that moves the parameters.

    Every `step` needs an `observe` before it. Several between two steps add up, as several
    `backward()` do, and `zero_grad()` drops what was observed. If the gradient is rescaled
    (clipped) before the step, scale `TemporalDifference.weight` alike. Parameters of this
    optimizer that the observed module lacks get plain momentum; one without gradient counts as
    having gradient zero.

    State per parameter, of its shape: `mu`, `eta`, `previous` (theta_{t-1}) and, for
    `correction="diagonal"`, `zeta`. For `"full"` the first parameter holds `zeta`, (n, n) over
    all parameters, flattened and concatenated in order: zeta[i, j] = d g_j / d theta_i.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor,
        beta: float = 0.9,
        *,
        correction: Correction = "full",
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        chunk_size: int | None = None,
    ) -> None:
        if correction not in get_args(Correction):
            unknown("correction", correction, get_args(Correction))
        defaults = {
            "lr": lr,
            "beta": beta,
            "correction": correction,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "chunk_size": chunk_size,
        }
        # What was observed since the last step: rows (A, B) if full, the diagonal of Z if not.
        self._rows: list[tuple[Tensor, Tensor]] = []
        self._diagonal: list[Tensor] | None = None
        super().__init__(params, defaults)

    def _check_full(self) -> None:
        """Refuse, before any training, parameters whose n x n matrix cannot be formed."""
        params = list(self._params())
        if len({(p.device, p.dtype) for p in params}) > 1:
            raise UserError("correction=full: needs all parameters on one device, of one type")
        if len({group["beta"] for group in self.param_groups}) > 1:
            raise UserError("correction=full: needs the same beta for all parameters")
        n = sum(p.numel() for p in params)
        size = params[0].element_size()
        needed, available = n * n * size, available_memory(params[0].device)
        if needed > available:
            raise UserError(
                f"correction=full: {n} parameters need a matrix of {readable(needed)} "
                f"({needed} bytes), but {params[0].device} has {readable(available)} available; "
                f"correction=diagonal needs {readable(n * size)}"
            )

    @torch.no_grad()
    def observe(self, batch: TemporalDifference) -> None:
        """Take in the derivatives of one minibatch, at the present parameters."""
        names = {id(p): name for name, p in batch.parameters().items()}
        params = {names[id(p)]: p for p in self._params() if id(p) in names}
        if not params:
            raise ValueError("observe: the module has no trainable parameter of this optimizer")
        order = [names.get(id(p), "") for p in self._params()]
        take = self._take_rows if self.defaults["correction"] == "full" else self._take_diagonal
        for part in batch.split(self.defaults["chunk_size"] or batch.size):
            rows_a, rows_b = per_sample_gradients(part, params)
            weight = torch.full((part.size,), 1 / batch.size)
            weight = weight.to(next(iter(rows_b.values())))
            if part.weight is not None:
                weight *= part.weight
            take([rows_a.get(n) for n in order], [rows_b.get(n) for n in order], weight)

    def _take_rows(
        self, rows_a: list[Tensor | None], rows_b: list[Tensor | None], weight: Tensor
    ) -> None:
        """Keep the rows, (m, n) each: less than a second n x n matrix while m < n / 2."""

        def concatenated(rows: list[Tensor | None]) -> Tensor:
            m = len(weight)
            shaped = zip(rows, self._params(), strict=True)
            flat = [weight.new_zeros(m, p.numel()) if r is None else r for r, p in shaped]
            return torch.cat([r.reshape(m, -1) for r in flat], dim=1)

        self._rows.append((concatenated(rows_a), concatenated(rows_b) * weight[:, None]))

    def _take_diagonal(
        self, rows_a: list[Tensor | None], rows_b: list[Tensor | None], weight: Tensor
    ) -> None:
        """Add up sum_i weight_i a_i * b_i, of each parameter's shape."""
        if self._diagonal is None:
            self._diagonal = [torch.zeros_like(p) for p in self._params()]
        for total, a, b in zip(self._diagonal, rows_a, rows_b, strict=True):
            if a is not None and b is not None:
                total += (weight @ (a * b).reshape(len(weight), -1)).view_as(total)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter; return the closure's loss (the closure also observes)."""
        loss = evaluate(closure)
        if not self._rows and self._diagonal is None:
            raise RuntimeError(
                "CorrectedMomentum.step() needs the minibatch: call "
                "optimizer.observe(TemporalDifference(...)) between backward() and step()"
            )
        self._start()
        self._move_staleness()
        self._average_derivatives()
        for group in self.param_groups:
            self._update(group)
        self._forget()
        return loss

    def _start(self) -> None:
        """Create the state, all zero, at the first step."""
        params = list(self._params())
        if self.state[params[0]]:
            return
        for p in params:
            self.state[p].update(
                mu=torch.zeros_like(p), eta=torch.zeros_like(p), previous=p.detach().clone()
            )
            if self.defaults["correction"] == "diagonal":
                self.state[p]["zeta"] = torch.zeros_like(p)
        if self.defaults["correction"] == "full":
            n = sum(p.numel() for p in params)
            self.state[params[0]]["zeta"] = params[0].new_zeros(n, n)

    def _move_staleness(self) -> None:
        """Move eta along the last displacement, with zeta of the step before."""
        params = list(self._params())
        moved = torch._foreach_sub(params, self._states("previous", params))
        if self.defaults["correction"] == "full":
            zeta = self.state[params[0]]["zeta"]
            shift = zeta.T @ torch.cat([d.reshape(-1) for d in moved])
            parts = shift.split([p.numel() for p in params])
            drift = [part.view(p.shape) for part, p in zip(parts, params, strict=True)]
        else:
            drift = list(torch._foreach_mul(moved, self._states("zeta", params)))
        torch._foreach_sub_(self._states("eta", params), drift)
        for group in self.param_groups:
            torch._foreach_mul_(self._states("eta", group["params"]), group["beta"])

    def _average_derivatives(self) -> None:
        """Average Z_t into zeta."""
        params = list(self._params())
        if self.defaults["correction"] == "full":
            beta = self.param_groups[0]["beta"]
            zeta = self.state[params[0]]["zeta"]
            for i, (a, b) in enumerate(self._rows):
                # The first product also scales zeta: one pass over n x n values less.
                zeta.addmm_(a.T, b, beta=beta if i == 0 else 1, alpha=1 - beta)
            diagonals = zeta.diagonal().split([p.numel() for p in params])
        else:
            assert self._diagonal is not None
            diagonals = self._states("zeta", params)
            betas = [g["beta"] for g in self.param_groups for _ in g["params"]]
            for zeta, z, beta in zip(diagonals, self._diagonal, betas, strict=True):
                zeta.lerp_(z, 1 - beta)
        for group in self.param_groups:
            count = len(group["params"])
            part, diagonals = diagonals[:count], diagonals[count:]
            # Decay that is added to the gradient has a derivative too: decay times identity.
            if group["weight_decay"] and not group["decoupled_weight_decay"]:
                torch._foreach_add_(part, (1 - group["beta"]) * group["weight_decay"])

    def _update(self, group: dict[str, Any]) -> None:
        """Advance mu and move the parameters by -lr (mu - eta)."""
        params = group["params"]
        mu, eta = self._states("mu", params), self._states("eta", params)
        torch._foreach_copy_(self._states("previous", params), params)
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
        grads = decay_weights(group, params, grads)
        torch._foreach_lerp_(mu, grads, 1 - group["beta"])
        descend(group["lr"], params, list(torch._foreach_sub(mu, eta)))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients and what was observed with them."""
        super().zero_grad(set_to_none)
        self._forget()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, before the first step only."""
        if self.state:
            raise RuntimeError("CorrectedMomentum takes no more parameters after its first step")
        super().add_param_group(param_group)
        if self.defaults["correction"] == "full":
            self._check_full()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state; what was observed since the last step is dropped."""
        saved = {group["correction"] for group in state_dict["param_groups"]}
        if saved != {self.defaults["correction"]}:
            raise ValueError(
                f"the state is of correction={'|'.join(sorted(saved))}, "
                f"this optimizer has correction={self.defaults['correction']}"
            )
        super().load_state_dict(state_dict)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy, or a loaded state."""
        super().__setstate__(state)
        self._forget()

    def _forget(self) -> None:
        self._rows = []
        self._diagonal = None

    def _params(self) -> Iterator[Tensor]:
        for group in self.param_groups:
            yield from group["params"]

    def _states(self, key: str, params: list[Tensor]) -> list[Tensor]:
        return [self.state[p][key] for p in params]
