"""What is said, read and written where a run starts or goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semigradient.training import exactness, extension, run
from semigradient.training.command import Command
from semigradient.training.loop import Loop
from semigradient.training.sinks import TensorBoardSink, WandbSink, resolve_wandb_mode


def resume(loop: Loop, saved: Command | None, until: int | None = None) -> list[str]:
    """Load the newest checkpoint and write down how the run goes on; returns what to say.

    Args:
        loop: of the run.
        saved: its command before; None: the same.
        until: steps of the last checkpoint that counts.
    """
    command, folder = loop.command, loop.folder
    loaded, now = loop.resume(until), run.provenance()
    remarks = [] if saved is None else extension.remarks(command, saved)
    if loaded is None:
        run.extend(command, folder, now, 0)
        return ["no checkpoint was saved yet: starts at step 0", *remarks]
    before = run.last_provenance(folder)
    reasons = exactness.reasons(loop.agent, command, saved, before, now)
    run.extend(command, folder, now, loaded.step)
    kind = f"statistical: {', '.join(reasons)}" if reasons else "exact"
    skipped = [f"skipped damaged checkpoint: {reason}" for reason in loaded.skipped]
    text = f"resumed at step {loaded.step} from {loaded.path.name} ({kind})"
    return [*skipped, text, *remarks]


def introduction(command: Command, folder: Path, protocol: Mapping[str, object]) -> list[str]:
    """Which run this is, and how its scores are to be read."""
    run = command.run
    card = ", ".join(f"{key}={value}" for key, value in protocol.items() if key != "env")
    names = f"{run.agent} on {run.env} with {run.optim}"
    return [f"{names}, seed {run.seed}, {run.steps} steps → {folder}", f"protocol: {card}"]


def sinks(command: Command, folder: Path) -> list[Any]:
    """Where metrics go besides the run folder."""
    run = command.run
    sinks: list[Any] = [TensorBoardSink(folder / "tensorboard")] if run.tensorboard else []
    mode = resolve_wandb_mode(run.wandb)
    if mode != "disabled":
        tables = command.tables()
        sinks.append(WandbSink(folder, mode, run.wandb_project, None, folder.name, tables))
    return sinks
