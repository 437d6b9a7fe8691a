"""A Q-learner as an `Experience`: its temporal differences on the transitions of a memory."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semigradient.diagnostics.examples import Examples, Experience, half_square, last_hidden
from semigradient.envs import ExactVector
from semigradient.optim.temporal_difference import Call, Samples, TemporalDifference
from semigradient.training.agent import Policy
from semigradient.training.replay import Batch, Replay
from semigradient.training.returns import double_q_bootstrap, td_target
from semigradient.training.stepping import EnvStepper


def value_experience(agent: Any, memory: Replay) -> Experience:
    """The learner's own loss on transitions of `memory`.

    `agent` is one with `network`, `target`, `optimizer`, `setup`, `discount`, `learned_reward` and
    the config of Q-learning.
    """
    config = agent.config
    return Experience(
        agent.network,
        agent.optimizer,
        partial(agent.setup.make_optimizer, temporal_differences=True),
        config.max_grad_norm,
        config.batch_size,
        times=memory.times(config.n_step),
        capacity=max(0, memory.ring.length - config.n_step + 1),
        num_envs=memory.num_envs,
        at=lambda index: _examples(agent, memory.at(index, agent.discount, config.n_step)),
        ended=memory.ended,
        hidden=last_hidden(agent.network.torso, agent.network.shared, agent.network.advantage),
        continuous=memory.is_continuous,
    )


def fresh_memory(policy: Policy, envs: ExactVector, steps: int, agent: Any) -> Replay:
    """Transitions of `steps` instants of `policy` in environments of their own."""
    stepper = EnvStepper(envs)
    memory = Replay(
        steps * envs.num_envs,
        envs.num_envs,
        envs.single_observation_space,
        envs.single_action_space,
        agent.setup.device,
        stepper.mask is not None,
    )
    for _ in range(steps):
        obs = stepper.obs
        actions = policy(obs, stepper.mask)
        step = stepper.step(actions)
        memory.add(
            obs,
            actions,
            agent.learned_reward(step.reward),
            step.terminated,
            step.truncated,
            step.next_obs,
            step.next_mask,
        )
    return memory


def _examples(agent: Any, batch: Batch) -> Examples:
    """Temporal differences of transitions, with all inputs of their targets."""
    config, frozen = agent.config, agent.target is not agent.network
    samples = {name: rows for name, rows in batch._asdict().items() if rows is not None}
    if frozen:
        with torch.no_grad():
            samples["next_values"] = agent.target(batch.next_obs)

    def target(call: Call, s: Samples) -> Tensor:
        values = s["next_values"] if frozen else call(s["next_obs"])
        # The online network chooses in double Q-learning: the target then jumps with it.
        chooser = call(s["next_obs"]) if frozen and config.double else values
        return td_target(s["reward"], s["discount"], _best(chooser, values, s))

    def successor(call: Call, s: Samples) -> Tensor:
        values = call(s["next_obs"])
        return _best(values, values, s) * (s["discount"] > 0)

    def shown(module: nn.Module, s: Samples, weight: Tensor) -> TemporalDifference:
        fields = Batch(*(s.get(name) for name in Batch._fields))  # type: ignore[arg-type]
        made: TemporalDifference = agent.temporal_difference(module, fields, weight=weight)
        return made

    return Examples(
        agent.network,
        samples,
        prediction=lambda call, s: call(s["obs"]).gather(0, s["action"]),
        target=target,
        loss=F.smooth_l1_loss if config.loss == "huber" else half_square,
        moving=not frozen,
        head=lambda call, s: call(s["obs"]).max(0).values,
        successor=successor,
        shown=shown,
    )


def _best(chooser: Tensor, values: Tensor, sample: Samples) -> Tensor:
    """The value (A,) of the greedy legal action of `chooser` (A,): 0-dim."""
    mask = sample["next_mask"][None] if "next_mask" in sample else None
    return double_q_bootstrap(chooser[None], values[None], mask).squeeze(0)
