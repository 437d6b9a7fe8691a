"""Do errors of neighbouring states agree? Variance of their signs in short windows of time.

E. Bengio, PhD thesis, §3.2.3.2, Fig. 3.15: V = 1, 2, 3, … and V = 1, 2, 1, 2, … can have errors of
one size, but in the second an update at any state does harm at its neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from semigradient.diagnostics.derivatives import errors
from semigradient.diagnostics.observer import Findings, View, masked_mean

WINDOW = 5
"""Consecutive states in a window."""


def sign_variance(delta: Tensor) -> Tensor:
    """Variance of the sign of errors (W, windows) inside each window: (windows,).

    With k positive errors out of W, and no zero: 1 - ((2k - W) / W)².
    """
    return delta.sign().var(0, unbiased=False)


def measure(view: View) -> Findings:
    """Mean over windows that do not cross the end of an episode."""
    experience = view.experience
    offsets = torch.arange(WINDOW, device=experience.device)
    index, valid = experience.around(experience.draw(4 * view.samples, view.generator), offsets)
    delta = errors(experience.at(index.flatten())).view_as(index)
    is_complete = valid.all(0)
    return Findings(
        {
            "sign_variance": masked_mean(sign_variance(delta), is_complete, 0),
            "error": masked_mean(delta.abs().flatten(), valid.flatten(), 0),
        }
    )
