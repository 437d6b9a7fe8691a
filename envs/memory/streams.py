"""The tasks for memory as supervised streams: inputs, targets, and where they count.

A stream is B sequences side by side, which go on wherever the last call of `take` has stopped.
Its state is a few tensors and a generator, so it continues exactly from a checkpoint.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from semigradient.envs import OURS, check_id
from semigradient.envs.core import resolve
from semigradient.envs.memory.source import Source
from semigradient.errors import UserError


class Batch(NamedTuple):
    """T steps of B sequences."""

    inputs: Tensor  # (T, B, S) float32: symbols one-hot, numbers as they are
    targets: Tensor  # (T, B) int64: symbols; (T, B, 1) float32: numbers
    is_learned: Tensor  # (T, B) bool: whether a target counts in the loss
    is_first: Tensor  # (T, B) bool: whether a sequence begins


class Stream:
    """B sequences of a source.

    Args:
        source: of the symbols.
        batch: B.
        seed: of the stream's own generator.
        cut: whether sequences without end begin anew after the `length` of an episode.
        device: where the tensors live.
    """

    def __init__(
        self,
        source: Source,
        batch: int,
        seed: int,
        cut: bool = True,
        device: str | torch.device = "cpu",
    ) -> None:
        self.source, self.cut, self.device = source, cut, torch.device(device)
        self.generator = torch.Generator(self.device)
        self.generator.manual_seed(seed)
        self.state = source.start(batch, self.generator, self.device)
        self.is_first = torch.ones(batch, dtype=torch.bool, device=self.device)
        self._nowhere = torch.zeros_like(self.is_first)

    def take(self, steps: int) -> Batch:
        """The next `steps` steps."""
        states, firsts = [], []
        for _ in range(steps):
            states.append(self.state)
            firsts.append(self.is_first)
            self._advance()
        # What is shown is worked out for all steps at once, which is several times as fast.
        columns = [torch.cat(column) for column in zip(*states, strict=True)]
        shown = self.source.emit(type(self.state)(*columns))
        symbol = shown.symbol
        if not symbol.is_floating_point():
            symbol = torch.nn.functional.one_hot(symbol, len(self.source.names)).float()
        size = (steps, len(self.is_first))
        return Batch(
            symbol.unflatten(0, size),
            shown.target.unflatten(0, size),
            shown.is_learned.unflatten(0, size),
            torch.stack(firsts),
        )

    def whole(self) -> Batch:
        """Sequences from their beginning, `length` steps of each; nothing counts after an end."""
        batch = len(self.is_first)
        self.state = self.source.start(batch, self.generator, self.device)
        self.is_first = ~self._nowhere
        taken = self.take(self.source.length)
        is_there = taken.is_first.cumsum(0) == 1
        return taken._replace(is_learned=taken.is_learned & is_there)

    def state_dict(self) -> dict[str, Any]:
        """All that decides what is taken next."""
        return {
            "generator": self.generator.get_state(),
            "is_first": self.is_first.cpu().clone(),
            "state": {name: value.cpu().clone() for name, value in self.state._asdict().items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state."""
        self.generator.set_state(state["generator"].clone())
        self.is_first = state["is_first"].clone().to(self.device)
        saved = {name: value.clone().to(self.device) for name, value in state["state"].items()}
        self.state = type(self.state)(**saved)

    def _advance(self) -> None:
        """Move on, and begin anew what has ended."""
        state = self.source.advance(self.state, self.generator)
        if self.source.is_endless and not self.cut:
            self.state, self.is_first = state, self._nowhere
            return
        if self.source.is_endless:
            is_over = state.step >= self.source.length
        else:
            is_over = self.source.is_over(state)
        ended = is_over.nonzero()[:, 0]
        if len(ended):
            fresh = self.source.start(len(ended), self.generator, self.device)
            pairs = zip(state, fresh, strict=True)
            state = type(state)(*(old.index_copy(0, ended, new) for old, new in pairs))
        self.state, self.is_first = state, is_over


def make(env_id: str, batch: int, seed: int, cut: bool = True, **options: Any) -> Stream:
    """A stream of the sequences of an environment.

    Args:
        env_id: such as semigradient/Copy-v0.
        batch, seed, cut: of the stream.
        options: of the environment.

    Raises:
        UserError: an environment that is not made of sequences, or an odd option.
    """
    name = check_id(env_id).id
    core: Any = resolve(OURS[name], options) if name in OURS else None
    source = getattr(core, "source", core)
    if not hasattr(source, "emit"):
        accepted = [f"{name}" for name, where in OURS.items() if ".memory." in where]
        accepted.remove("semigradient/InfluenceBalance-v0")
        raise UserError(f"environment {env_id!r}: is no stream; accepted are {', '.join(accepted)}")
    return Stream(source, batch, seed, cut)
