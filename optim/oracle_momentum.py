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

    Every `step` needs an `observe` before it, of a minibatch with its `target`; several between two
    steps are several losses, the same ones in the same order at every step. What is kept is their
    tensors: all of them are evaluated with the functions, the module and the
    loss of the latest, so these must not hold anything of their own minibatch (the greedy action
    of a next state, say, belongs into the bootstrap's function if it is to be recomputed).
    Parameters that the module lacks get plain momentum, and so does the rest of the gradient where
    a minibatch's loss is `partial`. `window=0` stands for 2 / (1 - beta),
    rounded up (which drops 1 - beta^(window + 1) < 1 of the weights, by 0.11 to 0.13 for usual
    betas); None keeps every minibatch.

    State per parameter, of its shape: `mu`, the last average; `rest`, that of other terms of a
    partial loss. The first parameter also holds `minibatches` (`minibatches1`, … of further ones):
    the tensors of the kept samples, each sample's `share` of mu*, and the minibatches' `sizes`.
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
        self._batches: list[TemporalDifference] | None = None
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
        """Take in a minibatch of this step."""
        batch.require_target("OracleMomentum")
        self._batches = [*(self._batches or ()), batch]

    def pass_over(self) -> None:
        """Take the next step without a minibatch: its gradients are averaged as they are."""
        self._batches = []

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter; return the closure's loss (the closure also observes)."""
        loss = evaluate(closure)
        if self._batches is None:
            raise RuntimeError(
                "OracleMomentum.step() needs the minibatch: call "
                "optimizer.observe(TemporalDifference(...)) between backward() and step()"
            )
        gradient: dict[Tensor, Tensor] = {}
        for number, batch in enumerate(self._batches):
            self._add(number, batch, gradient)
        for group in self.param_groups:
            self._update(group, {p: gradient.get(p) for p in group["params"]})
        self._batches = None
        return loss

    def _add(self, number: int, batch: TemporalDifference, gradient: dict[Tensor, Tensor]) -> None:
        """Remember the minibatch and add the average of its like to `gradient`."""
        key = f"minibatches{number or ''}"
        self._remember(key, batch)
        kept, share = self._kept(key, batch)
        params = {name: p for name, p in batch.parameters().items() if self._is_mine(p)}
        average = semi_gradient(kept, share)
        rest = self._rest(batch, params) if batch.partial else {}
        for name, p in params.items():
            own = average[name] + rest[name] if name in rest else average[name]
            gradient[p] = gradient[p] + own if p in gradient else own

    def _rest(self, batch: TemporalDifference, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """Average what the gradient holds beyond that of the minibatch."""
        own, beta = semi_gradient(batch), self.param_groups[0]["beta"]
        for name, p in params.items():
            rest = self.state[p].setdefault("rest", torch.zeros_like(p))
            if p.grad is not None:
                rest.lerp_(p.grad - own[name], 1 - beta)
        return {name: self.state[p]["rest"] for name, p in params.items()}

    def _is_mine(self, parameter: Tensor) -> bool:
        return any(parameter is p for p in self._params())

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients and what was observed with them."""
        super().zero_grad(set_to_none)
        self._batches = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state; what was observed since the last step is dropped."""
        entries = {key: dict(entry) for key, entry in state_dict["state"].items()}
        # torch would turn the samples, which may be integers, into the parameters' type.
        kept = {
            key: entry.pop(key)
            for entry in entries.values()
            for key in [key for key in entry if str(key).startswith("minibatches")]
        }
        super().load_state_dict({**state_dict, "state": entries})
        first = next(self._params())
        for key, tensors in kept.items():
            move = {k: v.to(first.device) for k, v in tensors.items() if isinstance(v, Tensor)}
            self.state[first][key] = {**tensors, **move}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy, or a loaded state."""
        super().__setstate__(state)
        self._batches = None

    def _remember(self, key: str, batch: TemporalDifference) -> None:
        """Store the minibatch, and drop those that have left the window."""
        beta, window = self.param_groups[0]["beta"], self.defaults["window"]
        new = _tensors(batch)
        first = next(self._params())
        new["share"] = first.new_full((batch.size,), (1 - beta) / batch.size)
        state = self.state[first]
        old = state.get(key)
        if old is None:
            # Copies: what is shown may be a view of a rollout, which the next one overwrites.
            state[key] = {name: rows.clone() for name, rows in new.items()}
            state[key]["sizes"] = [batch.size]
            return
        if (had := old.keys() - {"sizes"}) != new.keys():
            raise ValueError(f"OracleMomentum: minibatches of {sorted(had)}, then {sorted(new)}")
        sizes = [*old["sizes"], batch.size]
        kept = sizes if window is None else sizes[-window - 1 :]
        drop = sum(sizes) - sum(kept)
        tensors = {name: torch.cat([old[name][drop:], new[name]]) for name in had - {"share"}}
        share = torch.cat([beta * old["share"][drop:], new["share"]])
        state[key] = {**tensors, "share": share, "sizes": list(kept)}

    def _kept(self, key: str, latest: TemporalDifference) -> tuple[TemporalDifference, Tensor]:
        """Return all kept minibatches as one, with the functions of the latest, and the shares."""
        kept = self.state[next(self._params())][key]
        fields: dict[str, Any] = {
            name: kept[name] for name in ("discount", "weight", "target") if name in kept
        }
        fields["samples"] = {name: kept[f"samples.{name}"] for name in latest.samples}
        if isinstance(latest.bootstrap, Mapping):
            fields["bootstrap"] = {name: kept[f"bootstrap.{name}"] for name in latest.bootstrap}
        fields["target_network"] = None  # its values are within the kept targets
        return dataclasses.replace(latest, **fields), kept["share"]

    def _update(self, group: dict[str, Any], gradient: dict[Tensor, Tensor | None]) -> None:
        """Form the averages of one group and step along them."""
        params = group["params"]
        for p in params:
            if "mu" not in self.state[p]:
                self.state[p]["mu"] = torch.zeros_like(p)
        kept = self.state[next(self._params())].get("minibatches", {"share": torch.zeros(())})
        mass = kept["share"].sum()
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
