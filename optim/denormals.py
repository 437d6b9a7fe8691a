"""Denormal numbers, which processors handle in microcode, a hundred times as slowly as others.

The averages of Adam and RMSprop decay geometrically where gradients are exactly zero, as those of
the weights of a dead rectifier are: after some hundred steps they are denormal, and because the
least denormals round to themselves they stay so. Here such numbers become zero. A denormal average
is below 1.2e-38, so no weight above 1e-23 moves otherwise than it would.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_LEAST = torch.finfo(torch.float64).tiny


@contextmanager
def flushed() -> Iterator[None]:
    """Results and arguments that are denormal count as zero, in this thread, meanwhile.

    The threads that torch shares a tensor among have settings of their own: with more than one
    nothing is changed, lest the parts of a tensor be treated differently.
    """
    if torch.get_num_threads() > 1 or are_flushed() or not torch.set_flush_denormal(True):
        yield
        return
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def are_flushed() -> bool:
    """Whether this thread takes denormal numbers for zero."""
    return _LEAST * 0.5 == 0.0
