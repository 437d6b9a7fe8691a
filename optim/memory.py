"""How much memory a device can still give, and how much the forms of zeta take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import torch
from torch import Tensor

from semigradient.errors import UserError
from semigradient.optim import promises
from semigradient.optim.forms import FORMS, Form, LowRank


def available_memory(device: torch.device) -> int:
    """Return the bytes that can still be allocated on `device`, as well as can be known."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + cached)
    bounds = [psutil.virtual_memory().available, _container_memory()]
    return min(bound for bound in bounds if bound is not None)


def usable_memory(device: torch.device) -> int:
    """Return the bytes that zeta may take of those: half, the rest is for the temporaries of a
    step, the network and its minibatches, and for other processes. What others were promised and
    have not taken yet is theirs (`optim/promises.py`).
    """
    return max(0, available_memory(device) - promises.of_others(str(device))) // 2


def readable(size: float) -> str:
    """Return a number of bytes as text, in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"


def check_memory(
    params: Sequence[Tensor], beta: float, form: Form, matrices: int = 1, owner: object = None
) -> None:
    """Raise `UserError`, before any training, if zeta does not fit; it names the forms that do.

    `owner` is promised the memory, so that of two runs that start together the second one knows.
    """
    device = params[0].device
    needed = matrices * _bytes(form, params, beta)
    with promises.one_at_a_time():
        usable = usable_memory(device)
        if needed <= usable:
            promises.give(owner, str(device), needed)
            return
    others = {name: matrices * _bytes(make(), params, beta) for name, make in FORMS.items()}
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


def _container_memory(root: Path = Path("/sys/fs/cgroup"), own: Path | None = None) -> int | None:
    """Return what the control groups of this process leave, or None where there is no limit.

    Args:
        root: where they are mounted.
        own: what says which group this process is in.
    """
    own = Path("/proc/self/cgroup") if own is None else own
    bounds = [_left(group) for group in _groups(root, own)]
    return min((bound for bound in bounds if bound is not None), default=None)


def _groups(root: Path, own: Path) -> Iterator[Path]:
    """The groups above and of this process, of version 2 and of version 1's memory controller.

    Within a container, the root is the container's own group, whatever the path says.
    """
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in [*lines, "0::/"]:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers not in ("", "memory"):
            continue
        top = root / controllers
        group = top / path.strip("/")
        yield from (place for place in (group, *group.parents) if place.is_relative_to(top))


def _left(group: Path) -> int | None:
    """Bytes that one group leaves: those of its files that the kernel gives back count as free."""
    limit = _number(group / "memory.max", group / "memory.limit_in_bytes")
    used = _number(group / "memory.current", group / "memory.usage_in_bytes")
    if limit is None or used is None:
        return None
    try:
        lines = (group / "memory.stat").read_text(encoding="utf-8").splitlines()
        stat = dict(line.split() for line in lines)
        cached = int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
    except (OSError, ValueError):
        cached = 0
    return max(0, limit - used + cached)


def _number(*files: Path) -> int | None:
    """The number in the first of these that is there; None for `max`."""
    for file in files:
        try:
            return int(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
    return None
