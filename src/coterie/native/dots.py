"""Products of rows of weights with rows of activations, emitted as LLVM vectors.

Arguments are as in `native/vectors.py`. Every result is one fixed sum: it depends neither on how many rows
are computed together nor on which thread does it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from coterie.native.digits import DIGIT_KINDS, REAL, digit_sums
from coterie.native.vectors import (
    BF16,
    F32,
    I64,
    INT4_F32,
    INT8,
    INT8_F32,
    LANES,
    LINE,
    RowAddresses,
    Sums,
    Value,
    add_left,
    constant,
    load,
    number,
    prefetch,
    splat,
    store_sums,
    vector,
)

_I8, _I32, _FLOAT = ir.IntType(8), ir.IntType(32), ir.FloatType()
_VECTOR, _WIDE = ir.VectorType(_FLOAT, LANES), ir.VectorType(_I32, LANES)


def _fetch_ahead(b: Any, rows: RowAddresses, following: Value, offset: Value) -> None:
    """Ask for the rows that the next call reads, `following` bytes on."""
    for row in rows.each:
        prefetch(b, b.add(b.add(row, following), offset))


def _plain_sums(
    b: Any, kind: int, w: RowAddresses, following: Value, x: RowAddresses, count: Value, sums: Sums
) -> None:
    """Sums over plain numbers: whole cache lines of weights, then those that are left one by one."""
    size = 4 if kind == F32 else 2
    step = LINE // size
    with cgutils.for_range(b, b.sdiv(count, I64(step)), intp=I64) as loop:
        start = b.mul(loop.index, I64(step))
        _fetch_ahead(b, w, following, b.mul(loop.index, I64(LINE)))
        for part in range(0, step, LANES):
            index = b.add(start, I64(part))
            read = [vector(b, F32, token, index) for token in x.each]
            for r, row in enumerate(w.each):
                weights = vector(b, kind, row, index)
                for t, numbers in enumerate(read):
                    sums.add(r, t, weights, numbers)
    add_left(b, kind, w, x, b.mul(b.sdiv(count, I64(step)), I64(step)), count, sums)


def _coded(
    b: Any, kind: int, row: Value, block: Value, size: Value, part: Value
) -> list[tuple[Value, Value]]:
    """32 numbers of a block as two vectors, each with its place in the block."""
    if kind in (INT8, INT8_F32):
        first = b.mul(part, I64(2 * LANES))
        both = []
        for place in (first, b.add(first, I64(LANES))):
            address = b.add(b.add(row, b.mul(block, size)), place)
            codes = b.sext(load(b, address, ir.VectorType(_I8, LANES)), _WIDE)
            both.append((b.sitofp(codes, _VECTOR), place))
        return both
    half = b.lshr(size, I64(1))
    place = b.mul(part, I64(LANES))
    raw = b.zext(load(b, b.add(b.add(row, b.mul(block, half)), place), ir.VectorType(_I8, LANES)), _WIDE)
    both = []
    # A code among the last bits of 2^23 is 2^23 and the code; the high bits are four places up, in 2^19.
    for bits, power in ((15, 23), (240, 19)):
        large = b.or_(b.and_(raw, constant(_WIDE, bits)), constant(_WIDE, (127 + power) << 23))
        both.append(b.fsub(b.bitcast(large, _VECTOR), constant(_VECTOR, 2.0**power + 8)))
    return [(both[0], place), (both[1], b.add(half, place))]


def _coded_sums(
    b: Any,
    kind: int,
    w: RowAddresses,
    following: Value,
    scales: RowAddresses,
    size: Value,
    x: RowAddresses,
    count: Value,
    sums: Sums,
) -> None:
    """Sums over blocks of codes: one for each block, which its scale then multiplies."""
    part_sums = Sums(b, len(w.each), len(x.each))
    code_bytes = size if kind in (INT8, INT8_F32) else b.lshr(size, I64(1))
    with cgutils.for_range(b, b.sdiv(count, size), intp=I64) as blocks:
        block = blocks.index
        part_sums.clear()
        _fetch_ahead(b, w, following, b.mul(block, code_bytes))
        with cgutils.for_range(b, b.sdiv(size, I64(2 * LANES)), intp=I64) as parts:
            for r, row in enumerate(w.each):
                for codes, place in _coded(b, kind, row, block, size, parts.index):
                    index = b.add(b.mul(block, size), place)
                    for t, token in enumerate(x.each):
                        part_sums.add(r, t, codes, vector(b, F32, token, index))
        for r, row in enumerate(scales.each):
            scale = splat(b, number(b, F32 if kind in (INT8_F32, INT4_F32) else BF16, row, block))
            for t in range(len(x.each)):
                sums.add(r, t, part_sums.get(r, t), scale)


def _emit_dot(kind: int, rows: int, tokens: int) -> Callable[..., Any]:
    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        w, w_stride, following, scales, scale_stride, size, x, x_stride, count, y, y_stride, step = args[3:-2]
        sums = Sums(b, rows, tokens, REAL if kind in DIGIT_KINDS else _VECTOR)
        of_w, of_x = RowAddresses(b, w, w_stride, rows), RowAddresses(b, x, x_stride, tokens)
        of_scales = RowAddresses(b, scales, scale_stride, rows)
        if kind in (F32, BF16):
            _plain_sums(b, kind, of_w, following, of_x, count, sums)
        elif kind in DIGIT_KINDS:
            digit_sums(b, *DIGIT_KINDS[kind], of_w, following, of_scales, size, of_x, count, sums)
        else:
            _coded_sums(b, kind, of_w, following, of_scales, size, of_x, count, sums)
        store_sums(b, sums, y, y_stride, step, *args[-2:])
        return context.get_dummy_value()

    return generate


@intrinsic(prefer_literal=True)
def dot(
    typing: Any, kind: Any, rows: Any, tokens: Any,
    w: Any, w_stride: Any, following: Any, scales: Any, scale_stride: Any, size: Any, x: Any, x_stride: Any,
    count: Any, y: Any, y_stride: Any, step: Any, factor: Any, add: Any,
) -> Any:  # fmt: skip
    """`y[t, r] = factor * sum_k w[r, k] x[t, k]`, plus what is there where `add`.

    `kind`, `rows` and `tokens` are literals: R rows of weights of that kind against T rows of float32, or
    of digits.
    `following`: bytes from a row to the one that the next call reads in its place. `size`: numbers of a
    block, a multiple of 32 that divides `count`. y is float32, `y_stride` bytes per t and `step` per r.
    """
    literals = [kind.literal_value, rows.literal_value, tokens.literal_value]
    signature = types.void(kind, rows, tokens, *([types.int64] * 12), types.float32, types.int64)
    return signature, _emit_dot(*literals)
