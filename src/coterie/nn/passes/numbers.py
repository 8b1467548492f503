"""Numbers of either kind in compiled passes, and which rows a thread takes."""

# mypy: disable-error-code="no-untyped-def,call-arg"

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from coterie.jit.compiled import fast
from coterie.jit.primitives import as_bfloat16, call_number, ints, unbits

THREADS, WHO, ROWS, KIND, FIRST = range(5)
BLOCKS = 16  # parts of the rows that are summed up alone, whatever the number of threads


def real(x: Any) -> Any:
    """The float32 of a number as it is stored: float32, or the bits of a bfloat16 (uint16)."""
    raise NotImplementedError


def stored(x: Any, like: Any) -> Any:
    """A float32 as it is stored next to the array `like`."""
    raise NotImplementedError


@overload(real, inline="always")
def _real(x):
    if x == types.uint16:
        return lambda x: unbits(np.int32(x) << np.int32(16))
    return lambda x: x


@overload(stored, inline="always")
def _stored(x, like):
    if like.dtype == types.uint16:
        return lambda x, like: as_bfloat16(x)
    return lambda x, like: np.float32(x)


@fast
def share(context: Any, parts: Any) -> Any:
    """First and last (exclusive) of `parts` pieces of work that this thread takes."""
    c = ints(context, FIRST)
    threads = c[THREADS]
    who = call_number(c[WHO]) if threads > 1 else 0
    return parts * who // threads, parts * (who + 1) // threads
