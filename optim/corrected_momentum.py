"""Momentum corrected for staleness.

Momentum averages gradients g_i that were taken at old parameters theta_i. With bootstrapped
targets they are stale twice: the prediction has moved since, and so has the target. Moving each
of them to the present parameters, to first order, g_i(theta_t) ~ g_i + Z_i^T (theta_t - theta_i),
needs no past minibatch, only the running average zeta of the matrices Z_i, or some form of it:

    Full        n x n; over some layers only with `layers`             optim/corrections.py
    Layer       n x n for each layer by itself
    Block       diagonal blocks of consecutive parameters
    Diagonal    n numbers
    Kronecker   products of two small matrices per layer               optim/kronecker.py
    LowRank     the rows of the last minibatches: full, but windowed   optim/low_rank.py

`optim/reference.py` is the full form written out.

Source: E. Bengio, PhD thesis, ch. 4, eq. 4.12-4.19; sec. 4.3.2.3 (over Adam's second moment).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, get_args

import torch
from torch import Tensor

from semigradient.errors import UserError, unknown
from semigradient.optim import forms, promises
from semigradient.optim.corrections import (
    DiagonalBlocks,
    DiagonalEntries,
    WholeMatrices,
    Zeta,
    joint_beta,
)
from semigradient.optim.derivatives import SemiGradient
from semigradient.optim.foreach import decay_weights, descend, evaluate, joint_norm
from semigradient.optim.forms import Form, Motion
from semigradient.optim.kronecker import KroneckerFactors
from semigradient.optim.low_rank import RecentRows
from semigradient.optim.memory import check_memory
from semigradient.optim.target_motion import TargetMotion
from semigradient.optim.temporal_difference import TemporalDifference
from semigradient.optim.vectorised import in_full_precision

_ZETAS: dict[type[Form], Callable[[list[Tensor], Any, Any], Zeta]] = {
    forms.Full: WholeMatrices,
    forms.Layer: WholeMatrices,
    forms.Block: DiagonalBlocks,
    forms.Diagonal: DiagonalEntries,
    forms.Kronecker: KroneckerFactors,
    forms.LowRank: RecentRows,
}


class CorrectedMomentum(torch.optim.Optimizer):
    """Momentum mu minus its staleness eta; per step t, at parameters theta_t:

        eta  <- beta (eta - zeta^T (theta_t - theta_{t-1}))     with zeta of step t-1
        zeta <- beta zeta + (1 - beta) Z_t
        mu   <- beta mu + (1 - beta) g_t
        theta_{t+1} = theta_t - lr (mu - eta)

    The thesis writes -lr (mu - eta) of the step before for the displacement theta_t -
    theta_{t-1} (`form="printed"`). Measured, as here by default, it keeps the result exact (for
    gradients affine in theta) under weight decay, Adam's denominator and anything else that moves
    the parameters.

    With `beta2` the step is Adam's: lr / (1 - beta^t) (mu - eta) / (sqrt(v / (1 - beta2^t)) +
    eps), v the running mean of squared gradients.

    With `follow_target`, gradients are moved along with a target network, too, whose parameters
    theta' have a displacement of their own: the term zeta^T (theta_t - theta_{t-1}) becomes

        zeta_b^T ((theta_t - theta_{t-1}) - (theta'_t - theta'_{t-1}))
            + zeta^T (theta'_t - theta'_{t-1})

    with a second zeta of the same form (`optim/target_motion.py`). `guard` > 0 bounds eta's length
    by `guard` times that of mu, over all parameters.

    Every `step` needs an `observe` before it. Several between two steps add up, as several
    `backward()` do, and `zero_grad()` drops what was observed. If the gradient is rescaled
    (clipped) before the step, scale `TemporalDifference.weight` alike. Parameters of this
    optimizer that the observed module lacks get plain momentum; one without gradient counts as
    having gradient zero.

    State per parameter, of its shape: `mu`, `eta`, `previous` (theta_{t-1}; printed: lr (mu - eta)
    of the last step), `square` with Adam; and what the form of zeta keeps, see there. `decay`: the
    average of the weight decay that was added to gradients, whose derivative is decay times
    identity.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor,
        beta: float = 0.9,
        zeta: Form = forms.Diagonal(),  # noqa: B008 (frozen)
        *,
        form: Motion = "displacement",
        beta2: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        chunk_size: int | None = None,
        follow_target: bool = False,
        guard: float = 0.0,
    ) -> None:
        if form not in get_args(Motion):
            unknown("form", form, get_args(Motion))
        if type(zeta) not in _ZETAS:
            accepted = ", ".join(f"{kind.__name__}()" for kind in _ZETAS)
            raise UserError(f"zeta={zeta!r}: accepted are {accepted} of semigradient.optim.forms")
        self.zeta = zeta
        self.guard = guard
        self._zeta: Zeta | None = None
        self._motion: TargetMotion | None = None
        self._observed = False
        defaults = {
            "lr": lr,
            "beta": beta,
            "zeta": repr(zeta),
            "form": form,
            "beta2": beta2,
            "eps": eps,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "chunk_size": chunk_size,
            "follow_target": follow_target,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def observe(self, batch: TemporalDifference) -> None:
        """Take in the derivatives of one minibatch, at the present parameters."""
        with in_full_precision(self._device):
            self._take(batch, None)

    def pass_over(self) -> None:
        """Take the next step without a minibatch: its gradients are averaged as they are."""
        self._observed = True

    @torch.no_grad()
    def backward(self, batch: TemporalDifference) -> tuple[Tensor, Tensor]:
        """Observe a minibatch and add its semi-gradient to `grad`, all in one pass.

        In the place of `loss.backward()` and `observe`, which cost one forward and backward pass
        more. The minibatch needs its `target`. Returns predictions and errors, (m,) each.
        """
        batch.require_target("CorrectedMomentum.backward")
        loss = SemiGradient()
        with in_full_precision(self._device):
            names = self._take(batch, loss)
        for p, name in zip(self._params(), names, strict=True):
            if name in loss.gradients:
                gradient = loss.gradients[name].view_as(p)
                p.grad = gradient if p.grad is None else p.grad + gradient
        return loss.prediction, loss.error

    @torch.no_grad()
    def rescale(self, factor: Tensor) -> None:
        """Scale what was observed since the last step, as the gradient was (by clipping)."""
        for zeta in self._matrices():
            zeta.rescale(factor)

    @property
    def correction_ratio(self) -> float:
        """Length of eta over that of mu, over all parameters: 0 where nothing is corrected.

        Where it grows without bound, the correction overshoots: |1 - lr lambda| > 1 for a
        derivative lambda along it.
        """
        states = [self.state[p] for p in self._params() if "mu" in self.state[p]]
        if not states:
            return 0.0
        return float(joint_norm([s["eta"] for s in states]) / joint_norm([s["mu"] for s in states]))

    def _take(self, batch: TemporalDifference, loss: SemiGradient | None) -> list[str]:
        """Take in a minibatch; return the names of this optimizer's parameters in its module."""
        names_by_id = {id(p): name for name, p in batch.parameters().items()}
        names = [names_by_id.get(id(p), "") for p in self._params()]
        if not any(names):
            raise ValueError("observe: the module has no trainable parameter of this optimizer")
        for part in batch.split(self.defaults["chunk_size"] or batch.size):
            self._matrix().accumulate(part, names, batch.size, loss)
        if (motion := self._target_motion()) is not None:
            motion.accumulate(batch, names, self.defaults["chunk_size"])
        self._observed = True
        return names

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter; return the closure's loss (the closure also observes)."""
        loss = evaluate(closure)
        if not self._observed:
            raise RuntimeError(
                "CorrectedMomentum.step() needs the minibatch: call "
                "optimizer.observe(TemporalDifference(...)) between backward() and step()"
            )
        self._start()
        self._move_staleness()
        for zeta in self._matrices():
            zeta.commit([g["beta"] for g in self.param_groups for _ in g["params"]])
        for group in self.param_groups:
            self._average(group)
        self._hold()
        for group in self.param_groups:
            self._move(group)
        self._observed = False
        return loss

    def _start(self) -> None:
        """Create the state, all zero, at the first step."""
        params = list(self._params())
        if "mu" in self.state[params[0]]:
            return
        for p in params:
            start = p.detach().clone() if self._displacement else torch.zeros_like(p)
            self.state[p].update(mu=torch.zeros_like(p), eta=torch.zeros_like(p), previous=start)
            if self.defaults["beta2"] is not None:
                self.state[p].update(square=torch.zeros_like(p), step=0)
        for zeta in self._matrices():
            zeta.create()
        promises.take(self)

    def _move_staleness(self) -> None:
        """Move eta along the last displacement, with zeta of the step before."""
        params = list(self._params())
        # How far back the step before was, in place: `previous` is overwritten after this.
        back = self._states("previous", params)
        if self._displacement:
            torch._foreach_sub_(back, params)
        eta = self._states("eta", params)
        for p, e, d in zip(params, eta, back, strict=True):
            if "decay" in self.state[p]:
                e.add_(d * self.state[p]["decay"])
        if (motion := self._target_motion()) is not None:
            torch._foreach_add_(eta, motion.apply(back))
        torch._foreach_add_(eta, self._matrix().apply(back))
        betas = [group["beta"] for group in self.param_groups for _ in group["params"]]
        torch._foreach_mul_(eta, betas)

    def _average(self, group: dict[str, Any]) -> None:
        """Advance mu; a decoupled decay shrinks the parameters."""
        params = group["params"]
        mu, previous = self._states("mu", params), self._states("previous", params)
        if self._displacement:
            torch._foreach_copy_(previous, params)
        self._average_decay(group)
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
        grads = decay_weights(group, params, grads)
        torch._foreach_lerp_(mu, grads, 1 - group["beta"])
        if group["beta2"] is not None:
            self._average_squares(group, grads)

    def _hold(self) -> None:
        """Shorten eta, all of it by one factor, to `guard` times the length of mu."""
        if self.guard > 0:
            eta, mu = (self._states(key, list(self._params())) for key in ("eta", "mu"))
            limit = self.guard * joint_norm(mu)
            torch._foreach_mul_(eta, (limit / joint_norm(eta).clamp_min(1e-38)).clamp(max=1.0))

    def _move(self, group: dict[str, Any]) -> None:
        """Move the parameters by -lr (mu - eta)."""
        params = group["params"]
        mu, eta = self._states("mu", params), self._states("eta", params)
        previous = self._states("previous", params)
        if self._displacement and group["beta2"] is None:
            descend(group["lr"], params, mu)
            descend(-group["lr"], params, eta)
            return
        corrected = list(torch._foreach_sub(mu, eta))
        if not self._displacement:
            torch._foreach_copy_(previous, corrected)
            torch._foreach_mul_(previous, group["lr"])
        if group["beta2"] is not None:
            self._precondition(group, corrected)
        descend(group["lr"], params, corrected)

    def _average_squares(self, group: dict[str, Any], grads: list[Tensor]) -> None:
        """Advance Adam's second moment."""
        square = self._states("square", group["params"])
        torch._foreach_mul_(square, group["beta2"])
        torch._foreach_addcmul_(square, grads, grads, 1 - group["beta2"])
        for p in group["params"]:
            self.state[p]["step"] += 1

    def _precondition(self, group: dict[str, Any], direction: list[Tensor]) -> None:
        """Divide, in place, by the root of Adam's second moment, both corrected for their start."""
        square = self._states("square", group["params"])
        t = self.state[group["params"][0]]["step"]
        scale = torch._foreach_sqrt(square)
        torch._foreach_div_(scale, (1 - group["beta2"] ** t) ** 0.5)
        torch._foreach_add_(scale, group["eps"])
        torch._foreach_mul_(scale, 1 - group["beta"] ** t)
        torch._foreach_div_(direction, scale)

    def _average_decay(self, group: dict[str, Any]) -> None:
        """Average the derivative of decay that is added to the gradient, if there ever was any."""
        decay = 0.0 if group["decoupled_weight_decay"] else group["weight_decay"]
        for p in group["params"]:
            if decay or "decay" in self.state[p]:
                old = self.state[p].setdefault("decay", p.new_zeros(()))
                old.mul_(group["beta"]).add_((1 - group["beta"]) * decay)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients and what was observed with them."""
        super().zero_grad(set_to_none)
        if self._observed:
            self._zeta, self._motion, self._observed = None, None, False

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, before the first step only."""
        if self.state:
            raise RuntimeError("CorrectedMomentum takes no more parameters after its first step")
        super().add_param_group(param_group)
        self._zeta, self._motion = None, None
        if self.zeta.is_joint:
            joint_beta([group["beta"] for group in self.param_groups], self.zeta.name)
        self._matrix().check()
        matrices = 1 + self.defaults["follow_target"]
        check_memory(list(self._params()), self.defaults["beta"], self.zeta, matrices, self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state; what was observed since the last step is dropped."""
        for key in ("zeta", "form"):
            saved = {group[key] for group in state_dict["param_groups"]}
            if saved != {self.defaults[key]}:
                raise ValueError(
                    f"the state is of {key}={'|'.join(sorted(saved))}, "
                    f"this optimizer has {key}={self.defaults[key]}"
                )
        super().load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs."""
        return {**super().__getstate__(), "zeta": self.zeta, "guard": self.guard}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy, or a loaded state."""
        super().__setstate__(state)
        self._zeta, self._motion, self._observed = None, None, False

    @property
    def _displacement(self) -> bool:
        return self.defaults["form"] == "displacement"

    def _matrix(self) -> Zeta:
        """Return zeta over the present parameters."""
        if self._zeta is None:
            self._zeta = self._make_zeta(list(self._params()), self.state)
        return self._zeta

    def _target_motion(self) -> TargetMotion | None:
        """Return what follows the target network, if that is wanted."""
        if self._motion is None and self.defaults["follow_target"]:
            self._motion = TargetMotion(list(self._params()), self.state, self._make_zeta)
        return self._motion

    def _matrices(self) -> list[Zeta]:
        motion = self._target_motion()
        return [self._matrix()] if motion is None else [self._matrix(), motion.zeta]

    def _make_zeta(self, params: list[Tensor], state: Any) -> Zeta:
        return _ZETAS[type(self.zeta)](params, state, self.zeta)

    @property
    def _device(self) -> torch.device:
        return next(self._params()).device

    def _params(self) -> Iterator[Tensor]:
        for group in self.param_groups:
            yield from group["params"]

    def _states(self, key: str, params: list[Tensor]) -> list[Tensor]:
        return [self.state[p][key] for p in params]
