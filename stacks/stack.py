"""K runs that learn as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from semigradient.stacks.parts import Stacker, settle


class Stack:
    """K agents of one configuration and different seeds, at the same step.

    Between two calls of `iterate` each of `members` gives its policy; after `settle` also its
    state, which is that of a run by itself.

    Attributes:
        members: the agents, with common timers. They must not iterate by themselves any more.

    Args:
        members: built, and loaded if they continue.

    Raises:
        UserError: a part of the agent has no stacked form.
    """

    def __init__(self, members: Sequence[Any]) -> None:
        self.members = list(members)
        for member in members:  # phases are those of all together
            member.timers = members[0].timers
        self._whole = Stacker().agents(members)

    def iterate(self) -> list[Mapping[str, float | Tensor]]:
        """Collect and learn once in every run; the scalars of each."""
        scalars = self._whole.iterate()
        return [
            {name: _of(value, index) for name, value in scalars.items()}
            for index in range(len(self.members))
        ]

    def settle(self, index: int) -> None:
        """Bring the state of one of the members up to date."""
        settle(self.members[index], self._whole, index)


def _of(value: float | Tensor, index: int) -> float | Tensor:
    return value[index] if isinstance(value, Tensor) and value.ndim else value
