"""Shared by reproductions of music as a decision process: a trained Coconet, piano rolls."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semigradient.api import resume, train
from semigradient.domains.music.gibbs import ancestral, independent_gibbs, last
from semigradient.domains.music.score_counts import Counts
from semigradient.envs.music import chorales
from semigradient.envs.music.chorale_rules import Rules
from semigradient.envs.music.chorale_setting import Conditionals
from semigradient.reproductions.report import Array, Job

Rolls = NDArray[np.int64]
TEMPERATURE = 0.99
_CROPS = {"quick": 8_000, "full": 58_400}


def coconet_run(job: Job) -> str:
    """Run folder of a small Coconet on quarters: `--folder`, or trained here."""
    if job.folder:
        return job.folder
    folder = job.out / "coconet"
    if (folder / "summary.json").exists():
        return str(folder)
    steps = _CROPS[job.scale]
    job.say(f"a small Coconet: {steps} crops")
    if any((folder / "checkpoints").glob("step-*")):
        resume(folder)
        return str(folder)
    shutil.rmtree(folder, ignore_errors=True)  # a run without a checkpoint
    train(
        "coconet-small",
        "semigradient/Chorales-v0",
        steps=steps,
        run_dir=str(folder),
        wandb="disabled",
        tensorboard=False,
        progress=False,
    )
    return str(folder)


def shifted(piece: Rolls, rng: np.random.Generator) -> Rolls:
    """The piece with each voice rotated in time by a random offset."""
    return np.stack([np.roll(voice, int(rng.integers(len(voice)))) for voice in piece])


def counted(counts: Counts, pairs: bool, runs: int, frames: int, rng: np.random.Generator) -> Rolls:
    """Rolls (runs, 4, T) of independent voices, MIDI pitches."""
    alone, after = np.exp(counts.alone), np.exp(counts.after)
    voices, size = alone.shape
    rolls = np.zeros((runs, voices, frames), dtype=np.int64)
    for voice in range(voices):
        probabilities = np.broadcast_to(alone[voice], (runs, size))
        for frame in range(frames):
            cumulated = probabilities.cumsum(1)
            drawn = (cumulated < rng.random((runs, 1)) * cumulated[:, -1:]).sum(1)
            rolls[:, voice, frame] = drawn
            probabilities = after[voice, drawn] if pairs else probabilities
    return rolls + chorales.PITCHES[0]


def crops(split: str, grid: int, runs: int, frames: int, rng: np.random.Generator) -> list[Rolls]:
    """Excerpts of random pieces that are long enough, starting on a quarter."""
    stride = 4 // grid
    long = [p for p in chorales.load(split, grid).pieces if p.shape[1] >= frames]
    excerpts = []
    for piece in rng.integers(len(long), size=runs):
        roll = long[piece].astype(np.int64)
        start = int(rng.integers((roll.shape[1] - frames) // stride + 1)) * stride
        excerpts.append(roll[:, start : start + frames])
    return excerpts


def composed(
    model: Conditionals, known: Tensor, pitches: Tensor, sweeps: int, random: torch.Generator
) -> Tensor:
    """Pitch indices (B, I, T): ancestral sampling, or Gibbs sampling with `sweeps` > 0 steps."""
    if sweeps == 0:
        return ancestral(model, pitches, known, random, temperature=TEMPERATURE)
    chain = independent_gibbs(model, pitches, known, sweeps, random, temperature=TEMPERATURE)
    return last(chain)


def by_100_frames(rolls: Sequence[Rolls], beat: int) -> Array:
    """Counts of the rules' events per 100 frames, (rolls, E)."""
    rules = Rules(beat)
    counts = [rules.count(torch.from_numpy(roll[None]))[0].numpy() for roll in rolls]
    frames = np.array([roll.shape[1] for roll in rolls])
    return 100 * np.stack(counts) / frames[:, None]


def score(events: Array) -> Array:
    """The rules' potential (…,) of counts (…, E)."""
    return Rules(1).potential(torch.from_numpy(events)).numpy()
