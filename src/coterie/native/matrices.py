"""Kernels of products: of all tokens with one matrix, and of routed rows with the matrices of their experts.

A kernel per kind of weight, so that only those in use are compiled. Legend: T rows, O outputs, I inputs.
"""
# mypy: disable-error-code="no-untyped-def,call-arg"

from __future__ import annotations

from typing import Any

import llvmlite.binding

from coterie.jit.compiled import fast, inline
from coterie.jit.primitives import floats, ints
from coterie.native.dots import dot
from coterie.native.layout import THREADS, TOKENS
from coterie.native.primitives import number, take
from coterie.native.rows import fields, real
from coterie.native.vectors import BF16, F32, INT4, INT4_F32, INT8, INT8_F32

_ROWS = 8  # rows of a matrix that are read together
# Rows of weights that are multiplied with four, two and one rows of x at a time: as many as have their sums
# in registers. With AVX-512 a sum of 16 lanes is one of 32 registers, else it is two of 16 or four of 32.
_HAS_WIDE = bool(llvmlite.binding.get_host_cpu_features().get("avx512f"))
_BY_FOUR, _BY_TWO, _BY_ONE = (4, 4, 8) if _HAS_WIDE else (1, 2, 4)


@inline
def _block(kind, w, w_stride, following, s, s_stride, size, x, x_stride, count, y, y_stride, step, num_rows,
           factor, add):  # fmt: skip
    """Eight rows of weights against all rows of x, up to four at a time."""
    t = 0
    while num_rows - t >= 4:
        for o in range(0, _ROWS, _BY_FOUR):
            dot(kind, _BY_FOUR, 4, w + o * w_stride, w_stride, following, s + o * s_stride, s_stride, size,
                x + t * x_stride, x_stride, count, y + t * y_stride + o * step, y_stride, step, factor,
                add)  # fmt: skip
        t += 4
    while num_rows - t >= 2:
        for o in range(0, _ROWS, _BY_TWO):
            dot(kind, _BY_TWO, 2, w + o * w_stride, w_stride, following, s + o * s_stride, s_stride, size,
                x + t * x_stride, x_stride, count, y + t * y_stride + o * step, y_stride, step, factor,
                add)  # fmt: skip
        t += 2
    while num_rows - t >= 1:
        for o in range(0, _ROWS, _BY_ONE):
            dot(kind, _BY_ONE, 1, w + o * w_stride, w_stride, following, s + o * s_stride, s_stride, size,
                x + t * x_stride, x_stride, count, y + t * y_stride + o * step, y_stride, step, factor,
                add)  # fmt: skip
        t += 1


@inline
def outputs_of(
    kind: Any, w: Any, w_stride: Any, s: Any, s_stride: Any, size: Any, x: Any, x_stride: Any,
    count: Any, y: Any, y_stride: Any, num_rows: Any, low: Any, high: Any, factor: Any, add: Any,
) -> None:  # fmt: skip
    """Outputs [low, high) of all rows.

    For few rows the eight rows of weights that are read together lie an eighth of the range apart: eight
    streams keep the memory busy, where one would leave it waiting. Many rows wait for the processor, and
    neighbouring outputs share the cache lines that they are written to.
    """
    apart = (high - low) // _ROWS
    gap, following = (apart, 1) if num_rows < 4 else (1, _ROWS)
    for i in range(apart):
        o = low + i * following
        _block(kind, w + o * w_stride, gap * w_stride, following * w_stride, s + o * s_stride,
               gap * s_stride, size, x, x_stride, count, y + 4 * o, y_stride, 4 * gap, num_rows, factor,
               add)  # fmt: skip
    for o in range(low + apart * _ROWS, high):
        for t in range(num_rows):
            dot(kind, 1, 1, w + o * w_stride, w_stride, w_stride, s + o * s_stride, s_stride, size,
                x + t * x_stride, x_stride, count, y + t * y_stride + 4 * o, y_stride, 4, factor,
                add)  # fmt: skip


@fast
def _outputs_f32(
    w, w_stride, s, s_stride, size, x, x_stride, count, y, y_stride, num_rows, low, high, factor, add
):
    outputs_of(F32, w, w_stride, s, s_stride, size, x, x_stride, count, y, y_stride, num_rows, low, high,
               factor, add)  # fmt: skip


@fast
def _outputs_bf16(
    w, w_stride, s, s_stride, size, x, x_stride, count, y, y_stride, num_rows, low, high, factor, add
):
    outputs_of(BF16, w, w_stride, s, s_stride, size, x, x_stride, count, y, y_stride, num_rows, low, high,
               factor, add)  # fmt: skip


@fast
def _outputs_int8(
    w, w_stride, s, s_stride, size, x, x_stride, count, y, y_stride, num_rows, low, high, factor, add
):
    outputs_of(INT8, w, w_stride, s, s_stride, size, x, x_stride, count, y, y_stride, num_rows, low, high,
               factor, add)  # fmt: skip


@fast
def _outputs_int8_f32(
    w, w_stride, s, s_stride, size, x, x_stride, count, y, y_stride, num_rows, low, high, factor, add
):
    outputs_of(INT8_F32, w, w_stride, s, s_stride, size, x, x_stride, count, y, y_stride, num_rows, low, high,
               factor, add)  # fmt: skip


