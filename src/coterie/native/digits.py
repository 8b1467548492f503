"""Products with weights of 8 and 4 bits in whole numbers, where the processor multiplies bytes (VNNI).

64 numbers of a row of activations become whole multiples of one power of two, each with three digits of base
256. That rounds by at most 2^-23 of the largest of the 64, about as float32 does. Products of digits and
codes are exact whole numbers.
"""

from __future__ import annotations

import functools
from typing import Any

import llvmlite.binding
import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from coterie.native.vectors import (
    BF16,
    F32,
    I64,
    LANES,
    RowAddresses,
    Sums,
    Value,
    fma,
    lanes,
    load,
    number,
    prefetch,
    splat,
    vector,
)

# How numbers are stored, beyond the kinds of `vectors` and `odd_blocks`; bits of a code, what scales are.
INT8_DIGITS, INT8_F32_DIGITS, INT4_DIGITS, INT4_F32_DIGITS = range(10, 14)
DIGIT_KINDS = {
    INT8_DIGITS: (8, BF16), INT8_F32_DIGITS: (8, F32), INT4_DIGITS: (4, BF16), INT4_F32_DIGITS: (4, F32)
}  # fmt: skip
UNIT = 64  # numbers that share a power of two, and that are read together
UNIT_BYTES = 320  # of a unit: three digits of 64 numbers, twice 8 sums, the power of two, room
_DIGITS, _SUMS_AT, _LAST_AT, _POWER_AT = 3, 3 * UNIT, 3 * UNIT + 32, 3 * UNIT + 64
_CODES = UNIT // 2  # bytes of a vector of codes
_I8, _I32, _FLOAT = ir.IntType(8), ir.IntType(32), ir.FloatType()
_BYTES, _WHOLE, REAL = ir.VectorType(_I8, _CODES), ir.VectorType(_I32, 8), ir.VectorType(_FLOAT, 8)
_WIDE, _SMALL = ir.VectorType(_I32, LANES), ir.VectorType(_I8, LANES)


@functools.cache
def supported() -> bool:
    """Whether numba compiles for a processor that multiplies bytes."""
    settings: Any = numba.config
    if settings.CPU_NAME is not None or settings.CPU_FEATURES is not None:
        return False
    features = llvmlite.binding.get_host_cpu_features()
    return bool((features.get("avx512vnni") and features.get("avx512vl")) or features.get("avxvnni"))


def _all(value: int, kind: Any) -> Value:
    return ir.Constant(kind, [value] * kind.count)


def _store(b: Any, value: Value, address: Value) -> None:
    b.store(value, b.inttoptr(address, value.type.as_pointer())).align = 1


def _called(b: Any, name: str, result: Any, *given: Value) -> Value:
    kind = ir.FunctionType(result, [each.type for each in given])
    return b.call(cgutils.get_or_insert_function(b.module, kind, name), given)


def _power(b: Any, parts: list[Value]) -> tuple[Value, Value]:
    """The power of two of a unit, not a number where one of its numbers is none or infinite; its inverse."""
    top: Value = _all(0, _WIDE)
    for part in parts:
        bits = b.and_(b.bitcast(part, _WIDE), _all(0x7FFFFFFF, _WIDE))
        top = b.select(b.icmp_unsigned(">", bits, top), bits, top)
    top = _called(b, f"llvm.vector.reduce.umax.v{LANES}i32", _I32, top)
    # The largest becomes less than 2^23 - 2^15, so that its first digit is at most 127.
    exponent = b.lshr(b.add(top, _I32(0x18000)), _I32(23))
    exponent = b.select(b.icmp_unsigned("<", exponent, _I32(30)), _I32(30), exponent)
    finite = b.icmp_unsigned("<", top, _I32(0x7F800000))
    power = b.select(finite, b.shl(b.sub(exponent, _I32(22)), _I32(23)), _I32(0x7FC00000))
    inverse = b.shl(b.sub(_I32(276), b.select(finite, exponent, _I32(127))), _I32(23))
    return b.bitcast(power, _FLOAT), b.bitcast(inverse, _FLOAT)


def _lane_sums(b: Any, parts: list[Value]) -> Value:
    """What numbers that share a lane of products sum to: four neighbours here and four half a unit on."""
    low, high = b.add(parts[0], parts[2]), b.add(parts[1], parts[3])
    for _ in range(2):
        each = [lanes(list(range(first, 2 * LANES, 2))) for first in (0, 1)]
        low = b.add(*(b.shuffle_vector(low, high, chosen) for chosen in each))
        high = ir.Constant(low.type, ir.Undefined)
    return b.shuffle_vector(low, low, lanes(list(range(8))))


def _emit_unit(b: Any, x: Value, places: list[Value], wide: Value, out: Value) -> None:
    """Write a unit: 16 numbers from each of four places, in the order of their codes."""
    parts = [vector(b, F32, x, place) for place in places]
    power, inverse = _power(b, parts)
    whole, first, last = [], [], []
    for index, part in enumerate(parts):
        scaled = _called(b, f"llvm.rint.v{LANES}f32", part.type, b.fmul(part, splat(b, inverse)))
        left = _called(b, f"llvm.fptosi.sat.v{LANES}i32.v{LANES}f32", _WIDE, scaled)
        whole.append(left)
        for digit in reversed(range(_DIGITS)):
            small = b.trunc(left, _SMALL)
            _store(b, small, b.add(out, I64(digit * UNIT + index * LANES)))
            left = b.ashr(b.add(left, _all(128, _WIDE)), _all(8, _WIDE))
            if digit == _DIGITS - 1:
                first.append(left)
                last.append(b.sext(small, _WIDE))
    # Codes are read with 128 or 8 added: what that adds to a lane is taken away again.
    eights = b.mul(_lane_sums(b, whole), _all(-8, _WHOLE))
    both = [b.mul(_lane_sums(b, each), _all(-128, _WHOLE)) for each in (first, last)]
    _store(b, b.select(wide, both[0], eights), b.add(out, I64(_SUMS_AT)))
    _store(b, both[1], b.add(out, I64(_LAST_AT)))
    b.store(power, b.inttoptr(b.add(out, I64(_POWER_AT)), _FLOAT.as_pointer()))


