"""Sequences as an environment: its states say their letters, whatever numbers are."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from semigradient.envs.constructions.building import Building, BuildingState
from semigradient.envs.constructions.sequences import Digests, Sequences
from semigradient.envs.core import Step


class SequenceState(NamedTuple):
    """Sequences under construction."""

    number: Tensor  # (B,) int64, and so on: see `envs.constructions.building.BuildingState`
    steps: Tensor
    stopped: Tensor
    letters: Tensor  # (B, L) int64, -1 beyond the end


class SequenceBuilding(Building):
    """`semigradient/BitSequences-v0` and `semigradient/Sequences-v0`.

    As `envs.constructions.building.Building`, whose docstring has the spaces. States hold their
    letters, so that a saved one is understood by a process that has not met it.
    """

    rules: Sequences

    def reset(
        self,
        n: int,
        generator: torch.Generator | None = None,
        state: int | list[int] | Tensor | None = None,
    ) -> Any:
        """`n` empty sequences, or the given states."""
        return self._whole(super().reset(n, generator, state))

    def step(self, state: Any, actions: Tensor, generator: torch.Generator | None = None) -> Step:
        """Add letters. Actions are (B,)."""
        self.rules.evict_unused(lambda: self._known(state).number[:0])
        step = super().step(self._known(state), actions, generator)
        return step._replace(state=self._whole(cast(BuildingState, step.state)))

    def observe(self, state: Any) -> Tensor:
        """(B, D) float32."""
        return super().observe(self._known(state))

    def info(self, state: Any) -> dict[str, Tensor]:
        """Mask of legal actions (B, A), state and log-reward (B,), 0 before the end."""
        number, rules = self._known(state).number, self.rules
        done, log_reward = rules.finished(number), torch.zeros(len(number), dtype=torch.float64)
        log_reward = log_reward.to(self.device)
        log_reward[done] = rules.log_reward(number[done])
        return {"action_mask": rules.legal(number), "state": number, "log_reward": log_reward}

    def render(self, state: Any) -> list[np.ndarray]:
        """Letters as columns of cells."""
        return super().render(self._known(state))

    def _known(self, state: SequenceState) -> BuildingState:
        """A state whose numbers the rules remember."""
        numbers = self.rules.numbers
        if isinstance(numbers, Digests):
            numbers.note(state.number.cpu().numpy(), state.letters.cpu().numpy())
        return BuildingState(*state[:3])

    def _whole(self, state: BuildingState) -> SequenceState:
        return SequenceState(*state, self.rules.sequence(state.number).letters)
