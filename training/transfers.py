"""When the host waits for the device that learns."""

from __future__ import annotations

import torch


def reading_is_free(device: torch.device) -> bool:
    """Whether the host may look at numbers on a device without waiting for it: on the CPU alone.

    Elsewhere operations are queued, and the host runs ahead. What looks at a number, or asks how
    many there are (`nonzero`, `unique`, a mask as an index), waits for all that is queued.
    """
    return device.type == "cpu"
