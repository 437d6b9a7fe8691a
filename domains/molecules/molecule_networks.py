"""Networks for observations of molecules of blocks."""

from __future__ import annotations

from semigradient.domains.flows.constructions import blocks_of, graph_shape
from semigradient.errors import UserError, require
from semigradient.nets.block_actor_critic import BlockActorCritic
from semigradient.training.actor_critic import NetworkConfig
from semigradient.training.agent import AgentContext


def actor_critic(setup: AgentContext, config: NetworkConfig) -> BlockActorCritic:
    """Policy and value over trees of blocks: `torso_width` wide, `torso_depth` convolutions.

    Raises:
        UserError: the environment builds no molecules, or weights are given.
    """
    molecules = blocks_of(setup)
    if molecules is None:
        raise UserError("torso='blocks': is for semigradient/Molecule-v0 and its relatives")
    weights = config.torso_weights
    require(not weights, f"torso_weights={weights!r}: are for torso='coconet'")
    return BlockActorCritic(graph_shape(molecules), config.torso_width, config.torso_depth)