@intrinsic
def write_digits(typing: Any, x: Any, count: Any, bits: Any, size: Any, out: Any) -> Any:
    """The units of a row of `count` float32 numbers.

    For weights of 8 or 4 `bits` in blocks of `size`, a multiple of 64.
    """

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        x, count, bits, size, out = args
        wide = b.icmp_signed("==", bits, I64(8))
        # Codes of 4 bits have the other half of the block in the high bits.
        half = b.select(wide, I64(UNIT // 2), b.lshr(size, I64(1)))
        step = b.select(wide, I64(UNIT), I64(UNIT // 2))
        parts = b.sdiv(size, I64(UNIT))
        with cgutils.for_range(b, b.sdiv(count, I64(UNIT)), intp=I64) as loop:
            block, part = b.sdiv(loop.index, parts), b.srem(loop.index, parts)
            first = b.add(b.mul(block, size), b.mul(part, step))
            low = [first, b.add(first, I64(LANES))]
            places = [*low, *(b.add(place, half) for place in low)]
            _emit_unit(b, x, places, wide, b.add(out, b.mul(loop.index, I64(UNIT_BYTES))))
        return context.get_dummy_value()

    return types.void(*([types.int64] * 5)), generate


def _codes(b: Any, bits: int, address: Value) -> tuple[Value, Value]:
    """The codes of a unit, from 0 on, as two vectors of bytes."""
    first = load(b, address, _BYTES)
    if bits == 4:
        return b.and_(first, _all(15, _BYTES)), b.lshr(first, _all(4, _BYTES))
    second = load(b, b.add(address, I64(_CODES)), _BYTES)
    return b.xor(first, _all(-128, _BYTES)), b.xor(second, _all(-128, _BYTES))


class _Unit:
    """A unit of activations in registers."""

    def __init__(self, b: Any, bits: int, at: Value) -> None:
        places = [b.add(at, I64(place)) for place in range(0, _DIGITS * UNIT, _CODES)]
        digits = [load(b, place, _WHOLE) for place in places]
        self.pairs = list(zip(digits[::2], digits[1::2], strict=True))
        nothing = _all(0, _WHOLE)
        sums = load(b, b.add(at, I64(_SUMS_AT)), _WHOLE)
        if bits == 4:
            self.begin = [nothing, nothing, sums]
        else:
            self.begin = [nothing, sums, load(b, b.add(at, I64(_LAST_AT)), _WHOLE)]
        self.power = splat(b, number(b, F32, at, I64(_POWER_AT // 4)), 8)

    def product(self, b: Any, bits: int, codes: tuple[Value, Value]) -> Value:
        """The sums of codes times numbers: eight, each rounded once or twice at most."""
        first, second, third = (
            self._sums(b, codes, pair, begin) for pair, begin in zip(self.pairs, self.begin, strict=True)
        )
        eight = _all(8, _WHOLE)
        both = b.add(b.shl(first, eight), second)
        if bits == 4:
            return b.sitofp(b.add(b.shl(both, eight), third), REAL)
        # Those of 8 bits need more than 32.
        return fma(b, b.sitofp(both, REAL), ir.Constant(REAL, [256.0] * 8), b.sitofp(third, REAL))

    @staticmethod
    def _sums(b: Any, codes: tuple[Value, Value], digits: tuple[Value, Value], begin: Value) -> Value:
        for of_codes, of_digits in zip(codes, digits, strict=True):
            given = begin, b.bitcast(of_codes, _WHOLE), of_digits
            begin = _called(b, "llvm.x86.avx512.vpdpbusd.256", _WHOLE, *given)
        return begin


def digit_sums(
    b: Any,
    bits: int,
    scale_kind: int,
    w: RowAddresses,
    following: Value,
    scales: RowAddresses,
    size: Value,
    x: RowAddresses,
    count: Value,
    sums: Sums,
) -> None:
    """Sums over units: a real number for each of eight whole ones."""
    parts = b.sdiv(size, I64(UNIT))
    with cgutils.for_range(b, b.sdiv(count, size), intp=I64) as blocks:
        factors = [splat(b, number(b, scale_kind, row, blocks.index), 8) for row in scales.each]
        with cgutils.for_range(b, parts, intp=I64) as loop:
            index = b.add(b.mul(blocks.index, parts), loop.index)
            offset = b.mul(index, I64(UNIT * bits // 8))
            codes = []
            for row in w.each:
                prefetch(b, b.add(b.add(row, following), offset))
                codes.append(_codes(b, bits, b.add(row, offset)))
            for t, row in enumerate(x.each):
                unit = _Unit(b, bits, b.add(row, b.mul(index, I64(UNIT_BYTES))))
                for r, factor in enumerate(factors):
                    sums.add(r, t, unit.product(b, bits, codes[r]), b.fmul(factor, unit.power))
