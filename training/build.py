"""From a `Command` to an agent in its environments."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from semigradient import agents, optim
from semigradient.envs import make_vector
from semigradient.nets.bricks import is_image
from semigradient.training import checkpoint, process
from semigradient.training.agent import Agent, Setup
from semigradient.training.checkpoint import Loaded
from semigradient.training.cli import parse
from semigradient.training.command import Command
from semigradient.training.loop import choose_device


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


class Trained(NamedTuple):
    """A run that can be asked what it would do."""

    command: Command
    agent: Agent
    loaded: Loaded


def trained(folder: str | Path, device: str = "") -> Trained:
    """The agent of a run folder with its latest policy, on another `device` if one is named."""
    words = ["--resume", str(folder), *(["--device", device] if device else [])]
    command = parse(words).command
    agent = build(command, learning=False)
    loaded = checkpoint.load(Path(folder) / "policy", command.identity())
    agent.load_policy_state(loaded.state["policy"])
    return Trained(command, agent, loaded)


def set_threads(threads: int, images: bool) -> None:
    """One thread for small networks, where more only get in each other's way; else all cores."""
    process.prepare(threads or ((os.cpu_count() or 1) if images else 1))
