"""What compiled functions are written with: views of addresses, bits of numbers, calls through addresses."""

# mypy: disable-error-code="call-arg,attr-defined,var-annotated"

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from coterie.jit.compiled import fast, inline

_I32, _I64 = ir.IntType(32), ir.IntType(64)


@intrinsic
def pointer(typing: Any, address: Any) -> Any:
    """A void pointer of an address."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return b.inttoptr(args[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), generate


@intrinsic
def bits(typing: Any, x: Any) -> Any:
    """The int32 with the bits of a float32."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return b.bitcast(args[0], _I32)

    return types.int32(types.float32), generate


@intrinsic
def unbits(typing: Any, x: Any) -> Any:
    """The float32 with the bits of an int32."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return b.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), generate


def called(b: Any, address: Any, result: Any, arguments: list[Any]) -> Any:
    """The call of the function at an address, as an intrinsic emits it."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return b.call(b.inttoptr(address, kind.as_pointer()), arguments)


@intrinsic
def call_number(typing: Any, function: Any) -> Any:
    """`int function()` through its address, as int64."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return b.sext(called(b, args[0], _I32, []), _I64)

    return types.int64(types.int64), generate


@inline
def ints(address: Any, count: Any) -> Any:
    """`count` int64 at an address."""
    return carray(pointer(address), count, dtype=np.int64)


@inline
def floats(address: Any, count: Any) -> Any:
    """`count` float32 at an address."""
    return carray(pointer(address), count, dtype=np.float32)


@inline
def doubles(address: Any, count: Any) -> Any:
    """`count` float64 at an address."""
    return carray(pointer(address), count, dtype=np.float64)


@inline
def shorts(address: Any, count: Any) -> Any:
    """`count` uint16 at an address: bfloat16 numbers."""
    return carray(pointer(address), count, dtype=np.uint16)


@inline
def as_bfloat16(x: Any) -> Any:
    """A float32 rounded to bfloat16, as uint16."""
    raw = bits(x)
    return np.uint16((raw + np.int32(0x7FFF) + ((raw >> np.int32(16)) & np.int32(1))) >> np.int32(16))


@fast
def exponential(x: Any) -> Any:
    """exp of a float32 in a form that LLVM turns into vectors; relative error about 1e-7 (Cephes' expf)."""
    x = max(min(x, np.float32(88.0)), np.float32(-87.0))
    n = np.float32(math.floor(x * np.float32(1.44269504) + np.float32(0.5)))
    r = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + np.float32(1.0)
    return p * unbits(np.int32((np.int32(n) + np.int32(127)) << np.int32(23)))


@inline
def codes_at(address: Any, count: Any) -> Any:
    """`count` int8 at an address."""
    return carray(pointer(address), count, dtype=np.int8)
