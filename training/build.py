"""From a `Command` to an agent in its environments."""

from __future__ import annotations

import os
from typing import Any

from semigradient import agents
from semigradient.envs import ExactVector, make_vector
from semigradient.errors import UserError, require
from semigradient.nets.bricks import is_image
from semigradient.training import process
from semigradient.training.agent import Agent, AgentContext
from semigradient.training.command import Command, RunConfig
from semigradient.training.generators import seed_all, undisturbed
from semigradient.training.process import choose_device
from semigradient.validate import first_line, shown

_TOO_LARGE = ("allocate", "not enough memory", "out of memory", "overflow")


def build(command: Command, learning: bool = True) -> Agent:
    """Make the environments and the agent that `command` describes, seeded.

    The global random generators stay as they are: weights are drawn from the run's seed.

    Args:
        command: the run, fully resolved.
        learning: false for evaluation: no replay memory.

    Raises:
        UserError: anything about the command that does not fit together.
    """
    with undisturbed():
        return build_for_process(command, learning)


def build_for_process(command: Command, learning: bool = True) -> Agent:
    """As `build`, but the global generators continue from the run's seed: for a process of its own.

    Agents of this package draw from generators of their own; those of other packages may not.
    """
    run = command.run
    envs = make_vector(run.env, run.num_envs, run.seed, **run.environment())
    if learning and run.eval_env_options:
        _check_evaluation(run, envs)
    images = is_image(envs.single_observation_space)
    set_threads(run.threads, images)
    setup = AgentContext(
        envs=envs,
        device=choose_device(run.device, images),
        seed=run.seed,
        total_steps=run.span,
        run_steps=run.steps,
        optimizer=command.optimizer,
        compile=run.compile,
        learning=learning,
    )
    return _create(run.agent, command.agent, setup)


def _check_evaluation(run: RunConfig, envs: ExactVector) -> None:
    """Check that the evaluation environment exists and has the spaces of the training one."""
    evaluation = make_vector(run.env, 1, run.seed, **run.evaluation_environment())
    for name in ("single_observation_space", "single_action_space"):
        ours, theirs = getattr(envs, name), getattr(evaluation, name)
        require(
            ours == theirs,
            f"eval_env_options={' '.join(run.eval_env_options)}: evaluation has the space "
            f"{shown(theirs)}, training {shown(ours)}",
        )
    try:
        evaluation.reset()  # what it needs, such as a split of the data, is there before training
    finally:
        evaluation.close()


def create(name: str, config: Any, setup: AgentContext) -> Agent:
    """Make the agent called `name`, with weights drawn from the seed of its setup.

    The global random generators stay as they are.
    """
    with undisturbed():
        return _create(name, config, setup)


def _create(name: str, config: Any, setup: AgentContext) -> Agent:
    seed_all(setup.seed)
    try:
        agent: Agent = agents.agent_class(name)(config, setup)
    except (MemoryError, RuntimeError) as problem:
        text = first_line(problem)
        if not (isinstance(problem, MemoryError) or any(word in text for word in _TOO_LARGE)):
            raise
        raise UserError(
            f"agent {name!r}: its networks or memories do not fit into memory ({text})"
        ) from problem
    return agent


def set_threads(threads: int, images: bool) -> None:
    """One thread for small networks, where more are slower; else all cores."""
    process.prepare(threads or ((os.cpu_count() or 1) if images else 1))
