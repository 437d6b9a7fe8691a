"""Filling the gaps of rolls from a model's conditionals, and the framewise likelihood of rolls.

Pure functions of a model (`envs.music.chorale_setting.Conditionals`) for the environments whose
transitions or rewards use it.

Source: T. Cooijmans, PhD thesis, chapter 3, algorithm 1 and sections 3.4.1, 3.4.2.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from semigradient.envs.music.chorale_setting import Conditionals

Fill = Literal["independent", "argmax", "ancestral"]
WITHIN = ("sample", "argmax", "truth")


def draw(
    log_p: Tensor,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
    shared: bool = False,
) -> Tensor:
    """Samples (B, …) int64 of categorical distributions (B, …, P), tempered by 1/temperature.

    With `shared` all B use the same random numbers.
    """
    shape = (1, *log_p.shape[1:]) if shared else log_p.shape
    uniform = torch.rand(shape, generator=generator, device=log_p.device, dtype=torch.float64)
    noise = -(-uniform.clamp(1e-300, 1 - 1e-16).log()).log()
    return (log_p.double() / temperature + noise).argmax(-1)


def fill(
    model: Conditionals,
    pitches: Tensor,
    known: Tensor,
    how: Fill = "independent",
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Complete rolls (B, I, T) whose `known` cells (B, I, T) are kept.

    `independent` draws all others at once from their own conditionals, `argmax` takes the most
    probable pitches, `ancestral` draws them one by one in random order.
    """
    if how == "ancestral":
        return one_by_one(model, pitches, known, generator, temperature)
    log_p = model(pitches.where(known, 0), known)
    filled = log_p.argmax(-1) if how == "argmax" else draw(log_p, generator, temperature)
    return pitches.where(known, filled)


def framewise_log_likelihood(
    model: Conditionals,
    rolls: Tensor,
    generator: torch.Generator | None = None,
    chronological: bool = False,
    shared: bool = False,
) -> Tensor:
    """Log-likelihood in nats per frame (B,) float64 of complete rolls, in one random ordering.

    Frames are revealed one after another, the voices of a frame in random order. The model reads
    its own samples within a frame and the truth of the frames before. With `shared` all
    rolls use common random numbers, so that differences between rolls are not due to chance.
    """
    rows, voices, frames = rolls.shape
    shape = (2, 1 if shared else rows, voices, frames)
    uniform = torch.rand(shape, generator=generator, device=rolls.device, dtype=torch.float64)
    uniform = uniform.expand(-1, rows, -1, -1)
    times = (
        uniform[0, :, 0].argsort(1) if not chronological else torch.arange(frames).expand(rows, -1)
    )
    times, order = times.to(rolls.device), uniform[1].argsort(1)
    earlier = torch.zeros(rows, frames, dtype=torch.bool, device=rolls.device)
    total = torch.zeros(rows, dtype=torch.float64, device=rolls.device)
    row = torch.arange(rows, device=rolls.device)
    for time in times.unbind(1):
        turn = order[row, :, time]
        total += frame_log_likelihood(
            model, rolls, earlier, time, turn, generator=generator, shared=shared
        )
        earlier[row, time] = True
    return total / frames


def frame_log_likelihood(
    model: Conditionals,
    rolls: Tensor,
    earlier: Tensor,
    frame: Tensor,
    turn: Tensor,
    within: str = "sample",
    generator: torch.Generator | None = None,
    shared: bool = False,
) -> Tensor:
    """Log-likelihoods (n,) float64 of one frame of each roll given earlier frames (algorithm 1).

    Args:
        model: the conditionals.
        rolls: complete rolls (n, I, T).
        earlier: frames that are known (n, T) bool.
        frame: the frame's number (n,).
        turn: the voices in their order (n, I).
        within: what later voices are conditioned on, one of `WITHIN`: the model's draws, its most
            probable pitches, or the truth.
        generator: source of randomness.
        shared: all rolls use the same random numbers.
    """
    rows = torch.arange(len(frame), device=rolls.device)
    known = earlier[:, None].repeat(1, rolls.shape[1], 1)
    seen, total = rolls.clone(), torch.zeros(len(frame), dtype=torch.float64, device=rolls.device)
    for voice in turn.unbind(1):
        log_p = model(seen.where(known, 0), known)[rows, voice, frame]  # (n, P)
        total += log_p.gather(1, rolls[rows, voice, frame][:, None]).squeeze(1).double()
        if within == "sample":
            seen[rows, voice, frame] = draw(log_p, generator, shared=shared)
        elif within == "argmax":
            seen[rows, voice, frame] = log_p.argmax(-1)
        known[rows, voice, frame] = True
    return total


def one_by_one(
    model: Conditionals,
    pitches: Tensor,
    known: Tensor,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
    chronological: bool = False,
) -> Tensor:
    """Rolls (B, I, T) whose unknown cells are drawn one by one: one call of the model for each.

    In random order, or chronologically with the voices of a frame in random order.
    """
    roll, known = pitches.where(known, 0), known.clone()
    cells = known[0].numel()
    shape = (len(roll), cells)
    uniform = torch.rand(shape, generator=generator, device=roll.device, dtype=torch.float64)
    if chronological:
        uniform = uniform + torch.arange(known.shape[2], device=roll.device).repeat(known.shape[1])
    order = uniform.where(~known.flatten(1), math.inf).argsort(1)
    row = torch.arange(len(roll), device=roll.device)
    for cell in order[:, : int((~known).flatten(1).sum(1).max())].unbind(1):
        voice, time = cell // known.shape[2], cell % known.shape[2]
        drawn = draw(model(roll, known)[row, voice, time], generator, temperature)
        fresh = ~known[row, voice, time]
        roll[row, voice, time] = drawn.where(fresh, roll[row, voice, time])
        known[row, voice, time] = True
    return roll
