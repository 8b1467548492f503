"""Kernels of products in whole numbers, and what makes their activations (`native.digits`)."""
# mypy: disable-error-code="no-untyped-def,call-arg"

from __future__ import annotations

from coterie.jit.compiled import fast
from coterie.jit.primitives import ints
from coterie.native.digits import INT4_DIGITS, INT4_F32_DIGITS, INT8_DIGITS, INT8_F32_DIGITS, write_digits
from coterie.native.layout import TOKENS
from coterie.native.matrices import expert_product_with, outputs_of, product_with
from coterie.native.primitives import take
from coterie.native.rows import fields


def digits(context: int, op: int) -> None:
    """x, stride, D, bits, numbers of a block, out, stride, address of a count of rows (0: the tokens)."""
    f = fields(op)
    num_rows = ints(context, 16)[TOKENS] if f[7] == 0 else ints(f[7], 1)[0]
    t = take(op)
    while t < num_rows:
        write_digits(f[0] + t * f[1], f[2], f[3], f[4], f[5] + t * f[6])
        t = take(op)


@fast
def _int8(w, w_stride, s, s_stride, size, x, x_stride, count, y, y_stride, num_rows, low, high, factor, add):
    outputs_of(INT8_DIGITS, w, w_stride, s, s_stride, size, x, x_stride, count, y, y_stride,
               num_rows, low, high, factor, add)  # fmt: skip


@fast
def _int8_f32(
    w, w_stride, s, s_stride, size, x, x_stride, count, y, y_stride, num_rows, low, high, factor, add
):
    outputs_of(INT8_F32_DIGITS, w, w_stride, s, s_stride, size, x, x_stride, count, y, y_stride,
               num_rows, low, high, factor, add)  # fmt: skip


@fast
def _int4(w, w_stride, s, s_stride, size, x, x_stride, count, y, y_stride, num_rows, low, high, factor, add):
    outputs_of(INT4_DIGITS, w, w_stride, s, s_stride, size, x, x_stride, count, y, y_stride,
               num_rows, low, high, factor, add)  # fmt: skip


@fast
def _int4_f32(
    w, w_stride, s, s_stride, size, x, x_stride, count, y, y_stride, num_rows, low, high, factor, add
):
    outputs_of(INT4_F32_DIGITS, w, w_stride, s, s_stride, size, x, x_stride, count, y, y_stride,
               num_rows, low, high, factor, add)  # fmt: skip


def product_int8(context: int, op: int) -> None:
    """`y = x W^T` with blocks of 8 bits, x in digits."""
    product_with(_int8, context, op)


def product_int8_f32(context: int, op: int) -> None:
    """The same with float32 scales."""
    product_with(_int8_f32, context, op)


def product_int4(context: int, op: int) -> None:
    """`y = x W^T` with blocks of 4 bits, x in digits."""
    product_with(_int4, context, op)


def product_int4_f32(context: int, op: int) -> None:
    """The same with float32 scales."""
    product_with(_int4_f32, context, op)


def experts_int8(context: int, op: int) -> None:
    """Each row, in digits, by its expert's blocks of 8 bits."""
    expert_product_with(_int8, context, op)


def experts_int8_f32(context: int, op: int) -> None:
    """The same with float32 scales."""
    expert_product_with(_int8_f32, context, op)


def experts_int4(context: int, op: int) -> None:
    """Each row, in digits, by its expert's blocks of 4 bits."""
    expert_product_with(_int4, context, op)


def experts_int4_f32(context: int, op: int) -> None:
    """The same with float32 scales."""
    expert_product_with(_int4_f32, context, op)
