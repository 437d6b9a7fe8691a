"""Any optimizer in physical time: its options per second, applied to steps of `dt` seconds.

    lr dt^β,    share kept of every average 1 - (1 - share) dt

With β = 1 the parameters follow a differential equation as dt → 0, with β > 1 they do not move,
with β < 1 they can explode (C. Tallec, PhD thesis, 2019, theorem 5 and appendix A). RMSprop with
lr = 0.1 and alpha = 0 becomes the published lr = 0.1 dt, alpha = 1 - dt.
"""

from __future__ import annotations

import torch

from semigradient.errors import require

_AVERAGES = ("alpha", "momentum", "beta", "beta2")


def per_second(
    optimizer: torch.optim.Optimizer, dt: float, exponent: float = 1.0
) -> torch.optim.Optimizer:
    """Scale the options of a new optimizer, in place; returns it.

    Args:
        optimizer: whose learning rate and averages are meant per second.
        dt: seconds of one step, in (0, 1].
        exponent: β of the learning rate.
    """
    require(0 < dt <= 1, f"dt={dt}: optimizers in physical time accept (0, 1] seconds")
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * dt**exponent
        for name in _AVERAGES:
            # No momentum stays none: it is an absent average, not one that forgets at once.
            absent = group.get(name) is None or (name == "momentum" and group[name] == 0)
            if not absent:
                group[name] = _slower(group[name], dt)
        if "betas" in group:
            group["betas"] = tuple(_slower(share, dt) for share in group["betas"])
    return optimizer


def _slower(share: float, dt: float) -> float:
    return 1 - (1 - share) * dt
