"""Kernels compiled on demand, and the one call that runs a table of operations on torch's own threads."""

# mypy: disable-error-code="call-arg"

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coterie.native.compiled import c_function, fast
from coterie.native.layout import BARRIER, COUNTER, FIELDS, KERNEL, NUM_OPS, OPS, SERIAL, THREADS, WAIT, WHO
from coterie.native.primitives import call_barrier, call_kernel, call_number, call_parallel, ints

Kernel = Callable[[Any, Any], None]
_NAMES = ("GOMP_parallel", "GOMP_barrier", "omp_get_thread_num")
_ROW = 8 * FIELDS


def address(kernel: Kernel) -> int:
    """Where the compiled kernel is; the first call compiles it or reads it from numba's cache on disk."""
    return int(c_function(kernel, 2).address)


@fast
def _operations(context):  # type: ignore[no-untyped-def]
    """What each thread does: all operations in turn, sharing the work of each. The first does serial ones."""
    c = ints(context, 16)
    first = c[THREADS] == 1 or call_number(c[WHO]) == 0
    for index in range(c[NUM_OPS]):
        op = c[OPS] + index * _ROW
        row = ints(op, 4)
        if first or row[SERIAL] == 0:
            call_kernel(row[KERNEL], context, op)
        if row[BARRIER] != 0 and c[THREADS] > 1:
            call_barrier(c[WAIT])


def _region(context: int) -> None:
    """What libgomp calls in each thread."""
    _operations(context)


@fast
def _run(context, parallel, region):  # type: ignore[no-untyped-def]
    c = ints(context, 16)
    for index in range(c[NUM_OPS]):
        ints(c[OPS] + index * _ROW, 3)[COUNTER] = 0
    if c[THREADS] > 1:
        call_parallel(parallel, region, context, c[THREADS])
    else:
        _operations(context)


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


def run(context: int) -> None:
    """Run the operations of the context at this address. Python's lock is released meanwhile."""
    functions = thread_functions()
    _run(context, functions[0] if functions else 0, int(c_function(_region, 1).address))
