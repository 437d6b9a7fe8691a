"""How much memory a device can still give, and how much the forms of zeta take."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from semigradient.errors import UserError
from semigradient.optim.forms import FORMS, Form, LowRank


def available_memory(device: torch.device) -> int:
    """Return the bytes that can still be allocated on `device`, as well as can be known."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + cached)
    bounds = [_host_memory(), _container_memory()]
    return min(bound for bound in bounds if bound is not None)


def usable_memory(device: torch.device) -> int:
    """Return the bytes that zeta may take of those: half, the rest is for the temporaries of a
    step, the network and its minibatches, and for other processes.
    """
    return available_memory(device) // 2


def readable(size: float) -> str:
    """Return a number of bytes as text, in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"


def check_memory(params: Sequence[Tensor], beta: float, form: Form) -> None:
    """Raise `UserError`, before any training, if zeta does not fit; it names the forms that do."""
    device, usable = params[0].device, usable_memory(params[0].device)
    needed = _bytes(form, params, beta)
    if needed <= usable:
        return
    others = {name: _bytes(make(), params, beta) for name, make in FORMS.items()}
    fitting = [
        f"correction={name} needs {'at least ' if name == LowRank.name else ''}{readable(size)}"
        for name, size in others.items()
        if size <= usable
    ]
    n = sum(p.numel() for p in params)
    raise UserError(
        f"correction={form.name}: {n} parameters need a matrix of {readable(needed)} "
        f"({needed} bytes), but {device} has {readable(usable)} to give; "
        f"{', '.join(fitting) or 'no form fits'}"
    )


def _bytes(form: Form, params: Sequence[Tensor], beta: float) -> int:
    return form.size(params, beta) * params[0].element_size()


def _host_memory() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    # No such file outside Linux: the installed memory is an upper bound.
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _container_memory() -> int | None:
    """Return what the control group (version 2) leaves, or None where there is no limit."""
    root = Path("/sys/fs/cgroup")
    try:
        limit = (root / "memory.max").read_text().strip()
        if limit == "max":
            return None
        used = int((root / "memory.current").read_text())
        stat = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    # Cached file pages count as used but are given back on demand.
    return max(0, int(limit) - used + int(stat.get("inactive_file", 0)))
