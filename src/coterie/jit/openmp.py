"""The threads of the OpenMP that torch has loaded."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

_NAMES = ("GOMP_parallel", "GOMP_barrier", "omp_get_thread_num")


@functools.cache
def thread_functions() -> tuple[int, ...] | None:
    """Addresses of libgomp's functions for a region, a barrier and a thread's number, in torch's own copy.

    None where torch has another OpenMP.
    """
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    paths = dict.fromkeys(line.split(maxsplit=5)[-1].strip() for line in lines if "libgomp" in line)
    for path in sorted(paths, key=lambda path: "/torch/" not in path):  # other packages may bring another
        try:
            library = ctypes.CDLL(path)
            found = [ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in _NAMES]
        except (OSError, AttributeError):
            continue
        if all(found):
            return tuple(found)
    return None
