"""Settings of a process: device, threads of torch, memory of the C library.

By default glibc may return memory to the system as soon as an update frees it, and fault it in
again page by page in the next. Keeping it makes an outer loop of `agents.games.meva` a seventh
faster.
"""

from __future__ import annotations

import ctypes
import os

import torch

from semigradient.errors import UserError

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # names of <malloc.h>
_KEPT = {_TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 2**24, _MMAP_THRESHOLD: 2**25}


def prepare(threads: int) -> None:
    """Set the number of torch threads, and keep freed memory."""
    torch.set_num_threads(threads)
    keep_memory()


def keep_memory() -> bool:
    """Make glibc keep freed memory; returns whether it does.

    Other C libraries are left alone, and so is glibc where the user has tuned it (MALLOC_…_,
    GLIBC_TUNABLES).
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    try:
        library = ctypes.CDLL(None)
        tuned, _ = library.mallopt, library.gnu_get_libc_version
    except (OSError, AttributeError, TypeError):
        return False
    return all(tuned(name, value) for name, value in _KEPT.items())


def choose_device(name: str, images: bool) -> torch.device:
    """The device called `name`; `UserError` if it is not available."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device='cuda': no CUDA device is available; accepted here: auto, cpu")
    if name == "auto":
        name = "cuda" if images and torch.cuda.is_available() else "cpu"
    return torch.device(name)
