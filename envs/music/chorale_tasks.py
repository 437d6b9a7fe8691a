"""Tasks of completing music: sets C of known notes.

`orderless` is the training distribution of orderless NADE: the number of unknown notes is uniform
on 1 … D, and the set of them is uniform given the number.

Source: T. Cooijmans, PhD thesis, sections 3.3 (its |C| ~ U(1, D) would allow nothing unknown, which
the terms D - d + 1 beside it exclude) and 3.5.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from semigradient.errors import require, unknown

Generator = torch.Generator | None


def known(
    task: str, batch: int, voices: int, steps: int, generator: Generator = None, rate: float = 0.5
) -> Tensor:
    """Which notes are known, (B, I, T) bool on the generator's device.

    Args:
        task: scratch (nothing), harmonize (the first voice), voice:i (all but voice i), bridge
            (first and last quarter of the time), inpaint (each note with probability `rate`),
            upsample (every second step), orderless.
        batch: B.
        voices: I.
        steps: T.
        generator: source of randomness.
        rate: of inpaint.

    Raises:
        UserError: no such task.
    """
    name, colon, which = task.partition(":")
    if name == "voice" and colon:
        is_valid = which.isdigit() and int(which) < voices
        require(is_valid, f"task={task!r}: accepted are voice:0 to voice:{voices - 1}")
        return _all_but(int(which), batch, voices, steps, generator)
    if task not in TASKS:
        unknown("task", task, (*TASKS, "voice:0"))
    require(0 <= rate <= 1, f"rate={rate}: must be in [0, 1]")
    return TASKS[task](batch, voices, steps, generator, rate)


def orderless(batch: int, voices: int, steps: int, generator: Generator = None) -> Tensor:
    """The training distribution: (B, I, T) bool, with 1 … D notes unknown, uniformly."""
    device, cells = _device(generator), voices * steps
    hidden = torch.randint(1, cells + 1, (batch, 1), generator=generator, device=device)
    scores = torch.rand(batch, cells, generator=generator, device=device, dtype=torch.float64)
    rank = scores.argsort(1).argsort(1)
    return (rank >= hidden).view(batch, voices, steps)


def upsample(pitches: Tensor) -> Tensor:
    """Twice as fine a grid, (…, 2T) of (…, T): every step twice. Its task has the same name."""
    return pitches.repeat_interleave(2, -1)


def _device(generator: Generator) -> torch.device:
    return generator.device if generator is not None else torch.device("cpu")


def _nothing(batch: int, voices: int, steps: int, generator: Generator) -> Tensor:
    return torch.zeros(batch, voices, steps, dtype=torch.bool, device=_device(generator))


def _all_but(voice: int, batch: int, voices: int, steps: int, generator: Generator) -> Tensor:
    mask = ~_nothing(batch, voices, steps, generator)
    mask[:, voice] = False
    return mask


def _harmonize(batch: int, voices: int, steps: int, generator: Generator, rate: float) -> Tensor:
    mask = _nothing(batch, voices, steps, generator)
    mask[:, 0] = True
    return mask


def _bridge(batch: int, voices: int, steps: int, generator: Generator, rate: float) -> Tensor:
    mask = ~_nothing(batch, voices, steps, generator)
    mask[:, :, steps // 4 : steps - steps // 4] = False
    return mask


def _inpaint(batch: int, voices: int, steps: int, generator: Generator, rate: float) -> Tensor:
    shape, device = (batch, voices, steps), _device(generator)
    return torch.rand(shape, generator=generator, device=device, dtype=torch.float64) < rate


def _upsample(batch: int, voices: int, steps: int, generator: Generator, rate: float) -> Tensor:
    mask = _nothing(batch, voices, steps, generator)
    mask[:, :, ::2] = True
    return mask


TASKS: dict[str, Callable[[int, int, int, Generator, float], Tensor]] = {
    "scratch": lambda b, i, t, g, _: _nothing(b, i, t, g),
    "harmonize": _harmonize,
    "bridge": _bridge,
    "inpaint": _inpaint,
    "upsample": _upsample,
    "orderless": lambda b, i, t, g, _: orderless(b, i, t, g),
}
"""Tasks by name, besides voice:i."""
