"""The network of a flow network: one perceptron, or two, over features of states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from semigradient.nets.bricks import mlp
from semigradient.nets.recalled import recalled


class FlowOutputs(NamedTuple):
    """Raw outputs at m states; what an objective does not need is None."""

    forward: Tensor  # (m, A) log edge flows, or logits of the forward policy
    backward: Tensor | None  # (m, K) logits of the backward policy
    flow: Tensor | None  # (m,) log state flow


class FlowNetwork(nn.Module):
    """Features (m, D) → `FlowOutputs`.

    Args:
        width: D.
        actions: A.
        in_degree: K of the learned backward policy; 0 for none.
        state_flow: whether the log flow of states is an output.
        hidden: widths of the hidden layers.
        activation: nonlinearity between them.
        separate_backward: a perceptron of its own for the backward policy.
    """

    def __init__(
        self,
        width: int,
        actions: int,
        in_degree: int,
        state_flow: bool,
        hidden: Sequence[int],
        activation: str,
        separate_backward: bool = False,
    ) -> None:
        super().__init__()
        shared = 0 if separate_backward else in_degree
        self.splits = (actions, shared, int(state_flow))
        self.trunk = mlp((width, *hidden, sum(self.splits)), activation)
        self.behind: nn.Sequential | None = None
        if separate_backward and in_degree:
            self.behind = mlp((width, *hidden, in_degree), activation)

    def forward(self, features: Tensor, known: Sequence[Tensor] | None = None) -> FlowOutputs:
        """Outputs at m states.

        Args:
            features: (m, D).
            known: what the trunk's layers give there, where that has been computed; see
                `nets.recalled`.
        """
        outputs = self.trunk(features) if known is None else recalled(self.trunk, features, known)
        forward, backward, flow = outputs.split(self.splits, 1)
        if self.behind is not None:
            backward = self.behind(features)
        return FlowOutputs(
            forward,
            backward if backward.shape[1] else None,
            flow.squeeze(1) if flow.shape[1] else None,
        )
