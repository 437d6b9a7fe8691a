"""Coconet as the network of agents on scores."""

from __future__ import annotations

from gymnasium import spaces

from semigradient.domains.music.trained_coconet import network, trained_grid
from semigradient.envs.music.chorale_setting import check_grid
from semigradient.errors import UserError
from semigradient.nets.score_network import ScoreActorCritic, ScoreTrunk
from semigradient.training.actor_critic import NetworkConfig
from semigradient.training.agent import AgentContext


def actor_critic(setup: AgentContext, config: NetworkConfig) -> ScoreActorCritic:
    """Policy and value: `torso_width` channels, `torso_depth` layers beyond six.

    With `torso_weights`, the folder of a Coconet's run, its layers and sizes are used instead.

    Raises:
        UserError: the spaces are those of other environments, or the folder cannot be read.
    """
    observation, action = setup.envs.single_observation_space, setup.envs.single_action_space
    if not isinstance(action, spaces.Discrete):
        raise UserError(f"torso='coconet': is for Discrete actions, not {action}")
    trained = network(config.torso_weights) if config.torso_weights else None
    setting = getattr(getattr(setup.envs, "core", None), "setting", None)
    if trained is not None and setting is not None:
        what = f"torso_weights={config.torso_weights!r}"
        check_grid(what, trained_grid(config.torso_weights), setting.grid)
    size = (config.torso_width, config.torso_depth)
    trunk = ScoreTrunk(observation, int(action.n), *size, trained)
    return ScoreActorCritic(trunk, int(action.n))
