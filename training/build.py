"""From a `Command` to an agent in its environments."""

from __future__ import annotations

import os

import numpy as np
import torch

import agents
import optim
from envs import make_vector
from nets.bricks import is_image
from training import process
from training.agent import Agent, Setup
from training.cli import Command
from training.loop import choose_device


def build(command: Command, learning: bool = True) -> Agent:
    """Make the environments and the agent that `command` describes, seeded.

    Args:
        command: the run, fully resolved.
        learning: false for evaluation: no replay memory.

    Raises:
        UserError: anything about the command that does not fit together.
    """
    run = command.run
    envs = make_vector(run.env, run.num_envs, run.seed, **run.environment())
    images = is_image(envs.single_observation_space)
    set_threads(run.threads, images)
    torch.manual_seed(run.seed)
    np.random.seed(run.seed % 2**32)
    setup = Setup(
        envs=envs,
        device=choose_device(run.device, images),
        seed=run.seed,
        total_steps=run.steps,
        make_optimizer=lambda params: optim.make(command.optimizer, params),
        compile=run.compile,
        learning=learning,
    )
    return agents.agent_class(run.agent)(command.agent, setup)


def set_threads(threads: int, images: bool) -> None:
    """One thread for small networks, where more only get in each other's way; else all cores."""
    process.prepare(threads or ((os.cpu_count() or 1) if images else 1))
