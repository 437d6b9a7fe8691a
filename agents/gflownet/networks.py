"""The network of flows for a construction: on features, or on the graphs of molecules."""

from __future__ import annotations

from functools import partial

from semigradient.agents.gflownet.config import Config
from semigradient.domains.flows.constructions import graph_shape
from semigradient.envs.constructions.construction import Construction
from semigradient.envs.molecules.block_molecules import BlockMolecules
from semigradient.errors import require
from semigradient.nets.block_graph import BlockGraphNetwork
from semigradient.nets.flow_network import ConditionalFlowNetwork, FlowNetwork

Network = FlowNetwork | BlockGraphNetwork | ConditionalFlowNetwork


def make_network(rules: Construction, config: Config) -> Network:
    """An untrained network with the outputs that the objective asks for."""
    if isinstance(rules, BlockMolecules):
        shown = f"exponent_range={config.exponent_range}"
        require(not config.exponent_range, f"{shown}: not for molecules, whose network sees graphs")
        return graph_network(rules, config)
    if config.exponent_range:
        low, high = config.exponent_range
        make = partial(feature_network, rules, config)
        return ConditionalFlowNetwork(low, high, make, rules.width)
    return feature_network(rules, config, rules.width)


def feature_network(rules: Construction, config: Config, width: int) -> FlowNetwork:
    """A perceptron on features of a width."""
    return FlowNetwork(
        width,
        rules.actions,
        rules.in_degree if config.backward == "learned" else 0,
        config.objective.has_state_flows,
        config.hidden,
        config.activation,
        config.separate_backward,
    )


def graph_network(rules: BlockMolecules, config: Config) -> BlockGraphNetwork:
    """The network of a vocabulary."""
    network = BlockGraphNetwork(
        graph_shape(rules),
        config.graph_width,
        config.graph_steps,
        config.objective.has_state_flows,
        config.graph_form == "normalised",
        config.bidirectional,
    )
    return network.double() if config.double else network
