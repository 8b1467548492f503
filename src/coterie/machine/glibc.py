"""How the C library treats memory that was freed."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_KEEP_BYTES = 2**30


def _function(name: str) -> Any:
    """A function of the C library; None where there is none."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None


def return_freed_memory() -> bool:
    """Give what is freed and still in the process back to the system. Returns whether there was any.

    Between two parts of an operation: what one has freed lies in pieces that the next one does not fit in.
    """
    trim = _function("malloc_trim")
    return trim is not None and bool(trim(0))


def keep_freed_memory() -> bool:
    """Let glibc keep up to 1 GiB of freed memory in the process instead of returning it after every use.

    Each step frees and allocates the same activations. By default every large one is a fresh mapping, whose
    pages the kernel clears again. Returns whether the C library took the setting: it is glibc's own, and
    elsewhere nothing changes.
    """
    mallopt = _function("mallopt")
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _KEEP_BYTES)) and bool(mallopt(_TRIM_THRESHOLD, _KEEP_BYTES))
