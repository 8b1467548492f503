"""What kernels are written with, besides `jit.primitives`: a shared counter of work, calls of other kernels.

A kernel is a plain function `(context, op)` of two addresses of int64 fields (`layout.py`). It finds its
memory by address only.
"""

# mypy: disable-error-code="call-arg,attr-defined,var-annotated"

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from coterie.jit.compiled import inline
from coterie.jit.primitives import called, floats, shorts, unbits
from coterie.native.layout import COUNTER

_I32, _I64 = ir.IntType(32), ir.IntType(64)


@intrinsic
def fetch_add(typing: Any, address: Any) -> Any:
    """Add 1 to the int64 at `address`, atomically; returns what was there."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return b.atomic_rmw("add", b.inttoptr(args[0], _I64.as_pointer()), _I64(1), "monotonic")

    return types.int64(types.int64), generate


@intrinsic
def call_kernel(typing: Any, function: Any, context_address: Any, op: Any) -> Any:
    """`function(context, op)` through its address."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        called(b, args[0], ir.VoidType(), [args[1], args[2]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def call_barrier(typing: Any, function: Any) -> Any:
    """`function()` through its address."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        called(b, args[0], ir.VoidType(), [])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def call_parallel(typing: Any, function: Any, body: Any, data: Any, threads: Any) -> Any:
    """libgomp's `GOMP_parallel(body, data, threads, 0)` through its address."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        function, body, data, threads = args
        called(b, function, ir.VoidType(), [body, data, b.trunc(threads, _I32), _I32(0)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), generate


@inline
def take(op: Any) -> Any:
    """The number of the next piece of an operation's work that no thread has taken."""
    return fetch_add(op + 8 * COUNTER)


@inline
def number(address: Any, index: Any, kind: Any) -> Any:
    """Plain number `index` at an address: float32 (kind 0) or bfloat16 (1)."""
    if kind == 0:
        return floats(address, index + 1)[index]
    return unbits(np.int32(shorts(address, index + 1)[index]) << np.int32(16))
