"""Policy and value on one recurrent state, as `gradients.recurrent` takes networks."""

from __future__ import annotations

import torch
from gymnasium import spaces
from torch import Tensor

from semigradient.nets.cells import Cell, Headed
from semigradient.nets.distributions import Distribution, distribution


class RecurrentActorCritic(Headed):
    """(x, s) → (o, s'): o holds the P parameters of the policy's distribution, then the value.

    Args:
        cell: from vectors x to states s.
        action: of the environment.
        log_std_init: initial log standard deviation of continuous actions.

    Attributes:
        width: of the state.
        distribution: of actions.
    """

    def __init__(self, cell: Cell, action: spaces.Space, log_std_init: float = 0.0) -> None:
        of_action: Distribution = distribution(action, log_std_init)
        super().__init__(cell, of_action.outputs + 1)
        self.distribution = of_action
        # A policy that begins nearly uniform, and values near nothing.
        self.head.detach().mul_(0.1)

    def output(self, state: Tensor) -> Tensor:
        """(…, P + 1) of a state that was reached."""
        raw = super().output(state)
        return torch.cat((self.distribution.parameters_of(raw[..., :-1]), raw[..., -1:]), -1)

    def split(self, output: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Distribution parameters (…, P), of legal actions (…, A) only, and values (…,)."""
        parameters, value = output[..., :-1], output[..., -1]
        if mask is not None:  # then actions are discrete, and parameters are logits
            parameters = self.distribution.parameters_of(parameters, mask)
        return parameters, value
