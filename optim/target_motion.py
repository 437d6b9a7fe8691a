"""The part of staleness that comes from a target network which moves on its own.

With a copy theta' of the parameters in the bootstrap, a gradient g_i depends on both:

    g_i(theta_t, theta'_t) ~ g_i + Zb_i^T (theta_t - theta_i) + (Z_i - Zb_i)^T (theta'_t - theta'_i)

with Z of the rows a = b - discount d(bootstrap by theta') and b, and Zb of b and b. Where the copy
is renewed, by a hard copy or an average, its displacement is known exactly, so this is no more of
an approximation than the correction of a moving bootstrap is (E. Bengio, PhD thesis, eq.
4.12-4.19, where theta' = theta). Averages of Z are kept in any form, as those of Zb are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import torch
from torch import Tensor

from semigradient.optim.batched import curvatures
from semigradient.optim.corrections import Names, State, Zeta
from semigradient.optim.temporal_difference import TemporalDifference

PREFIX = "target_"


class TargetMotion:
    """The average of Z beside a target network, and how far that has moved.

    State per parameter: `target_previous`, the copy's parameters at the step before; and what the
    form of zeta keeps, under names that begin with `target_`.
    """

    def __init__(
        self, params: list[Tensor], state: State, make: Callable[[list[Tensor], Any], Zeta]
    ) -> None:
        self.params, self.state = params, state
        self.zeta = make(params, _Views(state))
        self._now: dict[int, Tensor] = {}

    def accumulate(self, batch: TemporalDifference, names: Names, chunk_size: int | None) -> None:
        """Take in a minibatch, if it shows a target network."""
        following = batch.following(curvatures(batch))
        if following is None:
            return
        for part in following.split(chunk_size or batch.size):
            self.zeta.accumulate(part, names, batch.size)
        own = following.bootstrap_values()
        self._now = {i: own[name].clone() for i, name in enumerate(names) if name}

    def apply(self, back: list[Tensor]) -> list[Tensor]:
        """Return zeta^T d' for the copy's way back d' = theta'_{t-1} - theta'_t, and take d' off
        `back`, the way back of the parameters.
        """
        own = []
        for i, p in enumerate(self.params):
            now = self._now.get(i)
            if now is None:
                own.append(torch.zeros_like(p))
                continue
            own.append(self.state[p].get(f"{PREFIX}previous", now) - now)
            self.state[p][f"{PREFIX}previous"] = now
        torch._foreach_sub_(back, own)
        self._now = {}
        return self.zeta.apply(own)


class _Views(dict[Any, Any]):
    """The state of an optimizer; what is written into a parameter's gets the prefix."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self.state = state

    def __missing__(self, parameter: Any) -> _View:
        return _View(self.state[parameter])


class _View(MutableMapping[str, Any]):
    """The entries of one parameter whose names have the prefix."""

    def __init__(self, entries: MutableMapping[str, Any]) -> None:
        self.entries = entries

    def __getitem__(self, key: str) -> Any:
        return self.entries[PREFIX + key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.entries[PREFIX + key] = value

    def __delitem__(self, key: str) -> None:
        del self.entries[PREFIX + key]

    def __iter__(self) -> Iterator[str]:
        return (k.removeprefix(PREFIX) for k in self.entries if k.startswith(PREFIX))

    def __len__(self) -> int:
        return sum(1 for _ in self)
