"""Kernels compiled on demand, and the one call that runs a table of operations on torch's own threads."""

# mypy: disable-error-code="call-arg"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coterie.jit.compiled import c_function, fast
from coterie.jit.openmp import thread_functions
from coterie.jit.primitives import call_number, ints
from coterie.native.layout import BARRIER, COUNTER, FIELDS, KERNEL, NUM_OPS, OPS, SERIAL, THREADS, WAIT, WHO
from coterie.native.primitives import call_barrier, call_kernel, call_parallel

Kernel = Callable[[Any, Any], None]
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


def run(context: int) -> None:
    """Run the operations of the context at this address. Python's lock is released meanwhile."""
    functions = thread_functions()
    _run(context, functions[0] if functions else 0, int(c_function(_region, 1).address))