@fast
def _outputs_int4(
    w, w_stride, s, s_stride, size, x, x_stride, count, y, y_stride, num_rows, low, high, factor, add
):
    outputs_of(INT4, w, w_stride, s, s_stride, size, x, x_stride, count, y, y_stride, num_rows, low, high,
               factor, add)  # fmt: skip


@fast
def _outputs_int4_f32(
    w, w_stride, s, s_stride, size, x, x_stride, count, y, y_stride, num_rows, low, high, factor, add
):
    outputs_of(INT4_F32, w, w_stride, s, s_stride, size, x, x_stride, count, y, y_stride, num_rows, low, high,
               factor, add)  # fmt: skip


@fast
def _fill(bias, bias_kind, y, y_stride, num_rows, low, high):
    for t in range(num_rows):
        row = floats(y + t * y_stride, high)
        for o in range(low, high):
            row[o] = number(bias, o, bias_kind)


@inline
def piece_size(num_outputs: Any, threads: Any) -> Any:
    """Outputs that a thread takes at a time: a multiple of _ROWS."""
    if threads == 1:
        return num_outputs
    return max(8, (num_outputs // (threads * 6) + _ROWS - 1) // _ROWS * _ROWS)


@inline
def product_with(outputs: Any, context: Any, op: Any) -> None:
    """All rows by one matrix.

    x, stride, I, weight, stride of a row, scales, stride, numbers of a block, O, y, stride, factor, add, bias
    (0: none), its kind.
    """
    f, c = fields(op), ints(context, 16)
    num_outputs, add, bias, factor = f[8], f[12], f[13], real(op, 11)
    piece = piece_size(num_outputs, c[THREADS])
    low = take(op) * piece
    while low < num_outputs:
        high = min(low + piece, num_outputs)
        if bias != 0:
            _fill(bias, f[14], f[9], f[10], c[TOKENS], low, high)
            add = 1
        outputs(f[3], f[4], f[5], f[6], f[7], f[0], f[1], f[2], f[9], f[10], c[TOKENS], low, high,
                 factor, add)  # fmt: skip
        low = take(op) * piece


def product_f32(context: int, op: int) -> None:
    """`y = x W^T` with float32 weights."""
    product_with(_outputs_f32, context, op)


def product_bf16(context: int, op: int) -> None:
    """The same with bfloat16 weights."""
    product_with(_outputs_bf16, context, op)


def product_int8(context: int, op: int) -> None:
    """The same with blocks of 8 bits."""
    product_with(_outputs_int8, context, op)


def product_int8_f32(context: int, op: int) -> None:
    """The same with float32 scales."""
    product_with(_outputs_int8_f32, context, op)


def product_int4(context: int, op: int) -> None:
    """The same with blocks of 4 bits."""
    product_with(_outputs_int4, context, op)


def product_int4_f32(context: int, op: int) -> None:
    """The same with float32 scales."""
    product_with(_outputs_int4_f32, context, op)


@inline
def expert_product_with(outputs: Any, context: Any, op: Any) -> None:
    """Each row by the matrix of its expert.

    As `product_with`, with x and y sorted by expert, and from 15 on: stride of an expert's weights, of its
    scales, of its bias, then addresses of E + 1 starts of experts' rows, of the experts that have any, and of
    their number; a table by expert (0: all) of places among the weights (-1: none).
    """
    f = fields(op)
    num_outputs, add, bias, factor = f[8], f[12], f[13], real(op, 11)
    starts, active, num_active = ints(f[18], 1 << 20), ints(f[19], 1 << 20), ints(f[20], 1)[0]
    piece = piece_size(num_outputs, ints(context, 16)[THREADS])
    pieces = (num_outputs + piece - 1) // piece
    item = take(op)
    while item < num_active * pieces:
        expert, low = active[item // pieces], item % pieces * piece
        high = min(low + piece, num_outputs)
        first, num_rows = starts[expert], starts[expert + 1] - starts[expert]
        x, y = f[0] + first * f[1], f[9] + first * f[10]
        place = expert if f[21] == 0 else ints(f[21], 1 << 20)[expert]
        if bias != 0:
            _fill(bias + expert * f[17], f[14], y, f[10], num_rows, low, high)
            add = 1
        if place >= 0:
            outputs(f[3] + place * f[15], f[4], f[5] + place * f[16], f[6], f[7], x, f[1], f[2], y,
                     f[10], num_rows, low, high, factor, add)  # fmt: skip
        item = take(op)


def experts_f32(context: int, op: int) -> None:
    """Each row by its expert's float32 matrix."""
    expert_product_with(_outputs_f32, context, op)


def experts_bf16(context: int, op: int) -> None:
    """The same with bfloat16 weights."""
    expert_product_with(_outputs_bf16, context, op)


def experts_int8(context: int, op: int) -> None:
    """The same with blocks of 8 bits."""
    expert_product_with(_outputs_int8, context, op)


def experts_int8_f32(context: int, op: int) -> None:
    """The same with float32 scales."""
    expert_product_with(_outputs_int8_f32, context, op)


def experts_int4(context: int, op: int) -> None:
    """The same with blocks of 4 bits."""
    expert_product_with(_outputs_int4, context, op)


def experts_int4_f32(context: int, op: int) -> None:
    """The same with float32 scales."""
    expert_product_with(_outputs_int4_f32, context, op)
