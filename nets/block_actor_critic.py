"""A policy and a value function over trees of blocks, for learners that step environments."""

from __future__ import annotations

from gymnasium import spaces
from torch import Tensor, nn

from semigradient.nets.block_graph import BlockGraphNetwork, GraphShape
from semigradient.nets.distributions import Distribution, distribution


class BlockActorCritic(nn.Module):
    """The flow network's graph network with logits for flows and a value for the state's flow.

    Has the interface of `nets.actor_critic.ActorCritic`.

    Args:
        shape: of the observations.
        width: of embeddings and layers.
        steps: convolutions.
    """

    def __init__(self, shape: GraphShape, width: int, steps: int) -> None:
        super().__init__()
        actions = shape.stems * shape.entries + 1
        self.distribution: Distribution = distribution(spaces.Discrete(actions), 0.0)
        self.graph = BlockGraphNetwork(shape, width, steps, state_flow=True, normalised=True)
        self.shared = True

    def forward(self, obs: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Distribution parameters (B, P) and values (B,)."""
        outputs = self.graph(obs)
        assert outputs.flow is not None, "the network has a state flow"
        return self.distribution.parameters_of(outputs.forward, mask), outputs.flow

    def policy(self, obs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Distribution parameters (B, P)."""
        return self(obs, mask)[0]

    def value(self, obs: Tensor) -> Tensor:
        """Values (B,)."""
        return self(obs)[1]
