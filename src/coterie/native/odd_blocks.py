"""Products with blocks of codes of any size, for weights that `vectors` cannot read 32 numbers at a time.

The last block of a row may be short: what fills it up is not read. Slower, and exact as the others.
Legend: O outputs, I inputs, b numbers of a block.
"""
# mypy: disable-error-code="no-untyped-def,call-arg"

from __future__ import annotations

import numpy as np

from coterie.jit.compiled import fast, inline
from coterie.jit.primitives import codes_at, floats
from coterie.native.matrices import expert_product_with, product_with
from coterie.native.primitives import number

# How numbers are stored, beyond the kinds of `vectors`: bits of a code, and the type of scales.
ODD_INT8, ODD_INT8_F32, ODD_INT4, ODD_INT4_F32 = range(6, 10)


@fast
def _wide_block(codes, x, count, size):
    """The sum over the first `count` numbers of a block of 8 bit codes."""
    code, total = codes_at(codes, count), np.float32(0)
    for j in range(count):
        total += np.float32(code[j]) * x[j]
    return total


@fast
def _narrow_block(codes, x, count, size):
    """The same with 4 bits: the first half of a block is in the low bits."""
    half = size // 2
    code, total = codes_at(codes, half), np.float32(0)
    for j in range(min(half, count)):
        total += np.float32((code[j] & 15) - 8) * x[j]
    for j in range(half, count):
        total += np.float32(((code[j - half] >> 4) & 15) - 8) * x[j]
    return total


@inline
def _rows(block_sum, code_bytes, scale_kind, w, w_stride, s, s_stride, size, x, x_stride, count, y, y_stride,
          num_rows, low, high, factor, add):  # fmt: skip
    """Outputs [low, high) of all rows: one sum for each block, which its scale then multiplies."""
    blocks = (count + size - 1) // size
    for o in range(low, high):
        for t in range(num_rows):
            total, row = np.float32(0), floats(x + t * x_stride, count)
            for block in range(blocks):
                first = block * size
                part = block_sum(
                    w + o * w_stride + block * code_bytes, row[first:], min(size, count - first), size
                )
                total += part * number(s + o * s_stride, block, scale_kind)
            out = floats(y + t * y_stride, high)
            out[o] = total * factor + (out[o] if add != 0 else np.float32(0))


@fast
def _int8(w, w_stride, s, s_stride, size, x, x_stride, count, y, y_stride, num_rows, low, high, factor, add):
    _rows(_wide_block, size, 1, w, w_stride, s, s_stride, size, x, x_stride, count, y, y_stride, num_rows,
          low, high, factor, add)  # fmt: skip


@fast
def _int8_f32(
    w, w_stride, s, s_stride, size, x, x_stride, count, y, y_stride, num_rows, low, high, factor, add
):
    _rows(_wide_block, size, 0, w, w_stride, s, s_stride, size, x, x_stride, count, y, y_stride, num_rows,
          low, high, factor, add)  # fmt: skip


@fast
def _int4(w, w_stride, s, s_stride, size, x, x_stride, count, y, y_stride, num_rows, low, high, factor, add):
    _rows(_narrow_block, size // 2, 1, w, w_stride, s, s_stride, size, x, x_stride, count, y, y_stride,
          num_rows, low, high, factor, add)  # fmt: skip


@fast
def _int4_f32(
    w, w_stride, s, s_stride, size, x, x_stride, count, y, y_stride, num_rows, low, high, factor, add
):
    _rows(_narrow_block, size // 2, 0, w, w_stride, s, s_stride, size, x, x_stride, count, y, y_stride,
          num_rows, low, high, factor, add)  # fmt: skip


def product_int8(context: int, op: int) -> None:
    """`y = x W^T` with blocks of 8 bits."""
    product_with(_int8, context, op)


def product_int8_f32(context: int, op: int) -> None:
    """The same with float32 scales."""
    product_with(_int8_f32, context, op)


def product_int4(context: int, op: int) -> None:
    """The same with 4 bits."""
    product_with(_int4, context, op)


def product_int4_f32(context: int, op: int) -> None:
    """The same with float32 scales."""
    product_with(_int4_f32, context, op)


def experts_int8(context: int, op: int) -> None:
    """Each row by its expert's matrix in blocks of 8 bits."""
    expert_product_with(_int8, context, op)


def experts_int8_f32(context: int, op: int) -> None:
    """The same with float32 scales."""
    expert_product_with(_int8_f32, context, op)


def experts_int4(context: int, op: int) -> None:
    """The same with 4 bits."""
    expert_product_with(_int4, context, op)


def experts_int4_f32(context: int, op: int) -> None:
    """The same with float32 scales."""
    expert_product_with(_int4_f32, context, op)
