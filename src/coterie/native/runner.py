"""Kernels compiled on demand, and the one call that runs a table of operations on torch's own threads."""

# mypy: disable-error-code="call-arg"

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import cfunc, njit, types

from coterie.native.layout import BARRIER, COUNTER, FIELDS, KERNEL, NUM_OPS, OPS, THREADS, WAIT
from coterie.native.primitives import FAST, call_barrier, call_kernel, call_parallel, ints

Kernel = Callable[[Any, Any], None]
_PARALLEL = "GOMP_parallel"
_ROW = 8 * FIELDS


@functools.cache
def _compiled(kernel: Kernel) -> Any:
    """The C function of a kernel. It is kept, because nothing else holds the code."""
    return cfunc(types.void(types.int64, types.int64), cache=True, fastmath=FAST["fastmath"])(kernel)


def address(kernel: Kernel) -> int:
    """Where the compiled kernel is; the first call compiles it or reads it from numba's cache on disk."""
    return int(_compiled(kernel).address)


def _operations(context: int) -> None:
    """What each thread does: all operations in turn, sharing the work of each."""
    c = ints(context, 16)
    for index in range(c[NUM_OPS]):
        op = c[OPS] + index * _ROW
        row = ints(op, 3)
        call_kernel(row[KERNEL], context, op)
        if row[BARRIER] != 0 and c[THREADS] > 1:
            call_barrier(c[WAIT])


def _body(context: int) -> None:
    _operations_compiled(context)


_operations_compiled = njit(**FAST)(_operations)


@njit(**FAST)
def _run(context, parallel, body):  # type: ignore[no-untyped-def]
    c = ints(context, 16)
    for index in range(c[NUM_OPS]):
        ints(c[OPS] + index * _ROW, 3)[COUNTER] = 0
    if c[THREADS] > 1:
        call_parallel(parallel, body, context, c[THREADS])
    else:
        _operations_compiled(context)


@functools.cache
def _body_address() -> int:
    return int(_compiled_body().address)


@functools.cache
def _compiled_body() -> Any:
    return cfunc(types.void(types.int64), cache=True)(_body)


@functools.cache
def thread_functions() -> tuple[int, int] | None:
    """Addresses of `GOMP_parallel` and `GOMP_barrier` of torch's OpenMP; None where it has none."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    for path in dict.fromkeys(line.split()[-1] for line in lines if "libgomp" in line):
        try:
            library = ctypes.CDLL(path)
            found = [ctypes.cast(getattr(library, name), ctypes.c_void_p).value
                     for name in (_PARALLEL, "GOMP_barrier")]  # fmt: skip
        except (OSError, AttributeError):
            continue
        if all(found):
            return found[0] or 0, found[1] or 0
    return None


def run(context: int) -> None:
    """Run the operations of the context at this address. Python's lock is released meanwhile."""
    functions = thread_functions()
    _run(context, functions[0] if functions else 0, _body_address())
