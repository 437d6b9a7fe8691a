"""Likelihoods of scores under a model of conditionals: frame by frame, or note by note.

Framewise (algorithm 1): frames are revealed in some order. Within a frame the voices follow in
random order, each conditioned on the model's own draws of the voices before and not on the truth;
after the frame the truth replaces the draws. Several orderings are an ensemble, averaged in
probability frame by frame:

    NLL = -1/T Σ_t log 1/M Σ_m exp Σ_i L_mit

It is no likelihood: with exact conditionals its expectation is a sum of cross-entropies, and at
least the true NLL of the frames, with equality only where voices are independent given the rest.
Notewise, the truth replaces each note, and the sum is log p(x) in the ordering's factorisation.

Source: T. Cooijmans, PhD thesis, section 3.4 and algorithm 1. Its published code writes the most
probable pitch where the text has a draw (`within="argmax"`), and works on all frames of an ordering
at once, as here: only the voices of a frame are sequential.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from semigradient.domains.music.orderless import chosen
from semigradient.envs.music.chorale_filling import WITHIN, draw, frame_log_likelihood
from semigradient.envs.music.chorale_setting import Conditionals
from semigradient.errors import require
from semigradient.nets.frame_nade import FrameNade

ORDERS = ("random", "chronological")
_BATCH = 256  # scores in one call of the model


@torch.no_grad()
def framewise(
    conditionals: Conditionals,
    pitches: Tensor,
    orderings: int = 5,
    order: str = "random",
    within: str = "sample",
    generator: torch.Generator | None = None,
    batch: int = _BATCH,
) -> Tensor:
    """Log-likelihoods of frames under each ordering, Σ_i L_mit: (M, T), `pitches`' device.

    Args:
        conditionals: the model.
        pitches: a score, indices (I, T).
        orderings: M.
        order: of frames: random, or chronological, where only the voices' orders differ.
        within: what later voices of a frame are conditioned on: sample (the text), argmax
            (the published code) or truth.
        generator: source of randomness, on the same device.
        batch: scores in one call of the model.
    """
    require(orderings >= 1, f"orderings={orderings}: must be ≥ 1")
    require(order in ORDERS, f"order={order!r}: accepted are {', '.join(ORDERS)}")
    require(within in WITHIN, f"within={within!r}: accepted are {', '.join(WITHIN)}")
    voices, frames = pitches.shape
    device = pitches.device
    # rank[m, t]: how many frames come before t; example (m, t) is the score when t's turn comes.
    rank = torch.arange(frames, device=device).repeat(orderings, 1)
    if order == "random":
        rank = torch.rand(orderings, frames, generator=generator, device=device).argsort(1)
    turn = torch.rand(orderings, frames, voices, generator=generator, device=device).argsort(2)
    parts = []
    examples = torch.arange(orderings * frames, device=device)
    for part in examples.split(batch):
        member, frame = part // frames, part % frames
        known = rank[member] < rank[member, frame, None]  # (n, T)
        order_here = turn[member, frame]
        score = pitches.expand(len(part), voices, frames)
        parts.append(
            frame_log_likelihood(conditionals, score, known, frame, order_here, within, generator)
        )
    return torch.cat(parts).view(orderings, frames)


@torch.no_grad()
def notewise(
    conditionals: Conditionals,
    pitches: Tensor,
    orderings: int = 5,
    order: str = "random",
    generator: torch.Generator | None = None,
    batch: int = _BATCH,
) -> Tensor:
    """Log-likelihoods of notes in random orderings of all notes, the truth following each.

    Args:
        conditionals: the model.
        pitches: a score, indices (I, T).
        orderings: M.
        order: of notes: random, or chronological, the voices of a frame in random order.
        generator: source of randomness.
        batch: scores in one call of the model.

    Returns:
        (M, I, T), whose sum over notes is log p(x) in that ordering.
    """
    require(order in ORDERS, f"order={order!r}: accepted are {', '.join(ORDERS)}")
    voices, frames = pitches.shape
    cells, device = voices * frames, pitches.device
    scores = torch.rand(orderings, voices, frames, generator=generator, device=device)
    if order == "chronological":
        scores = scores + torch.arange(frames, device=device)
    rank = scores.view(orderings, cells).argsort(1).argsort(1)
    parts = []
    for part in torch.arange(orderings * cells, device=device).split(batch):
        member, cell = part // cells, part % cells
        known = (rank[member] < rank[member, cell, None]).view(-1, voices, frames)
        log_probs = conditionals(pitches.expand(len(part), voices, frames), known)
        here = log_probs.flatten(1, 2)[torch.arange(len(part), device=device), cell]
        parts.append(chosen(here, pitches.flatten()[cell]))
    return torch.cat(parts).view(orderings, voices, frames)


@torch.no_grad()
def chained(
    network: FrameNade,
    pitches: Tensor,
    within: str = "sample",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Framewise log-likelihoods (B, T) of scores (B, I, T) under voices in a fixed order."""
    require(within in WITHIN, f"within={within!r}: accepted are {', '.join(WITHIN)}")
    past, seen = network.past(pitches), pitches.clone()
    total = torch.zeros_like(pitches[:, 0], dtype=torch.float64)
    for voice in range(pitches.shape[1]):
        log_probs = network.voice(past, seen, voice)
        total += chosen(log_probs, pitches[:, voice])
        if within == "sample":
            seen[:, voice] = draw(log_probs, generator)
        elif within == "argmax":
            seen[:, voice] = log_probs.argmax(-1)
    return total


def ensemble_nll(frames: Tensor) -> Tensor:
    """NLL of each frame, (T,) of members (M, T): members are averaged in probability."""
    return math.log(len(frames)) - frames.logsumexp(0)
