"""The momentum that corrected momentum approximates: old minibatches at the present parameters.

    mu*_t = (1 - beta) sum_{i <= t} beta^(t - i) g_i(theta_t)

with targets recomputed, too. It costs one evaluation of all kept minibatches per step, and is
meant as a reference. On the same data every step it is gradient descent with a warm-up.

Source: E. Bengio, PhD thesis, eq. 4.6, 4.21 (exact and over a window of 2 / (1 - beta)).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from semigradient.optim.batched import semi_gradient
from semigradient.optim.foreach import decay_weights, descend, evaluate
from semigradient.optim.temporal_difference import TemporalDifference


class OracleMomentum(torch.optim.Optimizer):
    """theta_{t+1} = theta_t - lr mu*_t over the last `window` minibatches and the present one.

    Every `step` needs one `observe` before it, of a minibatch with its `target`. What is kept is
    their tensors: all of them are evaluated with the functions, the module and the
    loss of the latest, so these must not hold anything of their own minibatch (the greedy action
    of a next state, say, belongs into the bootstrap's function if it is to be recomputed).
    Parameters that the module lacks get plain momentum. `window=0` stands for 2 / (1 - beta),
    rounded up (which drops 1 - beta^(window + 1) < 1 of the weights, by 0.11 to 0.13 for usual
    betas); None keeps every minibatch.

    State per parameter, of its shape: `mu`, the last average. The first parameter also holds
    `minibatches`: the tensors of the kept samples, each sample's `share` of mu*, and the `sizes` of
    the minibatches.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor,
        beta: float = 0.9,
        *,
        window: int | None = 0,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
    ) -> None:
        if window is not None and window == 0:
            window = math.ceil(round(2 / (1 - beta), 9))
        self._batch: TemporalDifference | None = None
        super().__init__(
            params,
            {
                "lr": lr,
                "beta": beta,
                "window": window,
                "weight_decay": weight_decay,
                "decoupled_weight_decay": decoupled_weight_decay,
            },
        )

    def observe(self, batch: TemporalDifference) -> None:
        """Take in the minibatch of this step."""
        batch.require_target("OracleMomentum")
        if self._batch is not None:
            raise RuntimeError("OracleMomentum takes one minibatch per step")
        self._batch = batch

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter; return the closure's loss (the closure also observes)."""
        loss = evaluate(closure)
        if self._batch is None:
            raise RuntimeError(
                "OracleMomentum.step() needs the minibatch: call "
                "optimizer.observe(TemporalDifference(...)) between backward() and step()"
            )
        self._remember(self._batch)
        batch, share = self._kept(self._batch)
        names = {id(p): name for name, p in batch.parameters().items()}
        gradient = semi_gradient(batch, share)
        for group in self.param_groups:
            self._update(group, {p: gradient.get(names.get(id(p), "")) for p in group["params"]})
        self._batch = None
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients and what was observed with them."""
        super().zero_grad(set_to_none)
        self._batch = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state; what was observed since the last step is dropped."""
        entries = {key: dict(entry) for key, entry in state_dict["state"].items()}
        # torch would turn the samples, which may be integers, into the parameters' type.
        kept = [entry.pop("minibatches") for entry in entries.values() if "minibatches" in entry]
        super().load_state_dict({**state_dict, "state": entries})
        if kept:
            first = next(self._params())
            move = {k: v.to(first.device) for k, v in kept[0].items() if isinstance(v, Tensor)}
            self.state[first]["minibatches"] = {**kept[0], **move}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy, or a loaded state."""
        super().__setstate__(state)
        self._batch = None

    def _remember(self, batch: TemporalDifference) -> None:
        """Store the minibatch, and drop those that have left the window."""
        beta, window = self.defaults["beta"], self.defaults["window"]
        new = _tensors(batch)
        first = next(self._params())
        new["share"] = first.new_full((batch.size,), (1 - beta) / batch.size)
        state = self.state[first]
        old = state.get("minibatches")
        if old is None:
            state["minibatches"] = {**new, "sizes": [batch.size]}
            return
        if (had := old.keys() - {"sizes"}) != new.keys():
            raise ValueError(f"OracleMomentum: minibatches of {sorted(had)}, then {sorted(new)}")
        sizes = [*old["sizes"], batch.size]
        kept = sizes if window is None else sizes[-window - 1 :]
        drop = sum(sizes) - sum(kept)
        tensors = {key: torch.cat([old[key][drop:], new[key]]) for key in had - {"share"}}
        share = torch.cat([beta * old["share"][drop:], new["share"]])
        state["minibatches"] = {**tensors, "share": share, "sizes": list(kept)}

    def _kept(self, latest: TemporalDifference) -> tuple[TemporalDifference, Tensor]:
        """Return all kept minibatches as one, with the functions of the latest, and the shares."""
        kept = self.state[next(self._params())]["minibatches"]
        fields: dict[str, Any] = {
            name: kept[name] for name in ("discount", "weight", "target") if name in kept
        }
        fields["samples"] = {name: kept[f"samples.{name}"] for name in latest.samples}
        if isinstance(latest.bootstrap, Mapping):
            fields["bootstrap"] = {name: kept[f"bootstrap.{name}"] for name in latest.bootstrap}
        return dataclasses.replace(latest, **fields), kept["share"]

    def _update(self, group: dict[str, Any], gradient: dict[Tensor, Tensor | None]) -> None:
        """Form the averages of one group and step along them."""
        params = group["params"]
        for p in params:
            if "mu" not in self.state[p]:
                self.state[p]["mu"] = torch.zeros_like(p)
        mass = self.state[next(self._params())]["minibatches"]["share"].sum()
        for p in params:
            mu, own = self.state[p]["mu"], gradient[p]
            if own is not None:
                mu.copy_(own)
                if not group["decoupled_weight_decay"]:
                    # Old gradients, too, are those at the present parameters, decay included.
                    mu.add_(p * mass, alpha=group["weight_decay"])
        foreign = [p for p in params if gradient[p] is None]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in foreign]
        if group["decoupled_weight_decay"]:
            decay_weights(group, params, grads)
        else:
            grads = decay_weights(group, foreign, grads)
        if foreign:
            mu = [self.state[p]["mu"] for p in foreign]
            torch._foreach_lerp_(mu, grads, 1 - group["beta"])
        descend(group["lr"], params, [self.state[p]["mu"] for p in params])

    def _params(self) -> Iterator[Tensor]:
        for group in self.param_groups:
            yield from group["params"]


def _tensors(batch: TemporalDifference) -> dict[str, Tensor]:
    """Return the minibatch's tensors by name, without graphs."""
    tensors = {f"samples.{name}": value for name, value in batch.samples.items()}
    if isinstance(batch.bootstrap, Mapping):
        tensors |= {f"bootstrap.{name}": value for name, value in batch.bootstrap.items()}
    for name in ("discount", "weight", "target"):
        if (value := getattr(batch, name)) is not None:
            tensors[name] = value
    return {name: value.detach() for name, value in tensors.items()}
