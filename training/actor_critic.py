"""The network of policy and value that an agent's config asks for."""

from __future__ import annotations

from typing import Protocol

from gymnasium import spaces

from errors import UserError, require
from nets.actor_critic import ActorCritic
from nets.block_actor_critic import BlockActorCritic
from nets.score_network import ScoreActorCritic, ScoreTrunk
from training.agent import Setup
from training.constructions import blocks_of, graph_shape
from training.trained_coconet import network

Network = ActorCritic | BlockActorCritic | ScoreActorCritic

TORSOS = ("auto", "coconet")


class Wishes(Protocol):
    """What a config says about its network; see the fields of `agents.ppo.Config`."""

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of hidden layers."""
        ...

    @property
    def activation(self) -> str:
        """Their nonlinearity."""
        ...

    @property
    def torso(self) -> str:
        """A key of `TORSOS`."""
        ...

    @property
    def torso_width(self) -> int:
        """Channels of Coconet, width of the network of molecules."""
        ...

    @property
    def torso_depth(self) -> int:
        """Layers of Coconet beyond six, convolutions over a molecule."""
        ...

    @property
    def torso_weights(self) -> str:
        """Run folder to begin with, or nothing."""
        ...


def check(wishes: Wishes) -> None:
    """`UserError` for a torso that there is not."""
    good = wishes.torso in TORSOS
    require(good, f"torso={wishes.torso!r}: accepted are {', '.join(TORSOS)}")
    require(wishes.torso_width >= 1, f"torso_width={wishes.torso_width}: must be ≥ 1")
    require(wishes.torso_depth >= 0, f"torso_depth={wishes.torso_depth}: must be ≥ 0")
    good = not wishes.torso_weights or wishes.torso == "coconet"
    require(good, f"torso_weights={wishes.torso_weights!r}: are for torso='coconet'")


def actor_critic(setup: Setup, wishes: Wishes, log_std_init: float = 0.0) -> Network:
    """What fits the spaces of the environments, on the agent's device.

    Raises:
        UserError: the torso is for other environments, or its weights cannot be read.
    """
    observation, action = setup.envs.single_observation_space, setup.envs.single_action_space
    size = (wishes.torso_width, wishes.torso_depth)
    molecules = blocks_of(setup)
    if wishes.torso == "auto" and molecules is not None:
        return BlockActorCritic(graph_shape(molecules), *size).to(setup.device)
    if wishes.torso != "coconet":
        net = ActorCritic(observation, action, wishes.hidden, wishes.activation, log_std_init)
        return net.to(setup.device)
    if not isinstance(action, spaces.Discrete):
        raise UserError(f"torso='coconet': is for Discrete actions, not {action}")
    trained = network(wishes.torso_weights) if wishes.torso_weights else None
    trunk = ScoreTrunk(observation, int(action.n), *size, trained)
    return ScoreActorCritic(trunk, int(action.n)).to(setup.device)
