"""Samplers of scores from a model of conditionals: in one pass, or by erasing and rewriting.

Ancestral sampling draws each unknown note once, in random order, given all notes so far: the
distribution of orderless NADE. Blocked Gibbs sampling erases and refills some notes repeatedly:

- independent (Yao et al. 2014): each note is erased with probability α_n and all erased ones are
  drawn at once, independently given the rest. One call of the model per step. It has the
  model's distribution only in the limit of single notes, so α_n decreases:
  α_n = max(α_min, α_max - n (α_max - α_min) / (η N));
- ancestral: each note is kept with probability ρ, the others are redrawn one by one. With exact
  conditionals it leaves the model's distribution invariant, for every ρ; ρ = 0 is plain NADE.

All take the known cells of a score and never erase them: harmonising, re-voicing, bridging and
upsampling are choices of `envs.music.chorale_tasks`.

Source: T. Cooijmans, PhD thesis, section 3.5. It gives no α's: 0.9, 0.1 and η = 0.7 are from the
published code, whose samplers have a temperature of 0.99. The first roll is one independent fill,
where that code begins with silence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from semigradient.domains.music.framewise import ORDERS
from semigradient.envs.music.chorale_filling import draw, one_by_one
from semigradient.envs.music.chorale_setting import Conditionals
from semigradient.errors import require

Generator = torch.Generator | None


@dataclass(frozen=True)
class Annealed:
    """Probability of erasing a note at step n of N."""

    alpha_max: float = 0.9
    alpha_min: float = 0.1
    eta: float = 0.7
    """Share of the steps after which it is at its minimum."""

    def __post_init__(self) -> None:
        ordered = 0 <= self.alpha_min <= self.alpha_max <= 1
        text = f"alpha_min={self.alpha_min}, alpha_max={self.alpha_max}"
        require(ordered, f"{text}: must be 0 ≤ alpha_min ≤ alpha_max ≤ 1")
        require(self.eta > 0, f"eta={self.eta}: must be > 0")

    def __call__(self, step: int, steps: int) -> float:
        """α_n."""
        fall = step * (self.alpha_max - self.alpha_min) / (self.eta * steps)
        return max(self.alpha_min, self.alpha_max - fall)


class Rewrite(NamedTuple):
    """One step of a chain of B scores."""

    erased: Tensor  # (B, I, T) bool
    log_probs: (
        Tensor | None
    )  # (B, I, T, P) given the notes kept; None where notes were drawn one by one
    pitches: Tensor  # (B, I, T), complete


@torch.no_grad()
def ancestral(
    conditionals: Conditionals,
    pitches: Tensor,
    known: Tensor,
    generator: Generator = None,
    order: str = "random",
    temperature: float = 1.0,
) -> Tensor:
    """Complete scores (B, I, T) from their known cells, note by note: one call per note.

    Args:
        conditionals: the model.
        pitches: (B, I, T); unknown cells are overwritten.
        known: (B, I, T) bool.
        generator: source of randomness, on the same device.
        order: random; or chronological, voices of a frame in random order.
        temperature: of every draw.
    """
    require(order in ORDERS, f"order={order!r}: accepted are {', '.join(ORDERS)}")
    is_chronological = order == "chronological"
    return one_by_one(conditionals, pitches, known, generator, temperature, is_chronological)


@torch.no_grad()
def independent(
    conditionals: Conditionals,
    pitches: Tensor,
    known: Tensor,
    generator: Generator = None,
    temperature: float = 1.0,
) -> Rewrite:
    """Fill in all unknown notes at once, independently given the known ones."""
    log_probs = conditionals(pitches, known)
    drawn = draw(log_probs, generator, temperature)
    return Rewrite(~known, log_probs, torch.where(known, pitches, drawn))


@torch.no_grad()
def independent_gibbs(
    conditionals: Conditionals,
    pitches: Tensor,
    known: Tensor,
    steps: int,
    generator: Generator = None,
    schedule: Annealed = Annealed(),
    temperature: float = 1.0,
) -> Iterator[Rewrite]:
    """A chain of `steps` independent rewritings after an initial fill.

    Args:
        conditionals: the model.
        pitches: (B, I, T); unknown cells are overwritten at the start.
        known: (B, I, T) bool, never erased.
        steps: N.
        generator: source of randomness, on the same device.
        schedule: probabilities of erasing.
        temperature: of every draw.

    Yields:
        N + 1 times: the first fill, then each step.
    """
    now = independent(conditionals, pitches, known, generator, temperature)
    yield now
    for step in range(steps):
        erased = _bernoulli(known, schedule(step, steps), generator) & ~known
        now = independent(conditionals, now.pitches, ~erased, generator, temperature)
        yield now


@torch.no_grad()
def ancestral_gibbs(
    conditionals: Conditionals,
    pitches: Tensor,
    known: Tensor,
    steps: int,
    rate: float,
    generator: Generator = None,
    temperature: float = 1.0,
) -> Iterator[Rewrite]:
    """A chain of `steps` rewritings note by note, each note kept with probability `rate`.

    Yields N + 1 times, the first a fill from what is known, note by note; arguments as those of
    `independent_gibbs`.
    """
    require(0 <= rate <= 1, f"rate={rate}: must be in [0, 1]")
    erased = ~known
    for step in range(steps + 1):
        if step:
            erased = ~(_bernoulli(known, rate, generator) | known)
        pitches = ancestral(conditionals, pitches, ~erased, generator, temperature=temperature)
        yield Rewrite(erased, None, pitches)


def last(chain: Iterator[Rewrite]) -> Tensor:
    """The final scores (B, I, T) of a chain."""
    for step in chain:
        pitches = step.pitches
    return pitches


def _bernoulli(like: Tensor, probability: float, generator: Generator) -> Tensor:
    return torch.rand(like.shape, generator=generator, device=like.device) < probability
