"""The two products of attention as LLVM vectors: queries with kept keys, and shares with kept values.

Addresses, byte strides and counts as in `native/vectors.py`; each number is one fixed sum here too. Kept rows
are short, so several heads share the reading of each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from coterie.native.vectors import (
    F32,
    I64,
    LANES,
    LINE,
    SIZES,
    RowAddresses,
    Sums,
    Value,
    add_left,
    at,
    folded,
    load,
    number,
    prefetch,
    splat,
    vector,
)

KEYS = 4  # kept rows that are read together
_AHEAD = 16  # kept rows from the one at work to the one that is asked for
_COLUMNS = 4  # vectors of a weighted sum's row that are summed together
_FLOAT = ir.FloatType()


def _fetch(b: Any, row: Value, step: Value, size: Value) -> None:
    """Ask for the `size` bytes of the row that comes `_AHEAD` rows later."""
    later = b.add(row, b.mul(step, I64(_AHEAD)))
    with cgutils.for_range(b, b.sdiv(b.add(size, I64(LINE - 1)), I64(LINE)), intp=I64) as loop:
        prefetch(b, b.add(later, b.mul(loop.index, I64(LINE))))


def _row_scores(b: Any, kind: int, keys: RowAddresses, q: RowAddresses, width: Value, sums: Sums) -> None:
    """Sums over whole vectors, then over the numbers that are left."""
    vectors = b.sdiv(width, I64(LANES))
    with cgutils.for_range(b, vectors, intp=I64) as loop:
        index = b.mul(loop.index, I64(LANES))
        read = [vector(b, F32, head, index) for head in q.each]
        for s, row in enumerate(keys.each):
            numbers = vector(b, kind, row, index)
            for h, query in enumerate(read):
                sums.add(s, h, numbers, query)
    add_left(b, kind, keys, q, b.mul(vectors, I64(LANES)), width, sums)


def _emit_scores(kind: int, rows: int, heads: int) -> Callable[..., Any]:
    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        q, q_stride, keys, step, count, width, out, out_stride, factor, add = args[3:]
        of_q = RowAddresses(b, q, q_stride, heads)
        sums = Sums(b, rows, heads)
        factors, adds = splat(b, factor, rows), b.icmp_signed("!=", add, I64(0))
        kind_of_scores = ir.VectorType(_FLOAT, rows)
        nothing = ir.Constant(kind_of_scores, [0.0] * rows)
        with cgutils.for_range(b, b.sdiv(count, I64(rows)), intp=I64) as loop:
            first = b.mul(loop.index, I64(rows))
            of_keys = RowAddresses(b, b.add(keys, b.mul(first, step)), step, rows)
            for row in of_keys.each:
                _fetch(b, row, step, b.mul(width, I64(SIZES[kind])))
            sums.clear()
            _row_scores(b, kind, of_keys, of_q, width, sums)
            for h, scores in enumerate(RowAddresses(b, out, out_stride, heads).each):
                total = b.fmul(folded(b, [sums.get(s, h) for s in range(rows)]), factors)
                place = at(b, scores, first, 4)
                before = b.select(adds, load(b, place, kind_of_scores), nothing)
                store = b.store(b.fadd(total, before), b.inttoptr(place, kind_of_scores.as_pointer()))
                store.align = 4
        return context.get_dummy_value()

    return generate


@intrinsic(prefer_literal=True)
def key_scores(
    typing: Any, kind: Any, rows: Any, heads: Any,
    q: Any, q_stride: Any, keys: Any, step: Any, count: Any, width: Any, out: Any, out_stride: Any,
    factor: Any, add: Any,
) -> Any:  # fmt: skip
    """`out[h, s] = factor * q[h] keys[s]`, plus what is there where `add`.

    `kind` of the keys, `rows` and `heads` are literals: `count // rows * rows` keys are read, `rows` at a
    time. q and out are float32.
    """
    literals = [kind.literal_value, rows.literal_value, heads.literal_value]
    signature = types.void(kind, rows, heads, *([types.int64] * 8), types.float32, types.int64)
    return signature, _emit_scores(*literals)


def _columns_sum(
    b: Any, kind: int, a: RowAddresses, v: Value, v_stride: Value, count: Value, column: Value, sums: Sums
) -> None:
    """Sums of one vector of columns or several, from `column` on."""
    sums.clear()
    with cgutils.for_range(b, count, intp=I64) as loop:
        row = b.add(v, b.mul(loop.index, v_stride))
        size = SIZES[kind] * LANES * len(sums.slots)
        _fetch(b, at(b, row, column, SIZES[kind]), v_stride, I64(size))
        shares = [splat(b, number(b, F32, each, loop.index)) for each in a.each]
        for c in range(len(sums.slots)):
            numbers = vector(b, kind, row, b.add(column, I64(c * LANES)))
            for t, share in enumerate(shares):
                sums.add(c, t, share, numbers)


def _store_columns(b: Any, y: RowAddresses, column: Value, sums: Sums) -> None:
    kind = ir.VectorType(_FLOAT, LANES).as_pointer()
    for t, out in enumerate(y.each):
        for c in range(len(sums.slots)):
            place = at(b, out, b.add(column, I64(c * LANES)), 4)
            store = b.store(sums.get(c, t), b.inttoptr(place, kind))
            store.align = 4


def _emit_weighted_sum(kind: int, tokens: int) -> Callable[..., Any]:
    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        a, a_stride, v, v_stride, count, width, y, y_stride = args[2:]
        of_a, of_y = RowAddresses(b, a, a_stride, tokens), RowAddresses(b, y, y_stride, tokens)
        done: Value = I64(0)
        for columns in (_COLUMNS, 1):
            sums, step = Sums(b, columns, tokens), I64(columns * LANES)
            blocks = b.sdiv(b.sub(width, done), step)
            with cgutils.for_range(b, blocks, intp=I64) as loop:
                column = b.add(done, b.mul(loop.index, step))
                _columns_sum(b, kind, of_a, v, v_stride, count, column, sums)
                _store_columns(b, of_y, column, sums)
            done = b.add(done, b.mul(blocks, step))
        single = Sums(b, 1, tokens, _FLOAT)
        with cgutils.for_range(b, b.sub(width, done), intp=I64) as columns:
            column = b.add(done, columns.index)
            single.clear()
            with cgutils.for_range(b, count, intp=I64) as loop:
                value = number(b, kind, b.add(v, b.mul(loop.index, v_stride)), column)
                for t, row in enumerate(of_a.each):
                    single.add(0, t, number(b, F32, row, loop.index), value)
            for t, out in enumerate(of_y.each):
                b.store(single.get(0, t), b.inttoptr(at(b, out, column, 4), _FLOAT.as_pointer()))
        return context.get_dummy_value()

    return generate


@intrinsic
def largest(typing: Any, x: Any, count: Any) -> Any:
    """The largest of `count` float32 numbers, at least one."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        address, count = args
        kind = ir.VectorType(_FLOAT, LANES)
        top = cgutils.alloca_once_value(b, number(b, F32, address, I64(0)))
        tops = cgutils.alloca_once_value(b, splat(b, b.load(top)))

        def keep(slot: Value, x: Value) -> None:
            before = b.load(slot)
            b.store(b.select(b.fcmp_ordered(">", x, before), x, before), slot)

        vectors = b.sdiv(count, I64(LANES))
        with cgutils.for_range(b, vectors, intp=I64) as loop:
            keep(tops, vector(b, F32, address, b.mul(loop.index, I64(LANES))))
        whole = b.mul(vectors, I64(LANES))
        with cgutils.for_range(b, b.sub(count, whole), intp=I64) as loop:
            keep(top, number(b, F32, address, b.add(whole, loop.index)))
        wide = b.load(tops)
        for lane in range(kind.count):
            keep(top, b.extract_element(wide, ir.IntType(32)(lane)))
        return b.load(top)

    return types.float32(types.int64, types.int64), generate


@intrinsic(prefer_literal=True)
def weighted_sum(
    typing: Any, kind: Any, tokens: Any,
    a: Any, a_stride: Any, v: Any, v_stride: Any, count: Any, width: Any, y: Any, y_stride: Any,
) -> Any:  # fmt: skip
    """`y[t, j] = sum_p a[t, p] v[p, j]` over `count` rows of plain numbers of `kind`, `width` columns.

    `kind` and `tokens` are literals; a and y are float32.
    """
    signature = types.void(kind, tokens, *([types.int64] * 8))
    return signature, _emit_weighted_sum(kind.literal_value, tokens.literal_value)
