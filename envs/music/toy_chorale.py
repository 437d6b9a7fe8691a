"""A chorale small enough for exact solutions: two voices, three frames, three pitches.

All 729 rolls have a probability, so every conditional, entropy, optimal value and stationary
distribution is a finite sum. `ToyJoint.conditionals` fits wherever a learned model of chorales
does:

    p(x) ∝ exp(Σ_t h(x_0t - x_1t) + Σ_it g(x_it - x_i,t+1))

with h = 0, -1, 1 and g = 1, ½, -1 at distances 0, 1, 2: voices keep apart, and hold their notes.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

VOICES, FRAMES, PITCHES = 2, 3, 3
CELLS = VOICES * FRAMES
_HARMONY = (0.0, -1.0, 1.0)
_MELODY = (1.0, 0.5, -1.0)
_UNKNOWN = PITCHES  # as a digit of a context's number


class ToyJoint:
    """The exact joint distribution; cells are numbered voice by voice, i·T + t.

    A context is the known part of a roll: every cell holds one of P pitches, or nothing.

    Attributes:
        rolls: (729, 2, 3) int64, in lexicographic order.
        log_p: (729,) float64, natural logarithms of their probabilities.
        log_z: logarithm of the normaliser.
    """

    voices, frames, pitches = VOICES, FRAMES, PITCHES

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        digits = torch.arange(PITCHES, device=self.device)
        flat = torch.cartesian_prod(*[digits] * CELLS)
        self.rolls = flat.view(-1, VOICES, FRAMES)
        weight = log_weight(self.rolls)
        self.log_z = float(weight.logsumexp(0))
        self.log_p = weight - self.log_z
        self._powers = (PITCHES + 1) ** torch.arange(CELLS - 1, -1, -1, device=self.device)
        self._table = self._conditionals_of_all_contexts(flat)

    def number(self, pitches: Tensor, known: Tensor) -> Tensor:
        """Number (…,) in [0, 4^6) of contexts: pitches (…, 2, 3) int64 where known."""
        digits = torch.where(known, pitches, _UNKNOWN).flatten(-2)
        return (digits * self._powers).sum(-1)

    def index(self, rolls: Tensor) -> Tensor:
        """Indices of complete rolls (…, 2, 3) in `rolls`: (…,)."""
        powers = PITCHES ** torch.arange(CELLS - 1, -1, -1, device=self.device)
        return (rolls.flatten(-2) * powers).sum(-1)

    def conditionals(self, pitches: Tensor, known: Tensor) -> Tensor:
        """Log-probabilities (B, 2, 3, 3) of every cell given the others that are known.

        Args:
            pitches: (B, 2, 3) int64; unknown cells are ignored.
            known: (B, 2, 3) bool.
        """
        number = self.number(pitches, known)
        return self._table.index_select(0, number).view(-1, VOICES, FRAMES, PITCHES)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """`n` rolls of the joint: (n, 2, 3) int64."""
        drawn = torch.multinomial(self.log_p.exp(), n, replacement=True, generator=generator)
        return self.rolls.index_select(0, drawn)

    def entropy(self) -> float:
        """H in nats."""
        return -float((self.log_p.exp() * self.log_p).sum())

    def _conditionals_of_all_contexts(self, flat: Tensor) -> Tensor:
        """(4^6, 6, 3) float64: sums of the joint over the unknown cells of each context."""
        p = self.log_p.exp().view([PITCHES] * CELLS)
        for axis in range(CELLS):  # a fourth entry along every axis: anything
            p = torch.cat([p, p.sum(axis, keepdim=True)], axis)
        contexts = torch.cartesian_prod(
            *[torch.arange(PITCHES + 1, device=self.device)] * CELLS
        )  # (4^6, 6)
        table = torch.empty(len(contexts), CELLS, PITCHES, dtype=torch.float64, device=self.device)
        marginal = p.flatten()
        for cell in range(CELLS):
            base = (contexts * self._powers).sum(1) - contexts[:, cell] * self._powers[cell]
            at = base[:, None] + self._powers[cell] * torch.arange(PITCHES, device=self.device)
            mass = marginal[at]
            table[:, cell] = (mass / mass.sum(1, keepdim=True)).log()
        return table


def log_weight(rolls: Tensor) -> Tensor:
    """Logarithms (…,) float64 of the unnormalised weights of rolls (…, 2, T)."""
    harmony = torch.tensor(_HARMONY, dtype=torch.float64, device=rolls.device)
    melody = torch.tensor(_MELODY, dtype=torch.float64, device=rolls.device)
    apart = (rolls[..., 0, :] - rolls[..., 1, :]).abs()
    moved = rolls.diff(dim=-1).abs()
    return harmony[apart].sum(-1) + melody[moved].sum((-2, -1))


@lru_cache(maxsize=4)
def toy_joint(device: str = "cpu") -> ToyJoint:
    """The joint on a device, shared."""
    return ToyJoint(device)
