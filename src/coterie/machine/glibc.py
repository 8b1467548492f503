"""How the C library treats memory that training frees and allocates again at every step."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_KEEP_BYTES = 2**30


def keep_freed_memory() -> bool:
    """Let glibc keep up to 1 GiB of freed memory in the process instead of returning it after every use.

    Each step frees and allocates the same activations. By default every large one is a fresh mapping, whose
    pages the kernel clears again. Returns whether the C library took the setting: it is glibc's own, and
    elsewhere nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _KEEP_BYTES)) and bool(mallopt(_TRIM_THRESHOLD, _KEEP_BYTES))
