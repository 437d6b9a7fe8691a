"""The parts that a config of deep Q-learning asks for: network, memory, exploration, phases."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces

from semigradient.agents.dqn_config import Config
from semigradient.agents.q_exploration import EpsilonGreedy, Exploration, Falling, NoisyValues
from semigradient.agents.q_heads import QHead
from semigradient.envs.clock import clock_of
from semigradient.errors import UserError, not_stacked, require
from semigradient.nets import torso
from semigradient.nets.q_network import QNetwork
from semigradient.nets.score_network import ScoreQNetwork, ScoreTrunk
from semigradient.training.agent import AgentContext, generator
from semigradient.training.exploration import Noise, NoiseConfig
from semigradient.training.prioritised_replay import Priorities, PrioritisedReplay
from semigradient.training.replay import Replay


def require_single(config: Config, head: QHead, space: spaces.Space) -> None:
    """`UserError` for options that several choices side by side do not have."""
    chosen = {
        "dueling=True": config.dueling,
        f"distribution={config.distribution!r}": config.distribution != "none",
    }
    for option, is_chosen in chosen.items():
        is_valid = head.is_single or not is_chosen
        require(is_valid, f"{option}: accepts Discrete actions, not {space}")


def refuse_in_stacks(config: Config, runs: int) -> None:
    """`UserError` for options that runs that learn as one do not have."""
    kind = config.distribution
    if kind != "none":
        not_stacked(runs, f"distribution={kind!r}")


def make_network(config: Config, setup: AgentContext, outputs: int) -> QNetwork | ScoreQNetwork:
    """(B, *observation) → (B, outputs), on the device."""
    space, width, depth = (
        setup.envs.single_observation_space,
        config.torso_width,
        config.torso_depth,
    )
    if config.torso == "coconet":
        return ScoreQNetwork(ScoreTrunk(space, outputs, width, depth)).to(setup.device)
    make_torso = partial(torso, kind=config.torso, channels=width, depth=depth)
    layers = config.hidden, config.activation, config.dueling
    return QNetwork(space, outputs, *layers, make_torso, config.layer_norm).to(setup.device)


def make_memory(config: Config, setup: AgentContext) -> Replay:
    """The replay memory; a minimal one where nothing is learned."""
    envs = setup.envs
    make: Any = Replay
    if config.replay == "prioritised":
        priorities = Priorities(config.priority_exponent, config.priority_correction)
        make = partial(PrioritisedReplay, priorities, config.n_step)
    return make(
        config.buffer_size if setup.learning else envs.num_envs,
        envs.num_envs,
        envs.single_observation_space,
        envs.single_action_space,
        setup.device,
        stacked=envs.stacked_frames,
    )


def make_exploration(
    config: Config,
    setup: AgentContext,
    head: QHead,
    count: int,
    epsilon: Falling,
    streams: tuple[int, int],
) -> Exploration:
    """Exploration of `count` environments; `streams` of the generators of ε and of noise."""
    if config.exploration == "epsilon":
        return EpsilonGreedy(head, epsilon, np.random.default_rng((setup.seed, streams[0])))
    kind = NoiseConfig(config.exploration, config.kappa, config.sigma)
    shape, dt = (count, head.outputs), clock_of(setup.envs).dt
    random = generator(setup.seed, streams[1], setup.device)
    return NoisyValues(head, Noise(kind, shape, dt, random))


def phase(config: Config, num_envs: int) -> tuple[int, int]:
    """(gradient steps, vector steps) of a phase, keeping gradient steps per environment step."""
    every = config.train_every
    if every % num_envs == 0:
        return config.gradient_steps, every // num_envs
    if num_envs % every == 0:
        return config.gradient_steps * num_envs // every, 1
    raise UserError(f"train_every={every}: must be a multiple or a divisor of num_envs={num_envs}")
