"""The network of flows for a construction: on features, or on the graphs of molecules."""

from __future__ import annotations

from functools import partial

import torch

from semigradient.agents.gflownet.config import Config
from semigradient.domains.flows.constructions import graph_shape
from semigradient.envs.constructions.construction import Construction, Table
from semigradient.envs.molecules.block_molecules import BlockMolecules
from semigradient.errors import require
from semigradient.nets.block_graph import BlockGraphNetwork
from semigradient.nets.flow_network import ConditionalFlowNetwork, FlowNetwork

Network = FlowNetwork | BlockGraphNetwork | ConditionalFlowNetwork


def make_network(rules: Construction, config: Config) -> Network:
    """An untrained network with the outputs that the objective asks for."""
    if isinstance(rules, BlockMolecules):
        shown = f"exponent_range={config.exponent_range}, preferences={config.preferences}"
        plain = config.condition_range is None
        require(plain, f"{shown}: not for molecules, whose network sees graphs")
        return graph_network(rules, config)
    if config.condition_range is not None:
        low, high = config.condition_range
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


def require_a_match(config: Config, rules: Construction) -> None:
    """What of the config does not fit the construction."""
    root, is_table = torch.tensor([rules.root], device=rules.device), isinstance(rules, Table)
    require(
        not config.objective.stops_everywhere or bool(rules.legal(root)[0, -1]),
        f"loss={config.loss!r}: needs every state to allow stopping, which the empty one does not",
    )
    require(
        config.backward != "learned" or rules.in_degree > 0,
        "backward='learned': molecules have no bounded number of parents; accepted are "
        "uniform, tree",
    )
    require(
        not config.preferences or rules.objectives == 2,
        "preferences=True: needs two objectives, such as --env-options second=sparse",
    )
    require(
        config.offline != "uniform-objects" or is_table,
        "offline='uniform-objects': needs a construction that can be enumerated",
    )
    require(
        config.exact_parents or is_table,
        "exact_parents=False: needs a construction that can be enumerated",
    )
