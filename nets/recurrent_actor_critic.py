"""Policy and value on one recurrent state, as `gradients.recurrent` takes networks."""

from __future__ import annotations

import torch
from gymnasium import spaces
from torch import Tensor, nn

from semigradient.nets.cells import Cell, Headed
from semigradient.nets.distributions import Distribution, distribution


class RecurrentActorCritic(nn.Module):
    """(x, s) → (o, s'): o holds the parameters of the policy's distribution, then the value.

    Args:
        cell: from vectors x to states s.
        action: of the environment.
        log_std_init: initial log standard deviation of continuous actions.

    Attributes:
        width: of the state.
        distribution: of actions.
    """

    def __init__(self, cell: Cell, action: spaces.Space, log_std_init: float = 0.0) -> None:
        super().__init__()
        self.distribution: Distribution = distribution(action, log_std_init)
        headed = Headed(cell, self.distribution.outputs + 1)
        self.cell, self.width, self.head = cell, headed.width, headed.head
        # A policy that begins nearly uniform, and values near nothing.
        self.head.detach().mul_(0.1)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (…, P + 1) and the next state (…, width)."""
        state = self.cell(x, state)
        return self.output(state), state

    def output(self, state: Tensor) -> Tensor:
        """(…, P + 1) of a state that was reached."""
        shown = self.cell.read(state)
        raw = torch.cat((shown, torch.ones_like(shown[..., :1])), -1) @ self.head.mT
        return torch.cat((self.distribution.parameters_of(raw[..., :-1]), raw[..., -1:]), -1)

    def split(self, output: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Distribution parameters (…, P), of legal actions (…, A) only, and values (…,)."""
        parameters, value = output[..., :-1], output[..., -1]
        if mask is not None:  # then actions are discrete, and parameters are logits
            parameters = self.distribution.parameters_of(parameters, mask)
        return parameters, value
