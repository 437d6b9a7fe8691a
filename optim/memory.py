"""How much memory a device can still give, and how much the forms of zeta take."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from semigradient.errors import UserError
from semigradient.optim.configs import Correction
from semigradient.optim.corrections import Options, chosen_layers, layers_of


def available_memory(device: torch.device) -> int:
    """Return the bytes that can still be allocated on `device`, as well as can be known."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + cached)
    bounds = [_host_memory(), _container_memory()]
    return min(bound for bound in bounds if bound is not None)


def readable(size: float) -> str:
    """Return a number of bytes as text, in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"


def zeta_memory(params: Sequence[Tensor], beta: float, options: Options) -> int:
    """Return the bytes that zeta takes in the form `options.correction`.

    For low-rank: the least that the window can take, with one sample per minibatch and no
    bootstrap; what it does take is only known with the first minibatch, and checked then.
    """
    n = sum(p.numel() for p in params)
    match options.correction:
        case "full" | "layer":
            sizes = [
                sum(params[i].numel() for i in g) for g in chosen_layers(params, options.layers)
            ]
            sizes = [sum(sizes)] if options.correction == "full" else sizes
            outside = n - sum(sizes) if options.rest == "diagonal" else 0
            count = sum(size**2 for size in sizes) + outside
        case "block":
            count = math.ceil(n / options.block_size) * options.block_size**2
        case "diagonal":
            count = n
        case "kronecker":
            count = sum(
                _factors(params[layer[0]], options.factor_size) for layer in layers_of(params)
            )
        case "low-rank":
            window = options.window or math.ceil(round(2 / (1 - beta), 9))
            count = window * sum(2 * p.numel() if p.ndim != 2 else sum(p.shape) for p in params)
    return count * params[0].element_size()


def _factors(weight: Tensor, size: int) -> int:
    """Return the numbers in a layer's two factors, twice: of the prediction and the bootstrap."""
    if weight.ndim < 2:
        return weight.numel()
    widths = math.prod(weight.shape[1:]) + 1, weight.shape[0]
    blocks = [math.ceil(width / (size or width)) for width in widths]
    return 2 * sum(k * math.ceil(w / k) ** 2 for k, w in zip(blocks, widths, strict=True))


def check_memory(params: Sequence[Tensor], beta: float, options: Options) -> None:
    """Raise `UserError`, before any training, if zeta does not fit; it names the forms that do."""
    device, available = params[0].device, available_memory(params[0].device)
    needed = zeta_memory(params, beta, options)
    if needed <= available:
        return
    fitting = []
    for other in get_args(Correction):
        alternative = dataclasses.replace(options, correction=other, layers=0)
        if (size := zeta_memory(params, beta, alternative)) <= available:
            least = "at least " if other == "low-rank" else ""
            fitting.append(f"correction={other} needs {least}{readable(size)}")
    n = sum(p.numel() for p in params)
    raise UserError(
        f"correction={options.correction}: {n} parameters need a matrix of {readable(needed)} "
        f"({needed} bytes), but {device} has {readable(available)} available; "
        f"{', '.join(fitting) or 'no form fits'}"
    )


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
