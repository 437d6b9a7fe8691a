"""Train one learner on one environment: python train.py --agent ddqn --env CartPole-v1."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from semigradient.errors import UserError
from semigradient.training.cli import Invocation, fail, parse
from semigradient.training.command import Command

if TYPE_CHECKING:
    from semigradient.diagnostics.attach import Attachment
    from semigradient.training.agent import Agent


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit code."""
    try:
        invocation = parse(arguments)
        return train(invocation)
    except UserError as problem:
        fail(problem, "train.py")


def train(invocation: Invocation) -> int:
    """Build, train (or go on training) and report."""
    from semigradient.training import run
    from semigradient.training.build import build
    from semigradient.training.logging import Logger
    from semigradient.training.loop import Loop

    command, resume = invocation.command, invocation.resume
    agent = build(command)
    observers = _observers(command, agent)
    protocol = agent.setup.envs.protocol
    folder = resume if resume is not None else run.create(command, protocol)
    loop = Loop(command, agent, folder, observers)
    notes = loop.resume() if resume is not None else []
    _introduce(command, folder, protocol)
    for note in notes:
        print(note)
    with Logger(folder, _sinks(command, folder)) as logger:
        outcome = loop.run(logger)
    print(f"{outcome.status}: {outcome.message}", file=sys.stderr if outcome.exit_code else None)
    if loop.evaluation:
        mean, episodes = loop.evaluation["mean"], loop.evaluation["episodes"]
        print(f"evaluation: mean return {mean:.1f} over {episodes:.0f} episodes; run: {folder}")
    return outcome.exit_code


def _introduce(command: Command, folder: Path, protocol: dict[str, object]) -> None:
    run = command.run
    print(
        f"{run.agent} on {run.env} with {run.optim}, seed {run.seed}, {run.steps} steps → {folder}"
    )
    card = ", ".join(f"{key}={value}" for key, value in protocol.items() if key != "env")
    print(f"protocol: {card}")


def _observers(command: Command, agent: Agent) -> Attachment | None:
    """What `--diagnose` asks for, refused here if the agent cannot support it."""
    if not command.run.diagnose:
        return None
    from semigradient.diagnostics.attach import Attachment

    return Attachment(command.run, agent)


def _sinks(command: Command, folder: Path) -> list:
    from semigradient.training.sinks import TensorBoardSink, WandbSink, resolve_wandb_mode

    run = command.run
    sinks: list = [TensorBoardSink(folder / "tensorboard")] if run.tensorboard else []
    mode = resolve_wandb_mode(run.wandb)
    if mode != "disabled":
        tables = command.tables()
        sinks.append(WandbSink(folder, mode, run.wandb_project, None, folder.name, tables))
    return sinks


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
