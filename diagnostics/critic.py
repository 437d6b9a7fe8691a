"""The critic of an actor-critic as an `Experience`: its regression on the last rollout."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from semigradient.diagnostics.examples import Examples, Experience, last_hidden
from semigradient.envs import ExactVector
from semigradient.training.corrections import critic_difference
from semigradient.training.returns import gae


def critic_experience(
    agent: Any, batch_size: int, envs: ExactVector | None = None, steps: int = 0, seed: int = 0
) -> Experience:
    """The critic's c_v (V - R)² on the rollout that the agent learned from last.

    With `envs`, on a rollout of `steps` instants of the same policy in these environments
    instead, rewards and observations scaled by a copy of the agent's statistics. `agent` is one
    with `network`, `collector`, `optimizer`, `setup` and the usual config.
    """
    config, network, collector = agent.config, agent.network, agent.collector
    if envs is not None:
        collector = collector.beside(envs, steps, seed)
        collector.collect()
    rollout = collector.rollout
    _, return_ = gae(
        rollout["reward"],
        rollout["terminated"],
        rollout["truncated"],
        rollout["value"],
        rollout["next_value"],
        config.gamma,
        config.gae_lambda,
    )
    rows = {"obs": rollout.flat("obs"), "return": return_.flatten()}
    ended = rollout.flat("terminated") | rollout.flat("truncated")

    def loss(value: Tensor, target: Tensor) -> Tensor:
        return config.value_coefficient * (value - target).square()

    def at(index: Tensor) -> Examples:
        return Examples(
            network,
            {name: row[index] for name, row in rows.items()},
            prediction=lambda call, s: call(s["obs"])[1],
            target=lambda call, s: s["return"],
            loss=loss,
            shown=lambda module, s, weight: critic_difference(
                module, s["obs"], s["return"], 2 * config.value_coefficient * weight
            ),
        )

    return Experience(
        network,
        agent.optimizer,
        partial(agent.setup.make_optimizer, temporal_differences=True),
        config.max_grad_norm,
        batch_size,
        times=rollout.length,
        capacity=rollout.length,
        num_envs=rollout.num_envs,
        at=at,
        ended=lambda index: ended[index],
        hidden=last_hidden(network.features, network.critic),
        continuous=rows["obs"].is_floating_point(),
    )
