"""The network of policy and value of an agent's config."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from semigradient.errors import require
from semigradient.nets.actor_critic import ActorCritic
from semigradient.nets.distributions import Distribution
from semigradient.registry import NETWORKS
from semigradient.training.agent import AgentContext


class Network(Protocol):
    """Policy and value of one observation; an `nn.Module`, as `nets.actor_critic.ActorCritic`."""

    distribution: Distribution
    shared: bool

    def __call__(self, obs: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Distribution parameters (B, P) and values (B,)."""
        ...

    def policy(self, obs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Distribution parameters (B, P)."""
        ...

    def value(self, obs: Tensor) -> Tensor:
        """Values (B,)."""
        ...


class NetworkConfig(Protocol):
    """Fields of a config that describe its network; see the fields of `agents.ppo.Config`."""

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
        """`auto`, or a name in `registry.NETWORKS`."""
        ...

    @property
    def torso_width(self) -> int:
        """Channels or units per layer of a registered torso."""
        ...

    @property
    def torso_depth(self) -> int:
        """Layers of a registered torso."""
        ...

    @property
    def torso_weights(self) -> str:
        """Run folder to begin with, or nothing."""
        ...


def check(config: NetworkConfig) -> None:
    """`UserError` for a torso that there is not."""
    accepted = ["auto", *NETWORKS.names()]
    is_known = config.torso in accepted
    require(is_known, f"torso={config.torso!r}: accepted are {', '.join(accepted)}")
    require(config.torso_width >= 1, f"torso_width={config.torso_width}: must be ≥ 1")
    require(config.torso_depth >= 0, f"torso_depth={config.torso_depth}: must be ≥ 0")


def actor_critic(setup: AgentContext, config: NetworkConfig, log_std_init: float = 0.0) -> Any:
    """What fits the spaces of the environments, on the agent's device: a `Network`.

    A core whose observations ask for a network of their own names it in `network`.

    Raises:
        UserError: the torso is for other environments, or its weights cannot be read.
    """
    core = getattr(setup.envs, "core", None)
    kind = config.torso if config.torso != "auto" else getattr(core, "network", "")
    if kind:
        return NETWORKS.load(kind)(setup, config).to(setup.device)
    weights = config.torso_weights
    require(not weights, f"torso_weights={weights!r}: are for torso='coconet'")
    observation, action = setup.envs.single_observation_space, setup.envs.single_action_space
    net = ActorCritic(observation, action, config.hidden, config.activation, log_std_init)
    return net.to(setup.device)
